"""Values that no reader expects where a good file has another: the same for every format that has values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

__all__ = ["Pairs", "Raw", "hostile_value"]


@dataclass(frozen=True)
class Raw:
    """Text that is written as it stands: what a format can say and no value of Python can."""

    text: str


@dataclass(frozen=True)
class Pairs:
    """A dictionary as written, in which a key may stand twice."""

    items: tuple[tuple[Any, Any], ...]


# fmt: off
_NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 7, 255, 65536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**12,
    10**30, 10**308, 10**400, -(10**400), Raw("9" * 4299), Raw("9" * 4301), Raw("-" + "1" * 20_000),
    0.0, -0.0, 0.5, -1.5, 5e-324, 1e-300, 1e30, 1e38, 3.5e38, 1.7e308, -1e308,
    math.nan, math.inf, -math.inf, Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("1e-999"), Raw("0x10"), Raw("007"),
)
_TEXTS: tuple[Any, ...] = (
    "", " ", "\n", "\0", "a\0b", "lidar/\0.bin", "a" * 70_000, "\u202e", "\x1b[2J\x1b[31m", "é" * 300, "😀", "\ufeff",
    "\ud800", "a\udfffb", "nan", "inf", "-1", "1e5", "true", "null", "None", "%s%n{0}{}", "9" * 5000, "1_000",
    "../../../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem", "..", ".", "/", "~",
    "a/" * 3000, "file:///etc/passwd", "${oc.env:HOME}", "{{ 7 * 7 }}", "__import__('os').system('touch RAN')",
    "<script>", "'; --", "2001-01-01", "12:34:56", "=cmd|' /C calc'!A0", "!!python/object/apply:os.system", "*a", "<<",
)
_CONTAINERS: tuple[Any, ...] = (
    [], {}, [[]], [{}], {"": None}, [None], [[], []], {"a": {"a": {"a": {}}}}, [0] * 3, [0.0] * 7, [math.nan] * 7,
    ["a", "a"], [1, "a", None], list(range(70)), [0] * 20_000, {str(i): i for i in range(3000)}, {"__class__": "os"},
    [[0.0] * 4] * 4, [[math.inf] * 4] * 4, [1e308] * 3, [[1], [1, 2]], [True, False], [10**400] * 3,
    Raw("[" * 65 + "]" * 65), Raw("[" * 5000 + "]" * 5000), Raw('{"a":' * 3000 + "1" + "}" * 3000), Raw("[" * 200_000),
)
# fmt: on
_WORDS: tuple[Any, ...] = (None, True, False)


def hostile_value(rng: Random) -> Any:
    """One of them; numbers and texts most often."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(_NUMBERS)
    if kind < 0.7:
        return rng.choice(_TEXTS)
    if kind < 0.92:
        return rng.choice(_CONTAINERS)
    return rng.choice(_WORDS)
