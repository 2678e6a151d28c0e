"""Shards of a target of tests: each file is in one of them, and options are in all."""

from __future__ import annotations

import pytest

from bazel.private.pytest_main import of_shard


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_file_is_in_one_shard(count: int) -> None:
    files = [f"tests/x/test_{name}.py" for name in "cabed"]
    shards = [of_shard(["-x", *files], index, count) for index in range(count)]
    assert all(shard[0] == "-x" for shard in shards)
    assert sorted(file for shard in shards for file in shard[1:]) == sorted(files)
    assert all(len(shard) > 1 for shard in shards)


def test_a_shard_too_many_has_no_file() -> None:
    assert of_shard(["-x", "tests/x/test_a.py"], 1, 2) == ["-x"]
