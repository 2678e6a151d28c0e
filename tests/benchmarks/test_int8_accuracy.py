"""Results of an INT8 comparison: kept whole, compared with FP16, refused where they are another run's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from base.boxes import Boxes3D
from benchmarks.int8_accuracy import main
from benchmarks.int8_accuracy_results import StoredRun, write_results
from eval.metrics import FrameResult

CLASSES = ("car", "pedestrian")


def boxes(xy: list[tuple[float, float]], labels: list[int], scores: list[float] | None = None) -> Boxes3D:
    values = np.zeros((len(xy), 9), np.float32)
    values[:, :2] = xy
    values[:, 3:6] = (4.0, 2.0, 1.5)
    return Boxes3D(values, np.array(scores or [1.0] * len(xy), np.float32), np.array(labels, np.int64))


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    """Two frames; fp16 finds all, half loses the far car, empty nothing."""
    truth = [boxes([(5, 0), (40, 0)], [0, 0]), boxes([(10, 0), (25, 3)], [1, 0])]
    run = StoredRun(tmp_path)
    frames = [FrameResult(f"f{i}", Boxes3D.empty(), item) for i, item in enumerate(truth)]
    run.save_frames(frames, ["a", "b"])
    perfect = [boxes([(5, 0), (40, 0)], [0, 0], [0.9, 0.7]), boxes([(10, 0), (25, 3)], [1, 0], [0.8, 0.6])]
    run.save_detections("fp16", perfect)
    run.save_detections("same", perfect)
    run.save_detections("half", [perfect[0].select(np.array([True, False])), perfect[1]])
    run.save_detections("empty", [Boxes3D.empty(), Boxes3D.empty()])
    return run


def test_detections_come_back(run: StoredRun) -> None:
    first, second = run.frames("half")
    assert [frame.token for frame in (first, second)] == ["f0", "f1"]
    assert first.detections.boxes[:, 0].tolist() == [5.0]
    assert second.detections.labels.tolist() == [1, 0]
    assert second.ground_truth.boxes[1, :2].tolist() == [25.0, 3.0]
    assert run.has("half")
    assert not run.has("other")
    assert run.scenes() == ["a", "b"]


def test_differences(run: StoredRun) -> None:
    text = write_results(run, ["fp16", "same", "half", "empty"], CLASSES, 100)
    results = json.loads((run.folder / "results.json").read_text())
    rows = {row["method"]: row for row in results["variants"]}
    assert rows["fp16"]["map"]["total"] == pytest.approx(100.0)
    assert rows["same"]["difference"]["total"]["difference"] == 0.0
    assert rows["same"]["goal_met"]
    # One of three cars lost: in its range the AP of cars falls from 100 to 0.
    assert rows["half"]["worst_cell"]["class"] == "car"
    assert rows["half"]["worst_cell"]["range"] == "35-51 m"
    assert rows["half"]["worst_cell"]["difference"] == pytest.approx(-100.0)
    assert not rows["half"]["goal_met"]
    assert rows["empty"]["map"]["total"] == 0.0
    # With the first frame's far car gone, the weakest car left has score 0.6 still.
    assert rows["half"]["best_score_shift"]["car"] == pytest.approx(0.0)
    assert "| half |" in text
    assert (run.folder / "results.md").read_text() == text


def test_a_folder_of_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--data-root", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])
    assert code == 2
    assert "nowhere" in capsys.readouterr().err
