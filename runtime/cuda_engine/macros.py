"""Sources of the kernels at both ends of the engine: a model's numbers as definitions in front of files of kernels/."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Unsigned", "define", "kernel_source"]

_FOLDER = Path(__file__).parent / "kernels"


class Unsigned(int):
    """An integer that is `unsigned` in the source."""


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
