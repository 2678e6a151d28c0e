"""The toy detector for every test of this folder."""

from __future__ import annotations

import pytest

from tests.eval.toy_detector import Toy


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()
