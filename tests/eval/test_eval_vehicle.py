"""What the vehicle sees: the node's decode scored beside the training framework's."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import ConfigError
from eval.codec import to_json
from eval.evaluator import BackendEvaluation, evaluate
from eval.report import render_report
from eval.results import RunResults, read_results, write_results
from eval.significance import compare_decodes
from eval.vehicle import VehicleSettings
from models.spec import HeadSpec, ModelSpec
from runtime.autoware_params import AutowareDecodeParams
from runtime.decoders import TRAINING_DECODER, autoware_decoder
from runtime.detector import Detector, Inference, InspectableDetector, Inspection, Pillars
from tests.eval.toy_detector import Toy

HEADS = (("heatmap", 2), ("reg", 2), ("height", 1), ("dim", 3), ("rot", 2), ("vel", 2))
TRUCK_SIZED = (6.0, 2.5)  # 15 m²: the node makes a truck of a car of this area


def spec_of(toy: Toy) -> ModelSpec:
    return toy.spec().changed(
        class_names=("car", "truck"), heads=tuple(HeadSpec(name, channels) for name, channels in HEADS)
    )


class DrawnPipeline(InspectableDetector):
    """Its network draws the one car of each frame at its place: sure of it, of a weak double, and of nothing else.

    Args:
        on_device: Leave the outputs where they are, as a CUDA graph does.
    """

    def __init__(
        self, toy: Toy, size: tuple[float, float] = (4.0, 2.0), score: float = 0.8, *, on_device: bool = False
    ) -> None:
        self.fake = toy.pipeline("onnx")
        super().__init__(spec_of(toy), "onnx", "cpu", TRAINING_DECODER)
        self.size, self.score, self.on_device = size, score, on_device
        self.inspected = 0

    def drawn(self, points: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        out: dict[str, NDArray[np.float32]] = {
            name: np.zeros((1, channels, 40, 40), np.float32) for name, channels in HEADS
        }
        out["heatmap"][:] = -9
        cell = (points[0, :2] + 40) / 2
        x, y = (int(value) for value in cell)
        out["heatmap"][0, 0, y, x] = math.log(self.score / (1 - self.score))
        out["reg"][0, :, y, x] = cell - (x, y)
        out["dim"][:] = np.log(np.array([*self.size, 1.5], np.float32))[:, None, None]
        out["rot"][0, 0], out["rot"][0, 1] = math.sin(0.3), math.cos(0.3)
        return out

    def detect(self, points: NDArray[Any]) -> Inference:
        result = self.fake(points)
        outputs = self.drawn(points) if len(points) else {}
        detections = self.decoder(outputs, self.spec)
        kept = None if self.on_device else outputs
        return Inference(detections, kept, result.stages_ms, result.total_ms, result.counts, result.dropped)

    def inspect(self, points: NDArray[Any]) -> Inspection:
        self.inspected += 1
        outputs = self.drawn(points) if len(points) else {}
        return Inspection(self.detect(points), self.encode(points), outputs)

    def encode(self, points: NDArray[Any]) -> Pillars:
        return self.fake.encode(points)

    def outputs_of(self, canvas: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        raise AssertionError("nothing asks for it")


def evaluated(pipeline: Detector, frames: Any, **changes: Any) -> BackendEvaluation:
    params = dataclasses.replace(AutowareDecodeParams.from_spec(pipeline.spec), **changes)
    return evaluate(pipeline, frames, vehicle=VehicleSettings(params, "a test"), show_progress=False)


def test_equal_where_nothing_is_lost(toy: Toy) -> None:
    found = evaluated(DrawnPipeline(toy), toy.frames())
    assert found.vehicle is not None
    assert found.summary.decode == "training"
    assert [found.metrics.mean_ap, found.vehicle.metrics.mean_ap] == pytest.approx([1.0, 1.0])
    assert [step.name for step in found.vehicle.steps] == [
        "training framework",
        "node, any score",
        "with score thresholds",
        "with classes by area: as published",
    ]
    assert {step.boxes_per_frame for step in found.vehicle.steps} == {1.0}
    assert found.vehicle.bin_names == ("0–50 m", "50–90 m", "90–121 m", "121–200 m")


def test_each_step_shows_what_it_costs(toy: Toy) -> None:
    # A score of 0.3 is above the model's 0.1 and below the node's 0.35.
    weak = evaluated(DrawnPipeline(toy, score=0.3), toy.frames())
    assert weak.vehicle is not None
    assert [step.mean_ap for step in weak.vehicle.steps] == pytest.approx([1.0, 1.0, 0.0, 0.0])
    # A car of 15 m² is published as a truck, which is false, and the car is missed.
    large = evaluated(DrawnPipeline(toy, TRUCK_SIZED), toy.frames())
    assert large.vehicle is not None
    assert [step.class_ap[0] for step in large.vehicle.steps] == pytest.approx([1.0, 1.0, 1.0, 0.0])
    assert large.vehicle_frames is not None
    # Thresholds are measured on boxes with the model's own classes.
    assert all(frame.detections.labels.tolist() == [0] for frame in large.vehicle_frames.candidates)
    assert all(frame.detections.labels.tolist() == [1] for frame in large.vehicle_frames.published)


def test_difference_of_the_decodes_has_an_interval(toy: Toy) -> None:
    found = compare_decodes(evaluated(DrawnPipeline(toy, TRUCK_SIZED), toy.frames(24)), num_resamples=200)
    assert found.vehicle is not None
    comparison = found.vehicle.comparison
    assert comparison is not None
    assert (comparison.label_a, comparison.label_b) == ("training framework", "vehicle")
    assert comparison.of("car").difference == pytest.approx(-1.0)
    assert comparison.of("car").verdict == "worse"
    assert comparison.total.b == found.vehicle.metrics.mean_ap


def test_the_node_alone(toy: Toy) -> None:
    pipeline = DrawnPipeline(toy, TRUCK_SIZED)
    pipeline.decoder = autoware_decoder(AutowareDecodeParams.from_spec(pipeline.spec))
    found = evaluated(pipeline, toy.frames())
    assert found.summary.label == "onnx fp32 (cpu) by the node"
    assert found.vehicle is not None
    assert found.vehicle.steps[0].name == "node, any score"
    assert found.metrics == found.vehicle.metrics
    assert compare_decodes(found) is found


def test_a_cloud_without_points_has_no_boxes_in_either(toy: Toy) -> None:
    frames = toy.frames(2)
    frames[0] = dataclasses.replace(frames[0], points=frames[0].points[:0])
    found = evaluated(DrawnPipeline(toy), frames)
    assert found.vehicle_frames is not None
    assert [len(frame.detections) for frame in found.vehicle_frames.published] == [0, 1]


def test_a_detector_that_leaves_its_outputs_on_the_device_is_asked_for_them(toy: Toy) -> None:
    plain, on_device = DrawnPipeline(toy, TRUCK_SIZED), DrawnPipeline(toy, TRUCK_SIZED, on_device=True)
    wanted, found = evaluated(plain, toy.frames()), evaluated(on_device, toy.frames())
    assert (plain.inspected, on_device.inspected) == (0, 4)
    assert to_json(found.vehicle) == to_json(wanted.vehicle)
    assert found.summary.samples_ms != ()


def test_a_detector_of_boxes_alone_has_nothing_that_the_node_could_decode(toy: Toy) -> None:
    class BoxesAlone(Detector):
        def detect(self, points: NDArray[Any]) -> Inference:
            found = toy.pipeline("onnx")(points)
            return Inference(found.detections, None, found.stages_ms, found.total_ms, found.counts, found.dropped)

    detector = BoxesAlone(spec_of(toy), "boxes", "cpu", TRAINING_DECODER)
    with pytest.raises(ConfigError, match=r"'boxes' shows nothing but its boxes: .*evaluation\.decode to 'training'"):
        evaluated(detector, toy.frames())
    assert evaluate(detector, toy.frames(), show_progress=False).metrics.mean_ap == pytest.approx(1.0)


def test_results_and_report_hold_it(toy: Toy, tmp_path: Path) -> None:
    found = compare_decodes(evaluated(DrawnPipeline(toy, TRUCK_SIZED), toy.frames(24)), num_resamples=200)
    assert found.vehicle is not None
    results = RunResults("toy", {}, (), evaluations=(found.summary,), vehicle=(found.vehicle,))
    write_results(results, tmp_path / "results.json")
    assert to_json(read_results(tmp_path / "results.json")) == to_json(results)
    page = render_report(results)
    assert "What the vehicle sees" in page
    for text in ("node, any score", "Vehicle minus training framework", "Score thresholds: a test", "-1.000"):
        assert text in page
    assert "mAP in the vehicle, onnx fp32 (cpu)" in page
    assert "What the vehicle sees" not in render_report(dataclasses.replace(results, vehicle=()))


def test_an_ordinary_evaluation_has_none(toy: Toy) -> None:
    found = evaluate(toy.pipeline("onnx"), toy.frames(), show_progress=False)
    assert (found.vehicle, found.vehicle_frames) == (None, None)


@pytest.mark.parametrize("wanted", [0.0, 0.2])
def test_thresholds_of_the_class_are_reported(toy: Toy, wanted: float) -> None:
    pipeline = DrawnPipeline(toy)
    found = evaluated(pipeline, toy.frames(), score_thresholds=((wanted,) * 4, (0.35,) * 4))
    assert found.vehicle is not None
    assert found.vehicle.score_thresholds[0].thresholds == (wanted,) * 4
