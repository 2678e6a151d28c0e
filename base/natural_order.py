"""Names of files in the order that people count in: `2.bin` before `10.bin`."""

from __future__ import annotations

import re

__all__ = ["natural_order"]

_NUMBER = re.compile("([0-9]+)")


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """A key to sort by: runs of digits are compared as numbers, the rest as text; of equal ones the text decides.

    Names whose numbers have leading zeros stand as in the order of text.
    """
    # Text and numbers take turns, text first: what is compared is of one kind.
    parts = _NUMBER.split(name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name
