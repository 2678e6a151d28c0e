"""The part of a page that a command writes: between two comments, `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""

from __future__ import annotations

import re
from pathlib import Path

from base.errors import DataError
from base.files import atomic_path

__all__ = ["between_marks", "marks", "rewrite_page"]


def marks(name: str) -> tuple[str, str]:
    """The comments before and behind a part."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def between_marks(page: str, name: str, text: str, *, file: str) -> str:
    """`page` with a text between its marks.

    Args:
        page: Markdown.
        name: Of the part.
        text: What stands there from now on.
        file: Of the page, for the message.

    Raises:
        DataError: the page has not both marks, once.
    """
    begin, end = marks(name)
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    changed, found = re.subn(pattern, lambda _: f"{begin}\n\n{text.rstrip()}\n\n{end}", page, flags=re.DOTALL)
    if found != 1:
        raise DataError(f"'{file}' has no place for the table: it needs the lines '{begin}' and '{end}' once")
    return changed


def rewrite_page(path: Path, name: str, text: str) -> None:
    """Puts a text between the marks of a page. Errors as for `between_marks`."""
    changed = between_marks(path.read_text(encoding="utf-8"), name, text, file=str(path))
    with atomic_path(path) as temporary:
        temporary.write_text(changed, encoding="utf-8")
