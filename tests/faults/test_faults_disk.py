"""A disk without room: every command says so and ends with 2, and what was whole before is whole after.

The disk is a file system of a few megabytes in memory, in a mount namespace of its own. Where the machine allows none,
the test is skipped with what the machine says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.writers import WRITERS

_SIZE_MB = 40
_NAMESPACE = ("unshare", "--mount", "--propagation=private")
_AS_ROOT = () if os.getuid() == 0 else ("--user", "--map-root-user")
_MOUNT = f'mount -t tmpfs -o size={_SIZE_MB}m tmpfs "$0" && exec "$@"'


def _why_impossible(folder: Path) -> str:
    """Why no file system can be mounted here; empty where one can."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "unshare or mount is missing"
    folder.mkdir()
    tried = subprocess.run(
        [*_NAMESPACE, *_AS_ROOT, "sh", "-c", _MOUNT, str(folder), "true"], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip() or f"exit code {tried.returncode}" if tried.returncode else ""


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    reason = _why_impossible(tmp_path / "tried")
    if reason:
        pytest.skip(f"no tmpfs can be mounted here: {reason}")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [*_NAMESPACE, *_AS_ROOT, "sh", "-c", _MOUNT, str(disk), sys.executable, "-m", "tests.faults.full_disk"]
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            [*command, str(disk), str(tmp_path / "answer.json")], stdout=log, stderr=subprocess.STDOUT, check=False
        )
    assert done.returncode == 0, (tmp_path / "log").read_text()[-4000:]
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert len(answer) == len(WRITERS)
    wrong = [f"{name}: {text}" for name, text in answer.items() if text]
    assert not wrong, "\n".join(wrong)
