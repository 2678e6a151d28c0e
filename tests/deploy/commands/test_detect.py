"""What the node's decode makes of a dataset, as a command: the same bytes every time, and it says of which model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from base.files import sha256_file
from deploy import detect
from eval.detections_file import read_detections
from export.tools import export_onnx

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment

CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")


@pytest.fixture(scope="module")
def onnx_dir(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detect") / "onnx"
    given = ["--model-config", deployment.model_config, "--checkpoint", deployment.checkpoint, "--out", folder]
    assert export_onnx.main([str(value) for value in given]) == 0
    return folder


def run(deployment: Deployment, onnx_dir: Path, out: Path, *more: str) -> int:
    given = ["--onnx-dir", onnx_dir, "--model-config", deployment.model_config, "--data-root", deployment.data_root]
    return detect.main([*(str(value) for value in given), "--out", str(out), *more])


def test_candidates_of_every_frame_and_a_manifest(deployment: Deployment, onnx_dir: Path, tmp_path: Path) -> None:
    assert run(deployment, onnx_dir, tmp_path / "a") == 0
    assert run(deployment, onnx_dir, tmp_path / "b") == 0
    for name in ("detections.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    frames = read_detections(tmp_path / "a" / "detections.jsonl", CLASSES)
    assert [frame.token for frame in frames] == ["frame-0", "frame-1", "frame-2"]
    assert sum(len(frame.detections) for frame in frames) > 0
    assert min(score for frame in frames for score in frame.detections.scores) >= 0.1
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["kind"] == "detections"
    assert manifest["settings"]["weights"] == f"sha256 {sha256_file(deployment.checkpoint)}"
    assert manifest["settings"]["frames"] == 3
    assert str(tmp_path) not in json.dumps(manifest)


def test_wrong_input_is_named(
    deployment: Deployment, onnx_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(deployment, tmp_path, tmp_path / "out") == 2
    assert "does not exist. Export it first" in capsys.readouterr().err
    assert run(deployment, onnx_dir, tmp_path / "out", "--num-samples", "9") == 2
    assert "9 frames were asked for, but the dataset has 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
