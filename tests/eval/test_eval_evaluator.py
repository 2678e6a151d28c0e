"""Evaluation of a toy detector whose result is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from eval.evaluator import BackendEvaluation, evaluate
from eval.machine import package_versions
from runtime.detector import Inference
from tests.eval.toy_detector import FakeFrame, FakePipeline, Toy


class BrokenFrames:
    def __init__(self, frames: list[FakeFrame]) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> FakeFrame:
        if index == 2:
            raise DataError("'lidar/2.bin' is truncated")
        return self.frames[index]


def run(toy: Toy, **options: Any) -> BackendEvaluation:
    return evaluate(toy.pipeline("onnx", **options.pop("detector", {})), toy.frames(), show_progress=False, **options)


def test_perfect_detector(toy: Toy) -> None:
    result = run(toy)
    assert result.metrics.mean_ap == pytest.approx(1.0)
    assert [frame.token for frame in result.frames] == [f"frame-{index}" for index in range(4)]
    assert [item.name for item in result.metrics.ranges] == ["0-40 m", "total"]


def test_what_a_vehicle_cares_for_is_scored_beside_ap(toy: Toy) -> None:
    result = run(toy)
    assert result.driving is not None
    assert result.driving.label == result.summary.label
    assert result.driving.own_latency_s == pytest.approx(result.latency["total"].p50 / 1000)
    assert result.driving.total.ap == pytest.approx(result.metrics.mean_ap)
    assert result.driving.total.flipped_headings == 0.0
    assert result.driving.total.critical_recall == pytest.approx(1.0)
    assert [row.ap for row in result.driving.classes] == [item.mean_ap for item in result.metrics.total.classes]


def test_shift_beyond_half_of_the_thresholds(toy: Toy) -> None:
    # 1.5 m off: found at 2 and 4 m, missed at 0.5 and 1 m.
    assert run(toy, detector={"shift_m": 1.5}).metrics.mean_ap == pytest.approx(0.5)


def test_warm_up_frames_are_scored_but_not_timed(toy: Toy) -> None:
    result = run(toy, warmup=1)
    assert result.metrics.num_frames == 4
    # The toy's total is 3 + call number: 4, then 5, 6, 7.
    assert result.summary.samples_ms == (5.0, 6.0, 7.0)
    assert list(result.latency) == ["preprocess", "voxel_encoder", "decode", "total"]
    assert result.latency["total"].mean == pytest.approx(6.0)
    assert result.latency["voxel_encoder"].count == 3


def test_one_frame_still_gives_a_latency(toy: Toy) -> None:
    result = run(toy, warmup=3, num_samples=1)
    assert result.summary.samples_ms == (7.0,)  # three extra calls before it
    assert result.summary.warmup_frames == 0


def test_what_did_not_enter_is_counted(toy: Toy) -> None:
    inputs = run(toy).summary.inputs
    assert (inputs.dropped_voxels, inputs.frames_with_dropped_voxels) == (2, 2)
    assert (inputs.dropped_points, inputs.outside_points, inputs.invalid_points) == (12, 8, 4)
    assert inputs.mean_voxels == 7.0


def test_a_frame_that_cannot_be_read_is_named(toy: Toy) -> None:
    with pytest.raises(DataError, match=r"evaluating onnx: frame 2 of 4 cannot be read: 'lidar/2.bin' is truncated"):
        evaluate(toy.pipeline("onnx"), BrokenFrames(toy.frames()), show_progress=False)


def test_a_frame_that_cannot_be_processed_is_named(toy: Toy) -> None:
    class Refusing(FakePipeline):
        def detect(self, points: NDArray[Any]) -> Inference:
            raise DataError("points must be (N, 5)")

    with pytest.raises(DataError, match=r"frame 'frame-0': points must be \(N, 5\)"):
        evaluate(Refusing("onnx"), toy.frames(), show_progress=False)


def test_frames_without_any_box(toy: Toy) -> None:
    frames = [toy.frame("empty", np.zeros((0, 5), np.float32), Boxes3D.empty())]
    result = evaluate(toy.pipeline("onnx"), frames, show_progress=False)
    assert np.isnan(result.metrics.mean_ap)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 5}, "5 frames were asked for, but the dataset has 4; use -1 for all"),
        ({"num_samples": 0}, "0 frames were asked for"),
        ({"num_samples": -2}, "-2 frames were asked for"),
    ],
)
def test_wrong_number_of_frames(toy: Toy, options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(toy, **options)


def test_no_frames_and_negative_warm_up(toy: Toy) -> None:
    with pytest.raises(DataError, match="the dataset has no frames"):
        evaluate(toy.pipeline("onnx"), [], show_progress=False)
    with pytest.raises(ConfigError, match="warmup is -1"):
        run(toy, warmup=-1)


def test_machine_is_recorded(toy: Toy) -> None:
    machine = run(toy).summary.machine
    assert machine.cpu
    assert machine.cpu_cores >= 1
    assert package_versions()["numpy"] == np.__version__
