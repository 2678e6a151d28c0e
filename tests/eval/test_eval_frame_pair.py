"""The detector that is deployed is what verification judges: its boxes, what became of its points, its pillars."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError
from eval.decode_check import decode_difference
from eval.verification import VerificationResult, verify
from runtime.counts import VoxelCounts
from runtime.detector import Detector, Inference, Pillars
from runtime.scatter import scatter
from tests.eval.toy_detector import FakeFrame, FakePipeline, Toy, changed


def run(reference: Detector, test: Detector, frames: list[FakeFrame], **options: Any) -> VerificationResult:
    return verify(reference, test, frames, show_progress=False, **{"num_frames": 2, **options})


def test_a_failure_names_frames_and_boxes(toy: Toy) -> None:
    (reason,) = run(toy.pipeline("pytorch"), toy.pipeline("onnx", shift_m=3.0), toy.frames(), num_frames=3).reasons
    x, y = toy.frames()[0].points[0, :2]
    assert f"lost in frame 'frame-0': car at ({x:.1f}, {y:.1f}) m with score 0.80" in reason
    assert f"gained in frame 'frame-0': car at ({x + 3.0:.1f}, {y:.1f}) m with score 0.80" in reason
    assert reason.endswith(" and 3 more")


def test_boxes_must_be_those_of_the_detectors_own_outputs(toy: Toy) -> None:
    """No tolerance of boxes hides a suppression that drops some: none is lost in comparison with the reference."""
    result = run(toy.pipeline("pytorch", suppressed=True), toy.pipeline("cuda", suppressed=True), toy.frames())
    assert not result.passed
    assert all(item.passed for item in result.outputs)
    assert result.boxes is not None
    assert (result.boxes.lost, result.boxes.gained) == (0, 0)
    x, y = toy.frames()[0].points[0, :2]
    assert result.reasons[0] == (
        "frame 'frame-0': 0 boxes, the host decodes 1 of the same outputs; missing: "
        f"car at ({x:.1f}, {y:.1f}) m with score 0.80"
    )
    assert result.reasons[1].startswith("frame 'frame-1': 0 boxes, the host decodes 1")


def test_what_became_of_the_points_must_be_equal(toy: Toy) -> None:
    class Miscounting(FakePipeline):
        def detect(self, points: NDArray[Any]) -> Inference:
            found = super().detect(points)
            return changed(found, counts=found.counts + VoxelCounts(dropped_points=2))

    result = run(toy.pipeline("pytorch"), Miscounting("cuda"), toy.frames(), num_frames=1)
    assert not result.passed
    (reason,) = result.reasons
    assert reason.startswith("frame 'frame-0': VoxelCounts(voxels=7, dropped_voxels=1, dropped_points=5")
    assert "of the tested backend, VoxelCounts(voxels=7, dropped_voxels=1, dropped_points=3" in reason


def test_pillars_must_lie_in_the_same_cells(toy: Toy) -> None:
    class Turned(FakePipeline):
        def encode(self, points: NDArray[Any]) -> Pillars:
            found = super().encode(points)
            return dataclasses.replace(found, coords=found.coords[:, [0, 2, 1]])

    result = run(toy.pipeline("pytorch"), Turned("cuda"), toy.frames(), num_frames=1)
    assert not result.passed
    assert "pillars lie in another cell than the reference's" in result.reasons[0]


def test_boxes_of_a_cloud_without_points_fail(toy: Toy) -> None:
    """What a network makes of an empty canvas is nothing that was seen, on a device as on the host."""

    class Dreaming(FakePipeline):
        def detect(self, points: NDArray[Any]) -> Inference:
            found = super().detect(points)
            self.found = self.found if len(points) else Boxes3D.empty()
            ghost = Boxes3D(np.ones((1, 9), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
            return found if len(points) else changed(found, detections=ghost)

    frames = [
        dataclasses.replace(frame, points=frame.points[: 50 * index]) for index, frame in enumerate(toy.frames(2))
    ]
    result = run(toy.pipeline("pytorch"), Dreaming("cuda"), frames)
    assert (result.passed, result.num_frames, result.num_empty_frames) == (False, 1, 1)
    assert result.reasons == (
        "frame 'frame-0': 1 boxes, the host decodes 0 of the same outputs; not decoded by the host: "
        "car at (1.0, 1.0) m with score 1.00",
    )


class BoxesAlone(Detector):
    """A detector that shows nothing else."""

    def __init__(self, inner: Detector) -> None:
        super().__init__(inner.spec, inner.name, inner.device, inner.decoder)
        self.inner = inner

    def detect(self, points: NDArray[Any]) -> Inference:
        return changed(self.inner.detect(points), outputs=None)


def test_a_detector_of_boxes_alone_is_compared_by_its_boxes(toy: Toy) -> None:
    def compared(shift_m: float, **options: Any) -> VerificationResult:
        test = BoxesAlone(toy.pipeline("chip", shift_m=shift_m))
        return run(toy.pipeline("onnx"), test, toy.frames(), num_frames=3, **options)

    result = compared(0.0)
    assert result.boxes is not None
    assert (result.passed, result.outputs, result.boxes.matched) == (True, (), 3)
    assert not compared(0.02).passed
    with pytest.raises(ConfigError, match="'chip' shows nothing but its boxes: it cannot be compared on equal inputs"):
        compared(0.0, equal_inputs=True)
    silent = toy.pipeline("onnx", suppressed=True)
    result = run(silent, BoxesAlone(silent), toy.frames())
    assert not result.passed
    assert result.reasons[-1].startswith("neither detector shows raw outputs and no box has enough score")


def test_on_equal_inputs_the_reference_starts_from_the_tested_pillars(toy: Toy) -> None:
    """A difference of the encoders is judged as one, and does not travel into the outputs."""

    class FromCanvas(FakePipeline):
        """Its outputs follow from the canvas alone, steeply: any other canvas gives others."""

        def detect(self, points: NDArray[Any]) -> Inference:
            pillars = self.encode(points)
            outputs = self.outputs_of(scatter(pillars.features, pillars.coords, self.spec))
            found = super().detect(points)
            return changed(found, outputs=outputs)

        def encode(self, points: NDArray[Any]) -> Pillars:
            found = super().encode(points)
            return dataclasses.replace(found, counts=VoxelCounts(7, 1, 3, 2, 1))

    def compared(**options: Any) -> VerificationResult:
        test = FromCanvas("cuda", noise={"pillar_features": 1e-3})
        return run(FromCanvas("onnx"), test, toy.frames(), precision="int8", num_frames=1, **options)

    apart = compared()
    assert [item.comparison.name for item in apart.outputs if not item.passed] == ["heatmap", "reg"]
    result = compared(equal_inputs=True)
    differences = {item.comparison.name: item.comparison.max_abs for item in result.outputs}
    assert differences["pillar_features"] > 0.0
    assert differences["heatmap"] == differences["reg"] == 0.0


def boxes(rows: list[tuple[float, float, float, int]]) -> Boxes3D:
    """x, yaw, score, label."""
    values = np.zeros((len(rows), 9), np.float32)
    values[:, 0] = [row[0] for row in rows]
    values[:, 6] = [row[1] for row in rows]
    return Boxes3D(values, np.array([row[2] for row in rows], np.float32), np.array([row[3] for row in rows], np.int64))


def test_differences_of_decoding_in_words() -> None:
    names = ["car", "bus"]
    wanted = boxes([(0.0, 0.1, 0.9, 0), (5.0, 0.2, 0.8, 1), (9.0, 0.3, 0.7, 0)])
    assert decode_difference(wanted, wanted, names) == ""
    # The last place of a yaw and of a score is exp's and atan2's.
    last = boxes([(0.0, float(np.nextafter(np.float32(0.1), np.float32(1))), 0.9, 0), *[(5.0, 0.2, 0.8, 1)]])
    assert decode_difference(last, wanted.select(np.arange(2)), names) == ""
    other = boxes([(0.0, 0.1, 0.9, 0), (5.0, 0.2, 0.8, 0), (9.0, 0.31, 0.7, 0)])
    assert decode_difference(other, wanted, names) == (
        "3 boxes, the host decodes 3 of the same outputs; missing: bus at (5.0, 0.0) m with score 0.80, "
        "car at (9.0, 0.0) m with score 0.70; not decoded by the host: car at (5.0, 0.0) m with score 0.80, "
        "car at (9.0, 0.0) m with score 0.70"
    )
    swapped = boxes([(5.0, 0.2, 0.8, 1), (0.0, 0.1, 0.9, 0), (9.0, 0.3, 0.7, 0)])
    assert decode_difference(swapped, wanted, names).endswith("of the same outputs, in another order or number")
    many = boxes([(float(x), 0.0, 0.5, 0) for x in range(6)])
    assert decode_difference(Boxes3D.empty(), many, names).endswith("(2.0, 0.0) m with score 0.50 and 3 more")
