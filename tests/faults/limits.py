"""How much is tried in the regular run, and what must come of it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.trial import Parser, try_parser

__all__ = ["MUTATIONS", "check"]

MUTATIONS = int(os.environ.get("CENTERPOINT_FAULT_MUTATIONS", "2000"))
"""Mutated files of each parser; a slower one reads its share of them (`Parser.weight`)."""


def check(parser: Parser, folder: Path) -> None:
    """Reads mutated files; each must be taken or refused as it should be.

    Raises:
        AssertionError: one was not; the message has its number, for `python -m tests.faults --reproduce`.
    """
    count = max(1, int(MUTATIONS * parser.weight))
    summary = try_parser(parser, folder, count)
    assert summary.num_failures == 0, "\n".join(
        [f"{number} {kind}" for kind, number in summary.outcomes.items()] + [str(item) for item in summary.failures[:9]]
    )
    assert summary.inputs == count
    assert summary.outcomes["refused"] >= count // 20, "mutations that are taken for good ones try nothing"
