"""The written part of a page: nothing around it changes, and a page without a place for it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import DataError
from base.page_marks import between_marks, marks, rewrite_page

BEGIN, END = marks("table")


def test_only_what_stands_between_the_marks_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    rewrite_page(page, "table", r"| \1 |" + "\n")
    assert page.read_text(encoding="utf-8") == f"# Title\n\n{BEGIN}\n\n| \\1 |\n\n{END}\n\nafter\n"


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN} {END}"])
def test_a_page_without_one_place_is_refused(page: str) -> None:
    with pytest.raises(DataError, match=r"'page.md' has no place for the table: .*table: begin.*table: end.* once"):
        between_marks(page, "table", "text", file="page.md")
