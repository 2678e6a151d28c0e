"""Entry point of every `pytest_test` target: pytest with Bazel's folders, report file, filter and shards."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

NO_TESTS_COLLECTED = 5


class ShardPlugin:
    """Keeps every n-th test file of this target, n = number of shards."""

    def __init__(self, index: int, count: int) -> None:
        self.index = index
        self.count = count

    def pytest_ignore_collect(self, collection_path: Path, config: object) -> bool | None:
        """pytest's hook; None leaves the decision to others."""
        del config
        files = sorted(argument for argument in sys.argv[1:] if argument.endswith(".py"))
        mine = {os.path.abspath(name) for name in files[self.index :: self.count]}
        if collection_path.suffix == ".py" and collection_path.name.startswith("test_"):
            return True if str(collection_path) not in mine else None
        return None


def main() -> int:
    """Runs pytest on the files named on the command line."""
    scratch = Path(os.environ["TEST_TMPDIR"])
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    # A test that writes to the user's home would not be repeatable; matplotlib and numba keep caches there.
    os.environ.update(HOME=str(home), MPLCONFIGDIR=str(home), NUMBA_CACHE_DIR=str(home), MPLBACKEND="Agg")
    # torch and mmdet3d make a million objects that stay: looking for garbage among them is a seventh of a test.
    gc.set_threshold(50_000, 10, 10)
    import pytest

    arguments = ["--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir=.", f"--basetemp={scratch / 'pytest'}"]
    arguments += [f"--junitxml={os.environ['XML_OUTPUT_FILE']}", "--durations=10"]
    if expression := os.environ.get("TESTBRIDGE_TEST_ONLY"):
        arguments += ["-k", expression]
    plugins: list[object] = []
    shards = int(os.environ.get("TEST_TOTAL_SHARDS", "1"))
    if shards > 1:
        Path(os.environ["TEST_SHARD_STATUS_FILE"]).touch()
        plugins.append(ShardPlugin(int(os.environ["TEST_SHARD_INDEX"]), shards))
    code = int(pytest.main([*arguments, *sys.argv[1:]], plugins=plugins))
    return 0 if shards > 1 and code == NO_TESTS_COLLECTED else code


if __name__ == "__main__":
    sys.exit(main())
