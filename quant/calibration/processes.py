"""Shares of frames in processes of their own, whose messages come back as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from base import children

__all__ = ["in_processes"]

S = TypeVar("S")


def in_processes(work: Callable[[S], Iterator[Any]], shares: Sequence[S]) -> Iterator[Any]:
    """`base.children.in_processes` over frames."""
    return children.in_processes(work, shares, "frames")
