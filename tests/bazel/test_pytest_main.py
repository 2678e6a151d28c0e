"""Shards of a target of tests: each file is in one of them, and options are in all."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

import pytest

from bazel.private.pytest_main import Imports, of_shard


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_file_is_in_one_shard(count: int) -> None:
    files = [f"tests/x/test_{name}.py" for name in "cabed"]
    shards = [of_shard(["-x", *files], index, count) for index in range(count)]
    assert all(shard[0] == "-x" for shard in shards)
    assert sorted(file for shard in shards for file in shard[1:]) == sorted(files)
    assert all(len(shard) > 1 for shard in shards)


def test_a_shard_too_many_has_no_file() -> None:
    assert of_shard(["-x", "tests/x/test_a.py"], 1, 2) == ["-x"]


def test_the_search_for_garbage_is_told_once_of_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(gc, "freeze", lambda: told.append(len(sys.modules)))
    plugin = Imports()
    for _ in range(3):
        plugin.pytest_runtest_setup()
    assert len(told) == 1
    for index in range(50):
        monkeypatch.setitem(sys.modules, f"imported_late_{index}", ModuleType("late"))
    for _ in range(3):
        plugin.pytest_runtest_setup()
    assert told == [told[0], told[0] + 50]
