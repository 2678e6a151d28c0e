"""Score thresholds that are measured on detections, and what they may not be measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from autoware.thresholds import measure_thresholds, require_same_model
from base.boxes import Boxes3D
from base.errors import DataError
from deploy.autoware_bundle import main
from export.manifest import build_manifest, write_manifest
from export.onnx_graph import metadata
from models.spec import ModelSpec
from tests.autoware.bundle_files import HEAD, parameters


def boxes_of(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Boxes3D:
    return Boxes3D(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int64))


def frames_file(path: Path, class_names: tuple[str, ...]) -> Path:
    """30 frames: a car found at 0.9, 0.8 or 0.6, one beyond the grid, clutter at 0.5; one pedestrian in all."""
    from eval.detections_file import write_detections
    from eval.metrics import FrameResult

    frames = []
    for index in range(30):
        car, clutter = [3.0, 0, 0, 4, 2, 1.5, 0, 0, 0], [-4.0, 0, 0, 4, 2, 1.5, 0, 0, 0]
        beyond = [6.0, *car[1:]]  # outside the grid: no model could find it
        truth = boxes_of([car, beyond], [1.0, 1.0], [0, 0])
        if index == 0:
            truth = boxes_of([car, beyond, [0.0, 4, 0, 1, 1, 1.5, 0, 0, 0]], [1.0] * 3, [0, 0, 4])
        found = boxes_of([[3.2, *car[1:]], clutter], [(0.9, 0.8, 0.6)[index % 3], 0.5], [0, 0])
        frames.append(FrameResult(f"f{index}", found, truth))
    write_detections(frames, class_names, path)
    return path


def test_thresholds_are_the_confidences_of_the_largest_f1(
    tiny: tuple[nn.Module, ModelSpec], autoware_onnx: Path, tmp_path: Path
) -> None:
    spec = tiny[1]
    detections = frames_file(tmp_path / "d.jsonl", spec.class_names)
    measured = measure_thresholds(detections, spec)
    car, pedestrian = measured.rows[0], measured.rows[4]
    # All hits lie above 0.6, all clutter at 0.5: F1 is 1 at 0.6. One pedestrian is too few.
    assert car[0].value == pytest.approx(0.6, abs=1e-4)
    assert (car[0].measured, car[0].max_f1, car[0].num_ground_truth) == (True, 1.0, 30)
    assert (pedestrian[0].measured, pedestrian[0].value, pedestrian[0].num_ground_truth) == (False, 0.35, 1)
    assert not any(item.measured for item in car[1:])
    out = tmp_path / "bundle"
    assert main(["--onnx-dir", str(autoware_onnx), "--out", str(out), "--detections", str(detections)]) == 0
    scores = parameters(out)["model_params"]["detection_score_thresholds"]["min_confidence_scores"]
    assert scores["CAR"] == [car[0].value, 0.35, 0.35, 0.35]
    # The detection that set the threshold passes it.
    assert np.float32(scores["CAR"][0]) <= np.float32(0.6)
    readme = (out / "README.md").read_text()
    assert "30 frames, d.jsonl, sha256 " in readme
    assert "usual threshold is 0.35" in readme


def detected(path: Path, facts: dict[str, str], class_names: tuple[str, ...]) -> Path:
    """A folder as `deploy.detect` leaves it."""
    path.mkdir()
    frames_file(path / "detections.jsonl", class_names)
    info = path / "infos.pkl"
    info.write_bytes(b"infos")
    manifest = build_manifest(
        "detections", {"info_file": info}, {"detections.jsonl": path / "detections.jsonl"}, facts, ("onnxruntime",)
    )
    write_manifest(path / "manifest.json", manifest)
    return path


def test_thresholds_of_another_model_are_refused(
    tiny: tuple[nn.Module, ModelSpec], autoware_onnx: Path, tmp_path: Path
) -> None:
    facts = metadata(onnx.load(autoware_onnx / HEAD))
    same = {key: facts[key] for key in ("weights", "precision")}
    right = detected(tmp_path / "right", same, tiny[1].class_names)
    out = tmp_path / "bundle"
    given = ["--onnx-dir", str(autoware_onnx), "--out", str(out), "--detections"]
    assert main([*given, str(right)]) == 0
    readme = (out / "README.md").read_text()
    assert "the node's decode make of infos.pkl (sha256 " in readme
    require_same_model(right / "detections.jsonl", same)
    wrong = detected(tmp_path / "wrong", {**same, "precision": "int8"}, tiny[1].class_names)
    with pytest.raises(DataError, match="precision int8; the bundle's has fp16"):
        require_same_model(wrong, same)
    assert main([*given, str(wrong)]) == 2


def test_detections_of_other_classes_are_refused(tiny: tuple[nn.Module, ModelSpec], tmp_path: Path) -> None:
    detections = frames_file(tmp_path / "d.jsonl", ("tram", "b", "c", "d", "e"))
    with pytest.raises(DataError, match="classes are car, truck"):
        measure_thresholds(detections, tiny[1])
