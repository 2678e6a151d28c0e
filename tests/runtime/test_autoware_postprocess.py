"""The node's decode against a transcription of its formulas in loops, on random tensors; and cases by hand."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from models.spec import ModelSpec
from runtime.autoware_params import AUTOWARE_LABELS, AreaRemapping, AutowareDecodeParams
from runtime.autoware_postprocess import (
    decode_autoware,
    decode_without_remapping,
    suppress_overlaps,
    with_model_labels,
)
from runtime.counts import BoxCounts
from runtime.decode import decode, sigmoid
from runtime.decoders import AUTOWARE, TRAINING_DECODER, autoware_decoder
from tests.runtime.autoware_transcription import F, Outputs, assert_same, in_node_convention, transcribed
from tests.runtime.small_model import small_spec


def tiny_spec(**changes: Any) -> ModelSpec:
    """8 x 6 cells of 0.64 m."""
    return small_spec(point_cloud_range=(-2.56, -1.92, -3.0, 2.56, 1.92, 5.0), **changes)


def params_for(spec: ModelSpec, **changes: Any) -> AutowareDecodeParams:
    rows = {name: (0.3 + 0.02 * i, 0.25, 0.35) for i, name in enumerate(spec.class_names)}
    params = AutowareDecodeParams.from_spec(spec, rows, distance_bins_m=(1.0, 2.0, 3.0))
    return dataclasses.replace(params, **changes)


def random_outputs(spec: ModelSpec, rng: np.random.Generator) -> Outputs:
    """In mmdet3d's convention: dim [l, w, h], rot [sin, cos]."""
    centre = {"heatmap": (-2.5, 1.2), "reg": (0.5, 0.3), "height": (0.0, 1.0), "dim": (0.6, 0.7)}
    outputs: Outputs = {}
    for head in spec.heads:
        mean, spread = centre.get(head.name, (0.0, 0.6))
        outputs[head.name] = (mean + spread * rng.normal(size=spec.head_shape(head))).astype(F)
    return outputs


def test_decode_equals_the_transcription_on_1000_random_tensors() -> None:
    spec = tiny_spec()
    node_spec = dataclasses.replace(spec, rot_y_axis_reference=True)
    params = params_for(spec)
    rng = np.random.default_rng(7)
    seen: set[int] = set()
    total = 0
    for _ in range(1000):
        outputs = random_outputs(spec, rng)
        converted = in_node_convention(outputs)
        expected = transcribed(converted, spec, params)
        assert_same(decode_autoware(converted, node_spec, params), expected)
        # Unconverted outputs of the same network give the same boxes.
        assert_same(decode_autoware(outputs, spec, params), expected)
        seen |= {int(row[10]) for row in expected}
        total += len(expected)
    # The tensors reach every label the five classes can end in, trailers included.
    assert seen == {1, 2, 3, 4, 6, 7}
    assert total > 3000


def test_the_yaw_is_the_training_framework_s() -> None:
    """Where nothing is suppressed or remapped, both decodes describe the same boxes."""
    spec = tiny_spec(nms_min_radius_m2=0.0, score_threshold=0.01, post_max_size=500, max_detections_before_nms=500)
    outputs = random_outputs(spec, np.random.default_rng(3))
    outputs["heatmap"][:] = -10
    outputs["heatmap"][0, 0, ::3, ::3] = np.linspace(1, 2, 6).reshape(2, 3)
    outputs["dim"][:] = math.log(0.8)
    params = params_for(spec, yaw_norm_thresholds=(0.0,) * 5, distance_bins_m=(50.0,), score_thresholds=((0.3,),) * 5)
    node, framework = decode_autoware(outputs, spec, params), decode(outputs, spec)
    assert len(node) == len(framework) == 6
    np.testing.assert_array_equal(node.scores, framework.scores)
    np.testing.assert_allclose(node.boxes[:, :6], framework.boxes[:, :6], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.sin((node.boxes[:, 6] - framework.boxes[:, 6]) / 2), 0, atol=1e-6)
    np.testing.assert_array_equal(with_model_labels(node, spec.class_names).labels, framework.labels)


def empty_outputs(spec: ModelSpec) -> Outputs:
    outputs: Outputs = {head.name: np.zeros(spec.head_shape(head), F) for head in spec.heads}
    outputs["heatmap"][:] = -20
    outputs["rot"][:, 1] = 1.0
    return outputs


def test_limits_of_the_thresholds() -> None:
    spec = tiny_spec()
    outputs = empty_outputs(spec)
    # The centre of the box below: cell (3, 5) moved by a quarter of a cell.
    limit = float(F(0.32) * F(2) * (F(5) + F(0.25)) + F(-2.56))
    params = params_for(spec, distance_bins_m=(limit, 4.0), score_thresholds=((0.5, 0.25),) * 5)
    # A score equal to its threshold stays (sigmoid(0) is exactly 0.5), a distance equal to a limit is the next bin's.
    outputs["heatmap"][0, 0, 3, 5] = 0.0
    assert len(decode_autoware(outputs, spec, params)) == 1
    outputs["heatmap"][0, 0, 3, 5] = -1e-6
    assert len(decode_autoware(outputs, spec, params)) == 0
    outputs["reg"][0, 0, 3, 5] = 0.25
    assert decode_autoware(outputs, spec, params).boxes[0, :2].tolist() == [limit, 0.0]
    outputs["rot"][0, :, 3, 5] = 0.0, 0.29
    assert len(decode_autoware(outputs, spec, params)) == 0
    outputs["rot"][0, :, 3, 5] = 0.0, 0.31
    assert len(decode_autoware(outputs, spec, params)) == 1
    outputs["reg"][0, 0, 3, 5] = 30  # beyond the last limit
    assert len(decode_autoware(outputs, spec, params)) == 0


def test_one_class_a_cell_and_the_first_of_equal_scores() -> None:
    spec = tiny_spec()
    outputs = empty_outputs(spec)
    outputs["heatmap"][0, [1, 4], 3, 6] = 30.0, 60.0  # both sigmoids are 1 in float32
    boxes = decode_autoware(outputs, spec, params_for(spec))
    assert [AUTOWARE_LABELS[i] for i in boxes.labels] == ["TRUCK"]
    outputs["heatmap"][0, 1, 3, 6] = np.nan
    assert [AUTOWARE_LABELS[i] for i in decode_autoware(outputs, spec, params_for(spec)).labels] == ["PEDESTRIAN"]
    outputs["heatmap"][0, :, 3, 6] = np.nan
    assert len(decode_autoware(outputs, spec, params_for(spec))) == 0


def row(x: float, label: str, length: float = 4.0, width: float = 2.0) -> tuple[list[float], int]:
    return [x, 0, 0, length, width, 1.5, 0, 0, 0], AUTOWARE_LABELS.index(label)


def boxes_of(*rows: tuple[list[float], int]) -> Boxes3D:
    scores = np.linspace(0.9, 0.5, len(rows)).astype(F)
    return Boxes3D(np.array([box for box, _ in rows], F), scores, np.array([label for _, label in rows]))


def test_a_suppressed_box_suppresses_too() -> None:
    chain = boxes_of(row(0, "CAR"), row(3, "CAR"), row(6, "CAR"))  # neighbours share 1 m of 4: IoU 1/7
    assert suppress_overlaps(chain, 0.1, 10.0).tolist() == [True, False, False]
    assert suppress_overlaps(chain, 0.15, 10.0).tolist() == [True, True, True]
    assert suppress_overlaps(chain, 0.1, 2.9).tolist() == [True, True, True]


def test_many_boxes_are_compared_with_their_neighbours_alone() -> None:
    rng = np.random.default_rng(5)
    rows = np.zeros((3000, 9), F)
    rows[:, :2] = rng.uniform(-120, 120, (3000, 2))
    rows[:, 3:6] = rng.uniform((0.5, 0.5, 1), (14, 3, 3), (3000, 3))
    rows[:, 6] = rng.uniform(-3, 3, 3000)
    boxes = Boxes3D(rows, np.linspace(1, 0.1, 3000).astype(F), rng.integers(1, 8, 3000))
    whole = suppress_overlaps(boxes, 0.1, 10.0)
    # Whether a box stays depends on the better ones alone, so that the first thousand may be compared by themselves.
    np.testing.assert_array_equal(whole[:1000], suppress_overlaps(boxes.select(np.arange(1000)), 0.1, 10.0))
    assert 500 < np.count_nonzero(whole) < 2500


def test_a_broken_network_s_boxes_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    spec = small_spec(point_cloud_range=(-51.2, -51.2, -3.0, 51.2, 51.2, 5.0))
    outputs = empty_outputs(spec)
    outputs["heatmap"][0, 0] = 3 + np.random.default_rng(1).normal(size=outputs["heatmap"].shape[2:])
    outputs["dim"][:] = -2
    with caplog.at_level(logging.WARNING):
        boxes = decode_without_remapping(outputs, spec, AutowareDecodeParams.from_spec(spec))
    assert "boxes pass their thresholds; the best 20000 are taken" in caplog.text
    assert 1000 < len(boxes) <= 20_000
    assert boxes.scores[0] == sigmoid(outputs["heatmap"].max(keepdims=True)).item()


def test_a_pedestrian_is_compared_with_pedestrians_alone() -> None:
    boxes = boxes_of(row(0, "CAR"), row(0.5, "PEDESTRIAN"), row(0.6, "PEDESTRIAN"), row(0.5, "TRUCK"))
    assert suppress_overlaps(boxes, 0.1, 10.0).tolist() == [True, True, False, False]


def test_classes_by_area() -> None:
    car, truck, trailer, bus, bicycle = (
        AUTOWARE_LABELS.index(n) for n in ("CAR", "TRUCK", "TRAILER", "BUS", "BICYCLE")
    )
    labels = np.array([car, car, car, car, truck, bus, bus, bicycle])
    areas = np.array([12.0, 12.125, 36.0, 36.5, 36.0, 35.9, 40.0, 50.0], F)
    # At 36 m² a car may be a truck or a trailer; the lower label wins. No label is remapped twice.
    expected = [car, truck, truck, trailer, trailer, bus, trailer, bicycle]
    assert AreaRemapping.default().apply(labels, areas).tolist() == expected


def test_labels_back_to_the_model_s() -> None:
    boxes = boxes_of(row(0, "CAR"), row(9, "TRAILER"), row(20, "UNKNOWN"), row(30, "PEDESTRIAN"))
    names = ("car", "truck", "bus", "bicycle", "pedestrian")
    assert with_model_labels(boxes, names).labels.tolist() == [0, 1, 4]
    assert with_model_labels(boxes, names, merge={}).labels.tolist() == [0, 4]
    with pytest.raises(ConfigError, match="Cannot merge TRAILER into 'lorry'"):
        with_model_labels(boxes, names, merge={"TRAILER": "lorry"})


def test_without_remapping_the_labels_are_the_model_s() -> None:
    spec = tiny_spec(class_names=("car", "tram", "bus", "bicycle", "pedestrian"))
    outputs = random_outputs(spec, np.random.default_rng(11))
    params = params_for(spec)
    plain, published = decode_without_remapping(outputs, spec, params), decode_autoware(outputs, spec, params)
    np.testing.assert_array_equal(plain.boxes, published.boxes)
    assert 1 in plain.labels  # a tram, which the node publishes as UNKNOWN
    assert set(published.labels[plain.labels == 1]) == {0}
    # With one threshold for all, a higher one leaves the boxes above it and nothing else.
    loose, strict = (decode_without_remapping(outputs, spec, params.with_score_threshold(v)) for v in (0.2, 0.5))
    np.testing.assert_array_equal(loose.boxes[loose.scores >= 0.5], strict.boxes)


def test_decoders_have_names_and_the_model_s_labels() -> None:
    spec = tiny_spec()
    outputs = random_outputs(spec, np.random.default_rng(12))
    node = autoware_decoder(params_for(spec))
    assert (TRAINING_DECODER.name, node.name) == ("training", AUTOWARE)
    assert set(node(outputs, spec).labels) <= set(range(5))
    np.testing.assert_array_equal(TRAINING_DECODER(outputs, spec).boxes, decode(outputs, spec).boxes)
    assert len(node({}, spec)) == len(TRAINING_DECODER({}, spec)) == 0


def test_non_finite_boxes_are_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    spec = tiny_spec()
    outputs = empty_outputs(spec)
    outputs["heatmap"][0, 0, 3, (2, 6)] = 3.0
    outputs["dim"][0, 0, 3, 2] = np.inf
    with caplog.at_level(logging.WARNING):
        assert len(decode_autoware(outputs, spec, params_for(spec))) == 1
    assert "1 of 2 candidate boxes have a NaN or infinite number" in caplog.text


def test_a_size_whose_logarithm_is_far_below_0_is_dropped_and_counted() -> None:
    spec = tiny_spec()
    outputs = empty_outputs(spec)
    outputs["heatmap"][0, 0, 3, (2, 6)] = 3.0
    outputs["dim"][0, 1, 3, 2] = -200.0
    found = autoware_decoder(params_for(spec)).counted(outputs, spec)
    assert len(found.boxes) == 1
    assert found.dropped == BoxCounts(without_size=1)


def test_wrong_input_is_named() -> None:
    spec = tiny_spec()
    outputs = empty_outputs(spec)
    with pytest.raises(DataError, match="'dim' has shape"):
        decode_autoware({**outputs, "dim": outputs["dim"][:, :2]}, spec)
    no_velocity = spec.changed(heads=spec.heads[:-1])
    with pytest.raises(ConfigError, match=r"model 'small' lacks \['vel'\]"):
        decode_autoware(outputs, no_velocity)
    with pytest.raises(ConfigError, match="norm_bbox=False"):
        decode_autoware(outputs, dataclasses.replace(spec, norm_bbox=False))
    other = AutowareDecodeParams.from_spec(spec.changed(class_names=("car", "tram")))
    with pytest.raises(ConfigError, match=r"parameters are for classes \['CAR', 'TRAM'\]"):
        decode_autoware(outputs, spec, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance_bins_m": (4.0, 3.0, 5.0)}, "must be positive and ascending"),
        ({"score_thresholds": ((0.5, 0.5),) * 5}, "CAR has 2 score thresholds for 3 distance bins"),
        ({"score_thresholds": ((0.5, 0.5, 1.0),) * 5}, r"threshold 1.0 is outside \[0, 1\)"),
        ({"yaw_norm_thresholds": (0.3,)}, "5 classes have 1 yaw_norm_thresholds"),
        ({"circle_nms_distance_m": 0.0}, "circle_nms_distance_m is 0.0"),
        ({"iou_nms_threshold": 1.5}, "iou_nms_threshold 1.5 must lie"),
    ],
)
def test_wrong_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        params_for(tiny_spec(), **changes)


def test_thresholds_for_a_class_the_model_lacks() -> None:
    with pytest.raises(ConfigError, match=r"given for \['tram'\]"):
        AutowareDecodeParams.from_spec(tiny_spec(), {"tram": (0.1,) * 4})
