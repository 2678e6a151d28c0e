"""Shares of some work that several machines do at once: "2/4" is the second of four."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from base.messages import shown

__all__ = ["SHARE", "WHOLE", "Share"]

_MOST = 1024


@dataclass(frozen=True)
class Share:
    """One of `of` shares: of anything that is numbered from 0, the numbers `number - 1`, `number - 1 + of`, …

    Neighbours go to different shares, so that their cost is even. The shares 1 … `of` are all numbers, each once.

    Attributes:
        number: 1 … `of`.
        of: How many shares there are.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"there is no share {self.number} of {self.of}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def indices(self, total: int) -> range:
        """The numbers below `total` that are this share's; none where there are more shares than numbers."""
        return range(self.number - 1, total, self.of)


WHOLE = Share()
"""All of it."""


def _share(text: str) -> Share:
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= _MOST:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no part of a whole: give K/N, K from 1 to N, such as 2/4")
    return Share(int(match[1]), int(match[2]))


SHARE = _share
"""A type for argparse: `--part 2/4`. Anything else ends the command with code 2."""
