"""How other packages put sections of their own into the report."""

from __future__ import annotations

import re
from dataclasses import dataclass

from eval.report.table import Cell, Table
from eval.report.templating import render, trusted

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
        rows: Its rows: plain text, or cells.
    """

    title: str
    anchor: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str | Cell, ...], ...] = ()

    def __post_init__(self) -> None:
        if not _ANCHOR.fullmatch(self.anchor):
            raise ValueError(f"anchor '{self.anchor}' of section '{self.title}' needs the form 'int8-sensitivity'")
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"section '{self.title}': row {row} does not fit the columns {self.head}")


def render_section(item: ReportSection) -> str:
    """The section as HTML."""
    figures = [
        {"markup": trusted(figure.markup), "caption": figure.caption, "wide": figure.wide} for figure in item.figures
    ]
    return render(
        "section.html",
        title=item.title,
        anchor=item.anchor,
        paragraphs=[part for part in item.text.split("\n\n") if part.strip()],
        figures=figures,
        table=Table(item.head, item.rows) if item.head else None,
    )
