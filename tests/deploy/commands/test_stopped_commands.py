"""A deployment that is asked to end: at once, in order, and with a word about what is there."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.base.forked_torchrun import Forked

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment

# Stops in the middle of the second file, half of its bytes written, and waits there.
HALF = """
import pathlib, time
from base.command import run_main
from deploy.export import main
whole = pathlib.Path.write_bytes
def half(self, data):
    if "pts_backbone_neck_head" not in self.name:
        return whole(self, data)
    whole(self, data[: len(data) // 2])
    print("half", flush=True)
    time.sleep(600)
pathlib.Path.write_bytes = half
run_main(lambda: main({options!r}))
"""


def copied_and_stopped(code: str, folder: Path, number: signal.Signals) -> tuple[int, str]:
    """Exit code and messages of a copy of the test's process, which has imported what the command needs.

    `tests/faults` stops commands as they are typed.
    """

    def run() -> int:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        exec(code, {"__name__": "__main__"})
        return 0

    process = Forked(run, folder)
    process.wait_for("half\n")
    process.send_signal(number)
    done = process.ended(60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_in_the_middle_of_a_file(deployment: Deployment, tmp_path: Path, number: signal.Signals) -> None:
    work_dir = tmp_path / "out"
    options = [
        "--mode=onnx",
        f"--work-dir={work_dir}",
        "--log-level=ERROR",
        "--num-samples=1",
        "--num-verify-samples=1",
    ]
    options += [f"--model-config={deployment.model_config}", f"--checkpoint={deployment.checkpoint}"]
    code = HALF.format(options=[*options, f"--data-root={deployment.data_root}"])
    code_of, error = copied_and_stopped(code, tmp_path, number)
    assert code_of == 128 + number
    assert "Traceback" not in error
    lines = error.splitlines()
    assert f"stopped by {number.name}: finished files are whole and were kept, unfinished ones were removed." in lines
    (kept,) = (line for line in lines if "has of this run" in line)
    assert "onnx/pts_voxel_encoder.onnx" in kept
    assert "pts_backbone_neck_head" not in kept
    assert [path.name for path in (work_dir / "onnx").iterdir()] == ["pts_voxel_encoder.onnx"]
    assert not list(work_dir.rglob(".*"))
    steps = json.loads((work_dir / "results.json").read_text())["steps"]
    assert (steps[-1]["name"], steps[-1]["status"]) == ("export ONNX", "FAILED")
    assert number.name in steps[-1]["reason"]
