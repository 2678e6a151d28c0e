"""Tables of text: padded, aligned, never broken."""

from __future__ import annotations

import pytest

from base.tables import markdown_table, text_table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    long = "a reason that no terminal of 80 columns shows in one line, " * 3
    text = text_table(("step", "ms", "reason"), [("export", "1.5", ""), ("run", "120.0", long)], right=(1,))
    assert text.splitlines() == [
        "step       ms  reason",
        "──────  ─────  " + "─" * 60,
        "export    1.5",
        "run     120.0  " + long.rstrip(),
    ]


def test_what_a_cell_holds_is_no_markup() -> None:
    assert "[INT8] [/] [red]x" in text_table(("a",), [("[INT8] [/] [red]x",)])


def test_no_rows() -> None:
    assert text_table(("a", "bc"), []) == "a  bc\n─  ──"


def test_a_row_with_another_number_of_cells_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        text_table(("a", "b"), [("1",)])


def test_markdown() -> None:
    assert markdown_table(("a", "b"), [("1", "2")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
