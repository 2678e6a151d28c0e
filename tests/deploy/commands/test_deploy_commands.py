"""The commands as a user types them: every mode, exit codes, what is left in the work folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from base.files import sha256_file
from tests.base.forked_torchrun import Forked, run_forked

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Command, Deployment

COMPONENTS = ("pts_voxel_encoder", "pts_backbone_neck_head")
Both = tuple[Path, subprocess.CompletedProcess[str]]
HEADS = ["pillar_features", "heatmap", "reg", "height", "dim", "rot", "vel"]


@pytest.fixture(scope="module")
def both(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Folder of a whole run of `deploy.export --mode=both`, and the finished process."""
    folder = tmp_path_factory.mktemp("both")
    return folder / "out", command(folder, "--mode=both")


def results_of(work_dir: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((work_dir / "results.json").read_text())
    return results


def test_both_makes_everything_and_says_so(both: Both) -> None:
    work_dir, done = both
    assert done.returncode == 0, done.stderr
    for name in COMPONENTS:
        assert (work_dir / "onnx" / f"{name}.onnx").stat().st_size > 1000
        assert (work_dir / "tensorrt" / f"{name}.engine").stat().st_size > 1000
    status = {step["name"]: step["status"] for step in results_of(work_dir)["steps"]}
    assert status["export ONNX"] == status["build engines"] == status["verify onnx against pytorch"] == "PASSED"
    assert status["evaluate pytorch"] == status["evaluate onnx"] == "PASSED"
    assert "pytorch fp32" in done.stdout
    assert "onnx fp32" in done.stdout
    assert str(work_dir / "report.html") in done.stdout
    assert "Traceback" not in done.stderr


def test_results_hold_every_comparison_and_time(both: Both) -> None:
    results = results_of(both[0])
    verification = results["verifications"][0]
    assert [output["comparison"]["name"] for output in verification["outputs"]] == HEADS
    assert verification["num_frames"] == 3
    assert verification["boxes"]["matched"] > 0, "boxes are compared, not their absence"
    scores = {item["backend"]: item for item in results["evaluations"]}
    assert {item["num_frames"] for item in scores.values()} == {3}
    for step in results["steps"]:
        assert step["seconds"] >= 0
        assert step["peak_rss_mb"] > 50


def test_manifest_names_every_artifact_with_its_hash(both: Both, deployment: Deployment) -> None:
    work_dir = both[0]
    manifest = json.loads((work_dir / "manifest.json").read_text())
    assert manifest["inputs"]["checkpoint"]["sha256"] == sha256_file(deployment.checkpoint)
    artifacts = [f"onnx/{name}.onnx" for name in COMPONENTS] + [f"tensorrt/{name}.engine" for name in COMPONENTS]
    assert sorted(manifest["outputs"]) == sorted([*artifacts, "results.json", "report.html"])
    for name, entry in manifest["outputs"].items():
        assert entry["sha256"] == sha256_file(work_dir / name)
    assert manifest["settings"]["deploy"]["export"]["mode"] == "both"


def test_report_is_one_page_with_the_same_numbers(both: Both) -> None:
    page = (both[0] / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "tiny_deployment" in page
    assert "<script src=" not in page
    assert "<link" not in page


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="with a GPU the TensorRT steps may run")
def test_without_a_gpu_tensorrt_steps_are_skipped_with_their_reason(both: Both) -> None:
    skipped = {step["name"]: step["reason"] for step in results_of(both[0])["steps"] if step["status"] == "SKIPPED"}
    assert set(skipped) == {"verify tensorrt against onnx", "evaluate tensorrt"}
    assert all("CUDA" in reason for reason in skipped.values())


def test_specified_command_line_and_same_bytes(
    both: Both, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.main import main as specified_main

    config = tmp_path / "deploy_config.py"
    config.write_text(
        f"checkpoint_path = {str(deployment.checkpoint)!r}\n"
        "export = dict(mode='onnx', work_dir='again')\n"
        "evaluation = dict(enabled=False)\n"
        "verification = dict(enabled=False)\n"
    )
    # Another process than the one that made the first; what was typed there is a copy of this one here.
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY", raising=False)
    arguments = [str(config), str(deployment.model_config), "--log-level", "ERROR"]
    done = run_forked(lambda: specified_main(arguments), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMPONENTS:
        first, second = both[0] / "onnx" / f"{name}.onnx", tmp_path / "again" / "onnx" / f"{name}.onnx"
        assert sha256_file(first) == sha256_file(second)


@pytest.mark.parametrize("module", ["deploy.export", "deploy.main"])
def test_help_needs_no_heavy_package(module: str, child_environment: dict[str, str]) -> None:
    blocked = (
        "import sys\nfor name in ('torch', 'mmdet3d', 'mmengine', 'onnx', 'onnxruntime', 'tensorrt_rtx_bindings'):\n"
    )
    code = f"{blocked}    sys.modules[name] = None\nfrom {module} import main\nmain(['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--rot-y-axis-reference" in done.stdout
    assert "Exit code: 0" in done.stdout


def test_killed_export_leaves_nothing_that_looks_whole(both: Both, deployment: Deployment, tmp_path: Path) -> None:
    """SIGKILL while a component is being written: the old file stays, the next run clears up and succeeds."""
    work_dir = tmp_path / "out"
    (work_dir / "onnx").mkdir(parents=True)
    old = (both[0] / "onnx" / "pts_voxel_encoder.onnx").read_bytes()
    (work_dir / "onnx" / "pts_voxel_encoder.onnx").write_bytes(old)
    (work_dir / "results.json").write_text("{}")
    # Stops with half of the bytes written, as a process does that is killed at that moment.
    code = (
        "import pathlib, time\n"
        "from deploy.export import main\n"
        "whole = pathlib.Path.write_bytes\n"
        "def half(self, data):\n"
        "    whole(self, data[: len(data) // 2])\n"
        "    print('half', flush=True)\n"
        "    time.sleep(600)\n"
        "pathlib.Path.write_bytes = half\n"
        f"main(['--mode=onnx', '--model-config={deployment.model_config}', '--checkpoint={deployment.checkpoint}',"
        f" '--data-root={deployment.data_root}', '--num-samples=1', '--num-verify-samples=1',"
        f" '--work-dir={work_dir}'])\n"
    )

    def export() -> int:
        exec(code, {"__name__": "__main__"})
        return 0

    process = Forked(export, tmp_path)
    process.wait_for("half\n")
    process.send_signal(signal.SIGKILL)
    assert process.ended().returncode == -signal.SIGKILL
    leftovers = list((work_dir / "onnx").glob(".*.part"))
    assert leftovers, "the kill came in the middle of a file"
    assert (work_dir / "onnx" / "pts_voxel_encoder.onnx").read_bytes() == old
    assert not (work_dir / "results.json").exists(), "the earlier run's record is no record of this one"

    from deploy.work_dir import owned_work_dir

    with owned_work_dir(work_dir):
        assert not list((work_dir / "onnx").glob(".*.part"))
