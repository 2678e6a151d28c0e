"""Tables of text: padded columns for a terminal and a log, Markdown for a page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

__all__ = ["markdown_table", "text_table"]

_LONGEST_RULE = 60


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """Columns padded to their widest cell, below a rule; a line is never broken, so that a log can be searched.

    Args:
        header: Names of the columns.
        rows: As many cells each.
        right: Columns that are aligned to the right: numbers.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("─" * min(width, _LONGEST_RULE) for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
