"""One parent of commands for all tests of a process: its imports are most of what it costs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.kills import MODULES
from tests.faults.spawner import Spawner


@pytest.fixture(scope="session")
def commands() -> Iterator[Spawner]:
    with Spawner(MODULES, {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}) as spawner:
        yield spawner
