"""Signed 8-bit codes: -128 to 127, symmetric, `value = code * scale`; the one place that says what an amax means."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

__all__ = ["INT8_MAX", "INT8_MIN", "amax_of_scale", "scale_of_amax"]

INT8_MIN, INT8_MAX = -128, 127


class _Scalable(Protocol):
    """A number, an array or a tensor."""

    def __truediv__(self, other: int, /) -> Self: ...
    def __mul__(self, other: int, /) -> Self: ...


T = TypeVar("T", bound=_Scalable)


def scale_of_amax(amax: T) -> T:
    """Scale of the tensor whose magnitude `amax` becomes code 127."""
    return amax / INT8_MAX


def amax_of_scale(scale: T) -> T:
    """The magnitude that becomes code 127."""
    return scale * INT8_MAX
