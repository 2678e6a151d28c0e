"""Numbers on command lines, within limits: `parser.add_argument("--frames", type=whole_number(1, 10_000))`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from base.messages import shown

__all__ = ["DEFAULT_POINTS", "FRAMES", "MAX_POINTS", "POINTS", "SEED", "THREADS", "number", "whole_number"]

DEFAULT_POINTS = 2_000_000
"""Of a cloud at most: as many as Autoware's node takes; ten joined sweeps of 32 beams have 271,156."""
MAX_POINTS = 1 << 24
"""The most that anybody can ask for: what kernels number points by."""


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from `minimum` to `maximum`. Anything else ends the command with code 2."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also of more than 4,300 digits
            raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{shown(value)} must be {minimum} to {maximum}")
        return value

    return parse


def number(minimum: float, maximum: float) -> Callable[[str], float]:
    """A type for argparse: a finite number from `minimum` to `maximum`. Anything else ends the command with code 2."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shown(text)} is no number") from None
        if not (math.isfinite(value) and minimum <= value <= maximum):
            raise argparse.ArgumentTypeError(f"{value:g} must be {minimum:g} to {maximum:g}")
        return value

    return parse


FRAMES = whole_number(-1, 2**31 - 1)
"""How many frames; -1 is all of them."""
SEED = whole_number(0, 2**32 - 1)
"""What numpy and torch take as a seed."""
THREADS = whole_number(1, 1024)
"""Threads or processes."""
POINTS = whole_number(1, MAX_POINTS)
"""Points of a cloud."""
