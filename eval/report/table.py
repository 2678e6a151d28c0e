"""Tables of the report: cells that say how they are shown, and the numbers that stand in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.statistics import Difference

__all__ = ["DASH", "Cell", "Table", "ap", "file_size", "fixed", "interval_text", "number", "signed", "verdict"]

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """What stands in a cell of a table.

    Attributes:
        text: Plain text, or what a template has made.
        css: Classes of the page's style sheet; `num` is right-aligned.
        style: Inline style.
        kind: "" for the text as it is, "code" or "b" for that element, "verdict" for a badge.
    """

    text: str
    css: str = ""
    style: str = ""
    kind: str = ""

    @property
    def is_number(self) -> bool:
        """Whether it is shown as a number."""
        return "num" in self.css.split()


class Table:
    """A table that scrolls sideways on a narrow screen.

    Attributes:
        columns: (name, whether its first cell is a number).
        rows: Cells.
        css: Class of the table; where it has one, cells show their column's name on a narrow screen.
        last_is_sum: Whether the last row sums the others up.
    """

    def __init__(
        self, head: Sequence[str], rows: Sequence[Sequence[str | Cell]], last_is_sum: bool = False, css: str = ""
    ) -> None:
        self.rows = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
        first = self.rows[0] if self.rows else [Cell("")] * len(head)
        self.columns = [(name, cell.is_number) for name, cell in zip(head, first, strict=True)]
        self.last_is_sum = last_is_sum
        self.css = css


def number(value: float | None, digits: int = 3, unit: str = "") -> Cell:
    """A right-aligned number with that many significant digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return Cell(DASH, "num")
    return Cell(("0" if value == 0 else f"{value:.{digits}g}") + unit, "num")


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
    return Cell(status, kind="verdict")


def file_size(count: int) -> Cell:
    """Bytes in a readable unit."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return Cell(f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}", "num")


def signed(value: float, decimals: int = 3) -> str:
    """With its sign, 0 without one; a dash where there is none."""
    if math.isnan(value):
        return DASH
    return f"{value:+.{decimals}f}" if round(value, decimals) else f"{0:.{decimals}f}"


def interval_text(item: Difference, confidence: float) -> str:
    """ "[-0.012, +0.003]" of a difference, or nothing where no interval was computed."""
    if math.isnan(item.low):
        return ""
    return f"[{signed(item.low, 4)}, {signed(item.high, 4)}] at {confidence:.0%}"
