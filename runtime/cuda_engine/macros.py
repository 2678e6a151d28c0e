"""Sources of the kernels: one typed value in Python, defined by name in front of the files of kernels/."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Unsigned", "Words", "define", "definitions", "kernel_source"]

_FOLDER = Path(__file__).parent / "kernels"


class Unsigned(int):
    """An integer that is `unsigned` in the source."""


@dataclass(frozen=True)
class Words:
    """Words of 32 bits in a small block of device memory, by name: `PREFIX_NAME` is a word's index in the source.

    Attributes:
        prefix: In upper case.
        names: In the order in which they lie.
    """

    prefix: str
    names: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the block."""
        return len(self.names) * 4

    @property
    def definitions(self) -> dict[str, int]:
        """`PREFIX_NAME` -> index, and `NUM_PREFIX` -> how many there are."""
        indices = {f"{self.prefix}_{name.upper()}": index for index, name in enumerate(self.names)}
        return {**indices, f"NUM_{self.prefix}": len(self.names)}


def definitions(*parts: Any) -> dict[str, object]:
    """Definitions of dataclasses, whose fields are macros in upper case, and of `Words`.

    Raises:
        ValueError: two of them define one macro.
    """
    found: dict[str, object] = {}
    for part in parts:
        if isinstance(part, Words):
            new: dict[str, object] = {**part.definitions}
        else:
            new = {field.name.upper(): getattr(part, field.name) for field in fields(part)}
        twice = sorted(set(new) & set(found))
        if twice:
            raise ValueError(f"{twice} are defined twice")
        found |= new
    return found


def kernel_source(macros: Mapping[str, object], *files: str) -> str:
    """The definitions and then the files, as one translation unit."""
    lines = [f"#define {name} {define(value)}\n" for name, value in macros.items()]
    return "".join([*lines, *map(_text, files)])


def define(value: object) -> str:
    """A number as a C++ expression of the same value: float32 and float64 to the last bit, booleans as 0 and 1.

    Raises:
        TypeError: the value is of another type; a Python float is a double.
    """
    if isinstance(value, Unsigned):
        return f"{int(value)}u"
    if isinstance(value, bool | np.bool_ | int | np.integer):
        return str(int(value))
    if isinstance(value, np.float32):
        return f"({_hexadecimal(float(value))}f)"
    if isinstance(value, float):
        return f"({_hexadecimal(value)})"
    raise TypeError(f"{value!r} of type {type(value).__name__} has no definition")


def _hexadecimal(value: float) -> str:
    if not np.isfinite(value):
        raise TypeError(f"{value} is no number that a source can hold")
    return value.hex()


@cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
