"""Runs that are stopped at a random moment: nothing half, mixed, left behind or still running.

CENTERPOINT_FAULT_KILLS sets how many runs of a deployment are stopped (20).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import samples
from tests.faults.kills import Deployment, Tally, kill_bundles, kill_deployments
from tests.faults.spawner import Spawner

KILLS = int(os.environ.get("CENTERPOINT_FAULT_KILLS", "20"))
_PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, commands: Spawner) -> Deployment:
    return Deployment(tmp_path_factory.mktemp("kills"), commands)


def _report(tally: Tally) -> str:
    return "\n".join([*(f"{count} {kind}" for kind, count in sorted(tally.counts.items())), *tally.wrong])


def test_a_deployment_that_is_stopped(deployment: Deployment) -> None:
    tally = Tally()
    kill_deployments(deployment, KILLS, tally)
    assert not tally.wrong, _report(tally)
    assert sum(count for kind, count in tally.counts.items() if kind.startswith("signals")) == KILLS
    # Moments are random, but most lie within the run.
    assert tally.counts["runs that were stopped"] > KILLS // 2, _report(tally)
    assert any(kind.startswith("folders: mixed") for kind in tally.counts), _report(tally)


def test_a_folder_that_is_replaced(deployment: Deployment) -> None:
    """A bundle is one of the two that were made, never a part or a mixture of them."""
    tally = Tally()
    kill_bundles(deployment, KILLS, tally)
    assert not tally.wrong, _report(tally)
    assert tally.counts["runs that were stopped"] > KILLS // 4, _report(tally)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_command_as_it_is_typed(number: signal.Signals, deployment: Deployment, tmp_path: Path) -> None:
    """While the builder of engines runs; a terminal's signal for `python -m deploy.export` in its own process."""
    arguments = deployment.arguments("both", deployment.checkpoints[0], tmp_path / "work")
    log = tmp_path / "log"
    pid, wait = (_typed if number == signal.SIGINT else _forked)(deployment, arguments, log)
    end = time.monotonic() + _PATIENCE_S
    while "build engines" not in log.read_text() and time.monotonic() < end:
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z", log.read_text()
        time.sleep(0.01)
    os.kill(pid, number)
    assert wait() == 128 + number, log.read_text()
    said = log.read_text()
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    hidden = {path.name for path in (tmp_path / "work").rglob(".*")}
    assert hidden == set()
    shutil.rmtree(tmp_path / "work")


def _typed(_: Deployment, arguments: list[str], log: Path) -> tuple[int, Callable[[], int]]:
    path = os.pathsep.join([str(samples.REPOSITORY), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("BUILD_WORKING_DIRECTORY", None)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.export", *arguments],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # A shell starts what it puts into the background with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return process.pid, process.wait


def _forked(deployment: Deployment, arguments: list[str], log: Path) -> tuple[int, Callable[[], int]]:
    log.touch()
    process = deployment.spawner.start("deploy.export", arguments, log.parent, log)
    return process.pid, process.wait
