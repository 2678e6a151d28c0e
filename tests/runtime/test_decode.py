"""Decoding and circle NMS against mmdet3d's CenterHead, and by hand."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import DataError
from models.build import import_mmdet3d
from models.spec import ModelSpec
from runtime.counts import BoxCounts
from runtime.decode import decode, decode_counted
from runtime.nms import circle_nms
from tests.runtime.small_model import small_spec

torch = pytest.importorskip("torch")


def head_outputs(spec: ModelSpec, seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    scale = {"heatmap": 1.5, "reg": 0.4, "height": 1.0, "dim": 0.5, "rot": 1.0, "vel": 3.0}
    outputs = {h.name: (rng.normal(size=spec.head_shape(h)) * scale[h.name]).astype(np.float32) for h in spec.heads}
    outputs["heatmap"] -= 3.0
    return outputs


def mmdet3d_decode(outputs: dict[str, NDArray[np.float32]], spec: ModelSpec) -> tuple[Any, Any, Any]:
    import_mmdet3d()
    from mmdet3d.models.dense_heads import CenterHead
    from mmdet3d.structures import LiDARInstance3DBoxes
    from mmengine.config import ConfigDict

    head = CenterHead(
        in_channels=8,
        tasks=[{"num_class": len(spec.class_names), "class_names": list(spec.class_names)}],
        common_heads={h.name: (h.channels, 2) for h in spec.heads if h.name != "heatmap"},
        bbox_coder={
            "type": "CenterPointBBoxCoder",
            "pc_range": list(spec.point_cloud_range[:2]),
            "out_size_factor": spec.out_size_factor,
            "voxel_size": list(spec.voxel_size[:2]),
            "post_center_range": list(spec.post_center_range),
            "max_num": spec.max_detections_before_nms,
            "score_threshold": spec.score_threshold,
            "code_size": 9,
        },
        separate_head={"type": "SeparateHead", "init_bias": -2.19, "final_kernel": 1},
        share_conv_channel=8,
        norm_bbox=spec.norm_bbox,
        test_cfg=ConfigDict(
            nms_type="circle",
            min_radius=[task.nms_min_radius_m2 for task in spec.tasks],
            post_max_size=spec.post_max_size,
        ),
    )
    tensors = {name: torch.from_numpy(value.copy()) for name, value in outputs.items()}
    (result,) = head.predict_by_feat(([tensors],), [{"box_type_3d": LiDARInstance3DBoxes}])
    boxes = result.bboxes_3d.tensor.numpy().copy()
    boxes[:, 2] += boxes[:, 5] / 2  # mmdet3d gives the bottom
    return boxes, result.scores_3d.numpy(), result.labels_3d.numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_bbox": False},
        {"nms_min_radius_m2": 16.0, "post_max_size": 5},
        {"out_size_factor": 1, "max_detections_before_nms": 500, "score_threshold": 0.0},
        {"post_center_range": (-5.0, -3.0, -0.5, 5.0, 3.0, 0.5)},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_decode_is_mmdet3ds(changes: dict[str, Any], seed: int) -> None:
    spec = small_spec(**changes)
    outputs = head_outputs(spec, seed)
    if not spec.norm_bbox:  # metres; what is below 0 of them mmdet3d keeps
        outputs["dim"] = np.abs(outputs["dim"]) + np.float32(0.01)
    boxes, scores, labels = mmdet3d_decode(outputs, spec)
    ours = decode(outputs, spec)
    assert len(ours) == len(boxes) >= 5
    np.testing.assert_array_equal(ours.labels, labels)
    # Position and velocity take no transcendental function: bit-equal (z through mmdet3d's bottom and back is not).
    np.testing.assert_array_equal(ours.boxes[:, [0, 1, 7, 8]], boxes[:, [0, 1, 7, 8]])
    # exp, atan2 and sigmoid of torch are within 2 units in the last place of the rounded exact value.
    np.testing.assert_array_max_ulp(ours.boxes[:, 3:7], boxes[:, 3:7], maxulp=2)
    np.testing.assert_array_max_ulp(ours.scores, scores, maxulp=2)
    np.testing.assert_allclose(ours.boxes[:, 2], boxes[:, 2], atol=2e-6)


def test_one_box_by_hand() -> None:
    spec = small_spec()
    outputs: dict[str, NDArray[np.float32]] = {h.name: np.zeros(spec.head_shape(h), np.float32) for h in spec.heads}
    outputs["heatmap"][:] = -10
    y, x = 7, 12
    outputs["heatmap"][0, 3, y, x] = 2.0
    outputs["reg"][0, :, y, x] = 0.25, 0.75
    outputs["height"][0, 0, y, x] = 0.8
    outputs["dim"][0, :, y, x] = np.log([4.0, 2.0, 1.5])
    outputs["rot"][0, :, y, x] = np.sin(2.5), np.cos(2.5)
    outputs["vel"][0, :, y, x] = 3.0, -1.0
    boxes = decode(outputs, spec)
    expected = [12.25 * 0.64 - 12.8, 7.75 * 0.64 - 9.6, 0.8, 4.0, 2.0, 1.5, 2.5, 3.0, -1.0]
    np.testing.assert_allclose(boxes.boxes, [expected], rtol=1e-5)
    np.testing.assert_allclose(boxes.scores, [1 / (1 + np.exp(-2.0))], rtol=1e-6)
    assert boxes.labels.tolist() == [3]


def test_rotated_convention_decodes_to_the_same_boxes() -> None:
    spec = small_spec()
    outputs = head_outputs(spec, 3)
    turned = dict(outputs)
    turned["dim"] = outputs["dim"][:, [1, 0, 2]]
    turned["rot"] = np.stack([-outputs["rot"][:, 1], -outputs["rot"][:, 0]], axis=1)
    plain, again = decode(outputs, spec), decode(turned, small_spec(rot_y_axis_reference=True))
    np.testing.assert_array_equal(plain.boxes, again.boxes)
    np.testing.assert_array_equal(plain.scores, again.scores)


def test_equal_logits_are_taken_by_class_row_and_column() -> None:
    spec = small_spec(nms_min_radius_m2=0.0, max_detections_before_nms=3)
    outputs: dict[str, NDArray[np.float32]] = {h.name: np.zeros(spec.head_shape(h), np.float32) for h in spec.heads}
    outputs["heatmap"][:] = -10
    for label, y, x in ((1, 0, 0), (0, 9, 2), (0, 2, 9), (0, 2, 5)):
        outputs["heatmap"][0, label, y, x] = 1.0
    boxes = decode(outputs, spec)
    cells = np.round((boxes.boxes[:, :2] - spec.point_cloud_range[:2]) / 0.64).astype(int)
    assert cells.tolist() == [[5, 2], [9, 2], [2, 9]]


@pytest.mark.parametrize(("norm_bbox", "nothing"), [(False, 0.0), (False, -0.3), (True, -200.0)])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_size_of_0_or_less_is_dropped_and_counted(
    norm_bbox: bool, nothing: float, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not suppress its neighbour either, whose score is lower."""
    count = np.count_nonzero
    monkeypatch.setattr(np, "count_nonzero", lambda values: np.int64(count(values)))  # as numpy 2.5 has it
    spec = small_spec(norm_bbox=norm_bbox, nms_min_radius_m2=4.0)
    outputs: dict[str, NDArray[np.float32]] = {h.name: np.zeros(spec.head_shape(h), np.float32) for h in spec.heads}
    outputs["heatmap"][:] = -10
    outputs["dim"][:] = 0.5
    outputs["heatmap"][0, 0, 3, 7:10] = 4.0, 3.0, 2.0
    outputs["dim"][0, row, 3, 7] = nothing
    outputs["dim"][0, :, 3, 8] = nothing, 1.0, np.nan
    found = decode_counted(outputs, spec)
    assert found.dropped == BoxCounts(broken=1, without_size=1)
    assert {type(found.dropped.broken), type(found.dropped.without_size)} == {int}
    np.testing.assert_allclose(found.boxes.boxes[:, 3:6], [[np.exp(0.5) if norm_bbox else 0.5] * 3], rtol=1e-6)
    assert found.boxes.scores[0] == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_non_finite_outputs_are_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    spec = small_spec()
    outputs = {h.name: np.zeros(spec.head_shape(h), np.float32) for h in spec.heads}
    outputs["heatmap"][:] = np.nan
    with caplog.at_level(logging.WARNING):
        assert len(decode(outputs, spec)) == 0
    cells = outputs["heatmap"].size
    assert f"Model 'small': {cells} of {cells} numbers of its heatmap are NaN" in caplog.text
    caplog.clear()
    outputs["heatmap"][:] = -10
    outputs["heatmap"][0, 0, 3, (3, 20)] = 4.0
    outputs["dim"][0, 1, 3, 3] = np.inf
    with caplog.at_level(logging.WARNING):
        assert len(decode(outputs, spec)) == 1
    assert "Model 'small': 1 of 2 candidate boxes have a NaN or infinite number" in caplog.text
    assert "heatmap" not in caplog.text


def test_wrong_outputs_are_refused_by_name(spec: ModelSpec) -> None:
    outputs = head_outputs(spec, 0)
    with pytest.raises(DataError, match=r"'dim' has shape \(1, 2, 30, 40\); model 'small' needs \(1, 3, 30, 40\)"):
        decode({**outputs, "dim": outputs["dim"][:, :2]}, spec)
    del outputs["reg"]
    with pytest.raises(DataError, match=r"'reg' is missing: got .*'vel'"):
        decode(outputs, spec)


def reference_nms(centers: NDArray[np.float32], scores: NDArray[np.float32], radius_m2: float, most: int) -> list[int]:
    import_mmdet3d()
    from mmdet3d.models.layers import circle_nms as stock

    return list(stock(np.concatenate([centers, scores[:, None]], axis=1), radius_m2, post_max_size=most))


@pytest.mark.parametrize("radius_m2", [0.0, 0.25, 1.0, 9.0])
def test_circle_nms_is_mmdet3ds(radius_m2: float) -> None:
    rng = np.random.default_rng(5)
    centers = rng.uniform(-6, 6, (300, 2)).astype(np.float32)
    scores = (rng.permutation(300) / 300).astype(np.float32)
    for most in (20, 300):
        assert circle_nms(centers, scores, radius_m2, most).tolist() == reference_nms(centers, scores, radius_m2, most)


def test_circle_nms_by_hand() -> None:
    centers = np.array([[0, 0], [2, 0], [4.5, 0], [2, 0]], np.float32)
    scores = np.array([0.5, 0.9, 0.1, 0.9], np.float32)
    # A squared distance of exactly 4 suppresses; of two equal ones the first stays.
    assert circle_nms(centers, scores, 4.0).tolist() == [1, 2]
    assert circle_nms(centers, scores, 3.9).tolist() == [1, 0, 2]
    assert circle_nms(centers, scores, 3.9, max_keep=2).tolist() == [1, 0]
    assert circle_nms(centers[:0], scores[:0], 1.0).tolist() == []


def one_hot(spec: ModelSpec, cells: dict[tuple[int, int, int], float]) -> dict[str, NDArray[np.float32]]:
    """Outputs with these logits at (class, row, column) and -10 elsewhere."""
    outputs: dict[str, NDArray[np.float32]] = {h.name: np.zeros(spec.head_shape(h), np.float32) for h in spec.heads}
    outputs["heatmap"][:] = -10
    for cell, logit in cells.items():
        outputs["heatmap"][0][cell] = logit
    return outputs


def test_a_score_at_the_threshold_is_none() -> None:
    # sigmoid(0) is 0.5 exactly.
    outputs = one_hot(small_spec(), {(0, 3, 3): 0.0, (0, 9, 9): 1e-3})
    assert len(decode(outputs, small_spec(score_threshold=0.5))) == 1
    assert len(decode(outputs, small_spec(score_threshold=0.49))) == 2


def test_without_an_offset_a_box_lies_in_the_middle_of_its_cell() -> None:
    heads = tuple(head for head in small_spec().heads if head.name != "reg")
    spec = small_spec(heads=heads)
    boxes = decode(one_hot(spec, {(0, 7, 12): 2.0}), spec)
    np.testing.assert_allclose(boxes.boxes[0, :2], [12.5 * 0.64 - 12.8, 7.5 * 0.64 - 9.6], rtol=1e-5)


def test_a_logit_that_is_no_number_takes_no_place_among_the_candidates() -> None:
    spec = small_spec(max_detections_before_nms=2)
    outputs = one_hot(spec, {(0, 3, 3): 1.0, (1, 9, 9): 2.0, (2, 20, 20): np.nan, (0, 5, 20): np.nan})
    boxes = decode(outputs, spec)
    assert boxes.labels.tolist() == [1, 0]


@pytest.mark.parametrize("most", [1, 2, 4, 6, 7, 50])
def test_candidates_are_the_first_of_a_stable_sort(most: int) -> None:
    # Logits in steps, so that equal ones stand at every limit; `sorted` is stable.
    spec = small_spec(nms_min_radius_m2=0.0, max_detections_before_nms=most, post_max_size=50)
    rng = np.random.default_rng(2)
    _, height, width = spec.head_shape(spec.heads[0])[1:]
    places = [divmod(int(place), width) for place in rng.choice(height * width, 7, replace=False)]
    cells = {(int(rng.integers(0, 3)), y, x): float(rng.integers(0, 2)) for y, x in places}
    first = sorted(sorted(cells), key=lambda cell: -cells[cell])[:most]
    boxes = decode(one_hot(spec, cells), spec)
    found = np.round((boxes.boxes[:, :2] - spec.point_cloud_range[:2]) / 0.64).astype(int)
    assert [(int(label), int(y), int(x)) for label, (x, y) in zip(boxes.labels, found, strict=True)] == first
    assert boxes.boxes.dtype == boxes.scores.dtype == np.float32


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_center_on_the_border_of_the_range_counts(axis: int) -> None:
    spec = small_spec()
    outputs = one_hot(spec, {(0, 7, 12): 2.0})
    center = decode(outputs, spec).boxes[0, :3]
    for sign, side in ((-1, axis), (1, axis + 3)):
        for limit, count in ((center[axis], 1), (np.nextafter(center[axis], np.float32(-sign * np.inf)), 0)):
            borders = [-50.0, -50.0, -50.0, 50.0, 50.0, 50.0]
            borders[side] = float(limit)
            assert len(decode(outputs, small_spec(post_center_range=tuple(borders)))) == count
        # A limit in double precision is compared as the float32 that a box's centre is.
        borders = [-50.0, -50.0, -50.0, 50.0, 50.0, 50.0]
        borders[side] = float(np.nextafter(float(center[axis]), -sign * np.inf))
        assert np.float32(borders[side]) == center[axis]
        assert len(decode(outputs, small_spec(post_center_range=tuple(borders)))) == 1
