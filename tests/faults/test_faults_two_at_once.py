"""Two runs of a command on one folder or file: the second says so and changes nothing, the first ends as if alone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.faults.spawner import Process, Spawner
from tests.faults.writers import WRITERS, Writer, inputs

_PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("two")
    inputs(made)
    return made


@pytest.fixture(scope="module")
def spawner(folder: Path, commands: Spawner) -> Spawner:
    commands.warm(WRITERS[0].module, WRITERS[0].command_line(folder))
    shutil.rmtree(folder / "out")
    return commands


def _stopped_with_its_lock(writer: Writer, folder: Path, spawner: Spawner) -> Process:
    """The command, stopped when it has locked something, as the operating system confirms."""
    process = spawner.start(writer.module, writer.command_line(folder), folder, folder / "first.log", stops_locked=True)
    end = time.monotonic() + _PATIENCE_S
    while (state := _state(process.pid)) not in "TZ" and time.monotonic() < end:
        time.sleep(0.01)
    held = any(line.split()[4] == str(process.pid) for line in Path("/proc/locks").read_text().splitlines())
    if state == "T" and held:
        return process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    raise AssertionError(f"it never locked anything: {process.output()}")


def _state(pid: int) -> str:
    """R, S, T (stopped), Z (ended)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
def test_one_wins(writer: Writer, folder: Path, spawner: Spawner) -> None:
    out = folder / writer.out
    first = _stopped_with_its_lock(writer, folder, spawner)
    try:
        second = spawner.start(writer.module, writer.command_line(folder), folder, folder / "second.log")
        assert second.wait() == 2, second.output()
        assert str(out) in second.output()
        assert "Traceback" not in second.output()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0, first.output()
    written = {path.name for path in (folder / "out").rglob("*")}
    assert written
    assert not [name for name in written if name.startswith(".")]
    shutil.rmtree(folder / "out")
    if writer.slow:
        return
    third = spawner.start(writer.module, writer.command_line(folder), folder, folder / "third.log")
    assert third.wait() == 0, third.output()
    assert {path.name for path in (folder / "out").rglob("*")} == written, "the second run has taken nothing away"
    shutil.rmtree(folder / "out")
