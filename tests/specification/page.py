"""Reads the fenced blocks out of the specification's page."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGE", "Block", "read_blocks"]

PAGE = Path(__file__).parents[1] / "data" / "specification" / "page.txt"

_FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*) *")
_HEADING = re.compile(r"#{1,6} (?P<text>.+)")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        key: Its heading and, from the second under it on, its number: "QAT", "QAT #2". A heading that occurs twice on
            the page counts on.
        language: After the fence; empty where there is none.
        text: What stands between the fences, without their indentation.
        line: Of the page, from 1.
    """

    key: str
    language: str
    text: str
    line: int


def read_blocks(path: Path = PAGE) -> list[Block]:
    """Every fenced block of a page, in order.

    Raises:
        ValueError: a fence is not closed.
    """
    blocks: list[Block] = []
    seen: dict[str, int] = {}
    heading, fence, first, body = "", None, 0, list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if fence is None:
            if found := _HEADING.fullmatch(line):
                heading = found["text"].strip()
            elif found := _FENCE.fullmatch(line):
                fence, first, body = found, number, []
        elif line.strip() == "```":
            seen[heading] = seen.get(heading, 0) + 1
            key = heading if seen[heading] == 1 else f"{heading} #{seen[heading]}"
            blocks.append(Block(key, fence["language"], textwrap.dedent("\n".join(body)) + "\n", first))
            fence = None
        else:
            body.append(line)
    if fence is not None:
        raise ValueError(f"{path}: the fence in line {first} is not closed")
    return blocks
