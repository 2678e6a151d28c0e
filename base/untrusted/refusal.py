"""Why a file is refused."""

from __future__ import annotations

__all__ = ["Refused", "kind", "shown"]

_LONGEST = 80


class Refused(Exception):  # noqa: N818 - caught inside this package, where the file's name is added
    """What is wrong with a file's content, without the file's name."""


def shown(text: str) -> str:
    """A text of the file, fit for a message: printable and short."""
    printable = text if text.isprintable() else ascii(text)[1:-1]
    return printable if len(printable) <= _LONGEST else f"{printable[:_LONGEST]}…"


def kind(value: object) -> str:
    """What a value is, for a message."""
    return f"a value of type {type(value).__name__}"
