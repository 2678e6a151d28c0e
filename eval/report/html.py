"""The few HTML pieces that the sections share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["Cell", "ap", "file_size", "number", "section", "table", "verdict"]

DASH = "–"


class Cell(str):
    """HTML that is already escaped, with the class and style of its table cell."""

    css: str
    style: str

    def __new__(cls, html: str, css: str = "", style: str = "") -> Cell:
        cell = super().__new__(cls, html)
        cell.css, cell.style = css, style
        return cell


def number(value: float | None, digits: int = 3, unit: str = "") -> Cell:
    """A right-aligned number with that many significant digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return Cell(DASH, "num")
    text = "0" if value == 0 else f"{value:.{digits}g}"
    return Cell(escape(text + unit), "num")


def fixed(value: float | None, decimals: int = 1, unit: str = "") -> Cell:
    """A right-aligned number with that many decimals."""
    return Cell(DASH if value is None or math.isnan(value) else f"{value:,.{decimals}f}{unit}", "num")


def ap(value: float, heat: bool = True) -> Cell:
    """An average precision, shaded by its value; a dash for a class without objects."""
    if math.isnan(value):
        return Cell(DASH, "num")
    return Cell(f"{value:.3f}", "num heat" if heat else "num", f"--v:{max(value, 0.0):.3f}" if heat else "")


def verdict(status: str) -> Cell:
    """PASSED, FAILED, SKIPPED or the verdict of a comparison as a badge."""
    return Cell(f'<span class="verdict {escape(status)}">{escape(status)}</span>')


def file_size(count: int) -> Cell:
    """Bytes in a readable unit."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return Cell(f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}", "num")


def _cell(value: str, name: str = "") -> str:
    """A cell; `name` is shown before a number where a narrow screen hides the head."""
    if not isinstance(value, Cell):
        return f"<td>{escape(value)}</td>"
    css = f' class="{value.css}"' if value.css else ""
    style = f' style="{value.style}"' if value.style else ""
    label = f' data-name="{escape(name)}"' if name and "num" in value.css and value else ""
    return f"<td{css}{style}{label}>{value}</td>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], last_is_sum: bool = False, css: str = "") -> str:
    """A table that scrolls sideways on a narrow screen; plain strings are escaped, `Cell`s are HTML."""
    first = rows[0] if rows else [""] * len(head)
    columns = "".join(
        f"<th{' class=num' if isinstance(cell, Cell) and 'num' in cell.css else ''}>{escape(name)}</th>"
        for name, cell in zip(head, first, strict=True)
    )
    body = "".join(
        f"<tr{' class=sum' if last_is_sum and index == len(rows) - 1 else ''}>"
        f"{''.join(_cell(cell, name if css else '') for cell, name in zip(row, head, strict=True))}</tr>"
        for index, row in enumerate(rows)
    )
    kind = f' class="{css}"' if css else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def section(title: str, body: str, anchor: str) -> str:
    """A titled block of the page."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>'
