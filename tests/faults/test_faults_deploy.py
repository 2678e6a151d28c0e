"""Mutated files of deployments: each is taken, or refused with a message that names a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.limits import check
from tests.faults.parsers_deploy import PARSERS
from tests.faults.trial import Parser


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_mutated_files(parser: Parser, tmp_path: Path) -> None:
    check(parser, tmp_path)
