"""How other packages put sections of their own into the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from eval.report.html import section, table

__all__ = ["Figure", "ReportSection", "render_section"]

# What would run a program or fetch something when the page is opened. The name of an XML namespace fetches nothing.
_ACTIVE = re.compile(
    r"<\s*(script|iframe|object|embed|link|base|meta)\b|<[^>]*\son[a-z]+\s*=|javascript:|@import"
    r"|(?<!xmlns=\")(?<!xmlns:xlink=\")(?<![\w:])(https?:)?//\w",
    re.IGNORECASE,
)
_PNG_DATA = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]*")
_ANCHOR = re.compile(r"[a-z][a-z0-9-]*")
_MAX_FIGURE_BYTES = 500_000


@dataclass(frozen=True)
class Figure:
    """A picture in the page.

    Attributes:
        markup: Inline SVG or HTML, as `eval.report.plots` makes it; placed as it is, so its texts must be escaped. It
            may use the classes of the page's style sheet. Scripts, event handlers and addresses are refused.
        caption: Plain text below it.
        wide: Whether it needs the full width; narrow figures stand side by side on a desktop.
    """

    markup: str
    caption: str = ""
    wide: bool = False

    def __post_init__(self) -> None:
        found = _ACTIVE.search(_PNG_DATA.sub("", self.markup))
        if found:
            raise ValueError(f"figure '{self.caption}' holds '{found.group(0)}'; the report loads and runs nothing")
        if len(self.markup.encode()) > _MAX_FIGURE_BYTES:
            raise ValueError(
                f"figure '{self.caption}' has {len(self.markup.encode())} bytes; at most {_MAX_FIGURE_BYTES} fit the "
                "report's 5 MB: show fewer points, or a PNG"
            )


@dataclass(frozen=True)
class ReportSection:
    """A section of the report, below verification and accuracy.

    Attributes:
        title: Heading, plain text.
        anchor: Identifier in the page: lower case letters, digits and hyphens.
        text: Plain text; an empty line begins a new paragraph.
        figures: Pictures, in order.
        head: Names of the columns of a table below them; empty for no table.
        rows: Its rows: plain text, or `eval.report.html.Cell`.
    """

    title: str
    anchor: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not _ANCHOR.fullmatch(self.anchor):
            raise ValueError(f"anchor '{self.anchor}' of section '{self.title}' needs the form 'int8-sensitivity'")
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"section '{self.title}': row {row} does not fit the columns {self.head}")


def render_section(item: ReportSection) -> str:
    """The section as HTML."""
    body = "".join(f'<p class="soft small">{escape(part)}</p>' for part in item.text.split("\n\n") if part.strip())
    body += _figures(item.figures)
    if item.head:
        body += table(item.head, item.rows)
    return section(item.title, body, item.anchor)


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    parts = "".join(
        f"<figure{' class=wide' if figure.wide else ''}>{figure.markup}"
        f"{f'<figcaption>{escape(figure.caption)}</figcaption>' if figure.caption else ''}</figure>"
        for figure in figures
    )
    return f'<div class="charts two">{parts}</div>'
