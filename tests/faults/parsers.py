"""Every reader of a file that a user can hand in."""

from __future__ import annotations

from tests.faults import parsers_datasets, parsers_deploy, parsers_models
from tests.faults.trial import Parser

__all__ = ["PARSERS", "named"]

PARSERS: tuple[Parser, ...] = (*parsers_datasets.PARSERS, *parsers_models.PARSERS, *parsers_deploy.PARSERS)


def named(text: str) -> tuple[Parser, ...]:
    """Those whose names hold the text; the one of that name alone, where there is one."""
    exact = tuple(parser for parser in PARSERS if text == parser.name)
    return exact or tuple(parser for parser in PARSERS if text in parser.name)
