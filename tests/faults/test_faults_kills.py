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
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import samples
from tests.faults.kills import MODULES, Deployment, Tally, kill_bundles, kill_deployments
from tests.faults.spawner import Spawner

KILLS = int(os.environ.get("CENTERPOINT_FAULT_KILLS", "20"))
_PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Spawner(MODULES, {**os.environ, "OMP_NUM_THREADS": "1"}) as spawner:
        yield Deployment(tmp_path_factory.mktemp("kills"), spawner)


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
    """`python -m deploy.export` in a process of its own, while the builder of engines runs."""
    path = os.pathsep.join([str(samples.REPOSITORY), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("BUILD_WORKING_DIRECTORY", None)
    arguments = deployment.arguments("both", deployment.checkpoints[0], tmp_path / "work")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.export", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # A shell starts what it puts into the background with SIGINT ignored.
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        )
    end = time.monotonic() + _PATIENCE_S
    while "build engines" not in (tmp_path / "log").read_text() and time.monotonic() < end:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    os.kill(process.pid, number)
    assert process.wait() == 128 + number, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    hidden = {path.name for path in (tmp_path / "work").rglob(".*")}
    assert hidden == set()
    shutil.rmtree(tmp_path / "work")
