"""Values, places and names as a message may show them: short and printable, whatever is in the file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["plain_lines", "printable", "shown", "shown_file", "shown_place"]

_MAX_TEXT = 60
_MAX_PATH = 300
_MAX_ITEMS = 4
_MAX_DEPTH = 2
# Python itself refuses to write out integers of more than 4,300 digits; a message needs far fewer.
_MAX_INTEGER_BITS = 128


def printable(text: str, limit: int = _MAX_PATH) -> str:
    """`text` with escapes in place of control characters, line breaks and lone surrogates; cut in the middle."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}…{text[-half:]}"
    return _escaped(text)


def plain_lines(text: str) -> str:
    """Lines of text with escapes in place of other control characters, whatever names of files are in it.

    A terminal obeys some of those: it would move, hide or colour what is around them.
    """
    return text if text.isprintable() else "\n".join(map(_escaped, text.split("\n")))


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def shown_file(path: str | os.PathLike[str]) -> str:
    """A path in quotes."""
    return f"'{printable(str(path))}'"


def shown(value: Any) -> str:
    """A value of a file: at most a line, however large it is, and no object's own `__repr__`."""
    return _shown(value, _MAX_DEPTH)


def _shown(value: Any, depth: int) -> str:
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        if value.bit_length() <= _MAX_INTEGER_BITS:
            return repr(int(value))
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        if len(value) <= _MAX_TEXT:
            return repr(str(value))
        return f"{value[:_MAX_TEXT]!r}… ({len(value)} characters)"
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return _container(
            "{}", (f"{_shown(k, 0)}: {_shown(v, depth - 1)}" for k, v in value.items()), len(value), depth
        )
    if isinstance(value, list | tuple | set | frozenset):
        return _container("[]", (_shown(item, depth - 1) for item in value), len(value), depth)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"an array of shape {shape} and type {dtype}"
    return f"a {type(value).__name__}"


def _container(brackets: str, items: Iterable[str], count: int, depth: int) -> str:
    opening, closing = brackets[0], brackets[1]
    if depth <= 0 and count:
        return f"{opening}…{closing}"
    parts = [item for item, _ in zip(items, range(_MAX_ITEMS), strict=False)]
    if count > len(parts):
        parts.append(f"… {count} in all")
    return f"{opening}{', '.join(parts)}{closing}"


def shown_place(keys: Sequence[Any]) -> str:
    """Where in a document: `data_list[3].instances[0].bbox_3d[2]`; empty for the document itself."""
    out = ""
    for key in keys:
        if isinstance(key, str) and key.isidentifier() and key.isascii() and len(key) <= _MAX_TEXT:
            out += f".{key}" if out else key
        else:
            out += f"[{shown(key)}]"
    return out
