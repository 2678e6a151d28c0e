"""Entry point of every `pytest_test` target: pytest with Bazel's folders, report file, filter and shards."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

NO_TESTS_COLLECTED = 5


def of_shard(arguments: Sequence[str], index: int, count: int) -> list[str]:
    """Of pytest's arguments, options and every `count`-th test file, from number `index` on."""
    files = sorted(argument for argument in arguments if argument.endswith(".py"))
    others = set(files) - set(files[index::count])
    return [argument for argument in arguments if argument not in others]


class Imports:
    """A plugin of pytest: takes what was imported, a million objects that stay, out of the search for garbage.

    mmdet3d asks for a whole search whenever it opens a dataset, pytest for several at its end.
    """

    _SOME = 20

    def __init__(self) -> None:
        self._modules = 0

    def pytest_runtest_setup(self) -> None:
        """Before a test's fixtures, and so after what the one before it imported late."""
        if len(sys.modules) > self._modules + self._SOME:
            self._modules = len(sys.modules)
            gc.freeze()


def main() -> int:
    """Runs pytest on the files named on the command line."""
    scratch = Path(os.environ["TEST_TMPDIR"])
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    # A test that writes to the user's home would not be repeatable; matplotlib and numba keep caches there.
    os.environ.update(HOME=str(home), MPLCONFIGDIR=str(home), NUMBA_CACHE_DIR=str(home), MPLBACKEND="Agg")
    # Looking for garbage among a million objects is a seventh of a test.
    gc.set_threshold(50_000, 10, 10)
    import pytest

    arguments = ["--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir=.", f"--basetemp={scratch / 'pytest'}"]
    arguments += [f"--junitxml={os.environ['XML_OUTPUT_FILE']}", "--durations=10"]
    if expression := os.environ.get("TESTBRIDGE_TEST_ONLY"):
        arguments += ["-k", expression]
    given, shards = sys.argv[1:], int(os.environ.get("TEST_TOTAL_SHARDS", "1"))
    if shards > 1:
        Path(os.environ["TEST_SHARD_STATUS_FILE"]).touch()
        given = of_shard(given, int(os.environ["TEST_SHARD_INDEX"]), shards)
        if not any(argument.endswith(".py") for argument in given):  # pytest would look for files by itself
            return 0
    code = int(pytest.main([*arguments, *given], plugins=[Imports()]))
    # The whole run is as long as the sum of these over the machine's cores, whatever else is running on it.
    own, children = sum(os.times()[:2]), sum(os.times()[2:4])
    sys.stdout.write(f"{own + children:.1f} s of CPU time, {children:.1f} s of it in processes that tests started\n")
    # A filter may leave one of several shards without a test.
    return 0 if shards > 1 and code == NO_TESTS_COLLECTED else code


if __name__ == "__main__":
    sys.exit(main())
