"""Scans of one's own through the commands: info file, verification without evaluation, evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datasets.create_infos import main as create_infos
from deploy.evaluate import main as evaluate
from eval.score import main as score
from tests.deploy.commands.in_process import Deploy, results_of
from tests.deploy.commands.small_dataset import frame_points

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two scans of four numbers a point, and `boxes.json` with a car in each."""
    root = tmp_path / "mine"
    root.mkdir()
    frames = []
    for seed in range(2):
        points = frame_points(seed)[:, :4]
        points.copy().tofile(root / f"{seed}.bin")
        x, y, z = map(float, points[:, :3].mean(axis=0))
        box = {"label": "car", "x": x, "y": y, "z": z, "l": 4.0, "w": 1.8, "h": 1.5, "yaw": 0.3}
        frames.append({"file": f"{seed}.bin", "boxes": [box]})
    (root / "boxes.json").write_text(json.dumps({"frames": frames}))
    return root


def test_scans_without_boxes_are_verified_and_not_scored(
    deploy: Deploy, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create_infos(["--root", str(scans), "--columns=4", "--log-level=WARNING"]) == 0
    capsys.readouterr()
    data = (f"--data-root={scans}", "--info-file=centerpoint_infos_val.pkl")
    code, _, err = deploy(*data)
    assert code == 2
    assert "the 2 frames to evaluate have no object to find: 0 are annotated" in err
    assert "leave evaluation out: --no-evaluation" in err
    code, out, _ = deploy(*data, "--no-evaluation")
    assert code == 0
    said = "Evaluation was left out (evaluation.enabled is False): nothing here says how well the model detects."
    assert said in out
    assert said in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    results = results_of(tmp_path)
    assert results["run"]["evaluation"] == "left out"
    assert results["evaluations"] == []
    steps = {step["name"]: step["status"] for step in results["steps"]}
    assert steps["verify onnx against pytorch"] == "PASSED"
    assert len(results["verifications"]) == 1


def test_scans_with_boxes_are_scored(
    deployment: Deployment, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create_infos(["--root", str(scans), "--columns=4", "--labels", str(scans / "boxes.json")]) == 0
    out = tmp_path / "score"
    given = ["--backend=pytorch", "--model-config", deployment.model_config, "--checkpoint", deployment.checkpoint]
    given += ["--data-root", scans, "--info-file", "centerpoint_infos_val.pkl", "--out", out, "--device=cpu"]
    assert evaluate([*map(str, given), "--nuscenes", "--log-level=ERROR"]) == 0
    assert "NDS" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    (summary,) = results["evaluations"]
    counted = {
        item["class_name"]: item["thresholds"][0]["num_ground_truth"]
        for item in summary["metrics"]["ranges"][-1]["classes"]
    }
    assert counted == {"car": 2, "truck": 0, "bus": 0, "bicycle": 0, "pedestrian": 0}
    # The same boxes by the command that scores files, whose class names are the same.
    scores = tmp_path / "scores.json"
    assert score(["--frames", str(out / "detections.jsonl"), "--out", str(scores), "--config", "nuscenes"]) == 0
    by_file = json.loads(scores.read_text(encoding="utf-8"))["nuscenes"]["filtered"]
    (official,) = results["nuscenes"]
    assert official["nds"] == pytest.approx(by_file["NDS"], abs=1e-9)
    assert official["is_complete"] is False


def test_nuscenes_score_of_a_deployment(deploy: Deploy, tmp_path: Path) -> None:
    code, out, _ = deploy("--nuscenes", "--num-samples=1", "--backends", "onnx")
    assert code == 0
    (official,) = results_of(tmp_path)["nuscenes"]
    assert f"{official['nds']:.4f}" in out
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Scored over 5 of nuScenes' ten classes" in report.replace("&#39;", "'")
