"""Several tasks and suppression by overlap against mmdet3d's CenterHead; shapely stands in for mmcv's compiled op."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.build import import_mmdet3d
from models.spec import ModelSpec
from runtime.decode import decode
from runtime.nms import rotated_nms
from tests.runtime.shapely_overlaps import Overlaps
from tests.runtime.small_model import HEADS, small_config, small_spec, tasks_of

torch = pytest.importorskip("torch")

TASKS = tasks_of((("car",), 4.0), (("truck", "bus"), 1.0), (("bicycle", "pedestrian"), 0.3))
# 20 x 15 cells of 1.28 m and boxes of some metres: crowded.
CROWDED: dict[str, Any] = {
    "tasks": TASKS,
    "out_size_factor": 4,
    "max_detections_before_nms": 30,
    "post_max_size": 20,
}
ROTATE: dict[str, Any] = {"nms_type": "rotate", "nms_iou_threshold": 0.2, "nms_pre_max_size": 25}
FRAMES = 70


@pytest.fixture
def overlaps(monkeypatch: pytest.MonkeyPatch) -> Overlaps:
    import_mmdet3d()
    from mmdet3d.models.layers import box3d_nms

    found = Overlaps()
    monkeypatch.setattr(box3d_nms, "nms_rotated", found)
    return found


def random_outputs(spec: ModelSpec, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Of one frame; no two logits of a task are equal, nor their scores."""
    outputs: dict[str, NDArray[np.float32]] = {}
    for head in spec.heads:
        shape, kind = spec.head_shape(head), head.name.split("_")[0]
        scale = {"reg": 0.4, "height": 1.0, "dim": 0.4, "rot": 1.0, "vel": 3.0, "iou": 1.0}
        if kind == "heatmap":
            logits = rng.permutation(np.linspace(-7, 2, int(np.prod(shape))))
            outputs[head.name] = logits.reshape(shape).astype(np.float32)
        else:
            value = rng.normal(size=shape) * scale[kind] + (0.9 if kind == "dim" else 0.0)
            outputs[head.name] = value.astype(np.float32)
    return outputs


def mmdet3d_head(spec: ModelSpec) -> Any:
    from mmdet3d.models.dense_heads import CenterHead

    config = small_config(spec).model
    options = {key: value for key, value in config.pts_bbox_head.items() if key != "type"}
    return CenterHead(**options, test_cfg=config.test_cfg.pts)


def frames(
    spec: ModelSpec, count: int, overlaps: Overlaps, seed: int = 0
) -> Iterator[tuple[dict[str, NDArray[np.float32]], Any]]:
    """Outputs, and mmdet3d's result of them; frames that hang on a last digit are left out."""
    from mmdet3d.structures import LiDARInstance3DBoxes

    head, rng = mmdet3d_head(spec), np.random.default_rng(seed)
    skipped = 0
    for _ in range(count):
        outputs = random_outputs(spec, rng)
        tasks = tuple(
            [{h.name: torch.from_numpy(outputs[spec.output_name(i, h.name)].copy()) for h in task.heads}]
            for i, task in enumerate(spec.tasks)
        )
        overlaps.undecided = False
        (result,) = head.predict_by_feat(tasks, [{"box_type_3d": LiDARInstance3DBoxes}])
        if overlaps.undecided:
            skipped += 1
            continue
        yield outputs, result
    assert skipped <= count // 20


def assert_equal(spec: ModelSpec, outputs: dict[str, NDArray[np.float32]], result: Any) -> int:
    """Our boxes, put task by task, are mmdet3d's; how many there are."""
    ours = decode(outputs, spec)
    assert (np.diff(ours.scores) <= 0).all()
    owner = np.repeat(np.arange(len(spec.tasks)), [len(task.class_names) for task in spec.tasks])
    ours = ours.select(np.argsort(owner[ours.labels], kind="stable"))
    boxes = result.bboxes_3d.tensor.numpy()
    assert len(ours) == len(boxes)
    np.testing.assert_array_equal(ours.labels, result.labels_3d.numpy())
    columns = boxes.shape[1]
    np.testing.assert_array_equal(ours.boxes[:, [0, 1, *range(7, columns)]], boxes[:, [0, 1, *range(7, columns)]])
    np.testing.assert_array_max_ulp(ours.boxes[:, 3:7], boxes[:, 3:7], maxulp=2)
    np.testing.assert_array_max_ulp(ours.scores, result.scores_3d.numpy(), maxulp=2)
    np.testing.assert_allclose(ours.boxes[:, 2], boxes[:, 2] + boxes[:, 5] / 2, atol=2e-6)
    return len(boxes)


VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"score_threshold": 0.3, "post_max_size": 5},
    {"nms_iou_threshold": 0.5, "nms_pre_max_size": 12, "max_detections_before_nms": 40, "out_size_factor": 2},
    {"nms_iou_threshold": 0.05, "nms_pre_max_size": None},
    {"nms_center_range": (-9.0, -9.0, -1.0, 9.0, 5.0, 1.0)},
)


@pytest.mark.parametrize("changes", VARIANTS)
def test_boxes_of_1000_random_tasks_are_mmdet3ds(changes: dict[str, Any], overlaps: Overlaps) -> None:
    spec = small_spec(**(CROWDED | ROTATE | changes))
    assert 5 * len(spec.tasks) * FRAMES > 1000
    total = sum(assert_equal(spec, *frame) for frame in frames(spec, FRAMES, overlaps))
    assert total > 10 * FRAMES


def test_circles_of_several_tasks_are_mmdet3ds(overlaps: Overlaps) -> None:
    spec = small_spec(**CROWDED)
    assert sum(assert_equal(spec, *frame) for frame in frames(spec, FRAMES, overlaps)) > 10 * FRAMES


def test_tasks_do_not_suppress_each_other_and_an_iou_branch_is_not_read() -> None:
    """One place and one box in every task: all are there, by descending score, labels counted through the tasks."""
    names = tuple(dict(HEADS) | {"iou": 1})
    tasks = tasks_of((("car",), 4.0), (("truck", "bus"), 1.0), (("bicycle", "pedestrian"), 0.3), branches=names)
    variants: tuple[dict[str, Any], ...] = ({}, ROTATE)
    for changes in variants:
        spec = small_spec(tasks=tasks, **changes)
        outputs = {head.name: np.zeros(spec.head_shape(head), np.float32) for head in spec.heads}
        for index, (channel, logit) in enumerate(((0, 1.0), (1, 3.0), (1, 2.0))):
            outputs[f"heatmap_{index}"][:] = -10.0
            outputs[f"heatmap_{index}"][0, channel, 7, 12] = logit
            outputs[f"iou_{index}"][:] = np.nan
        found = decode(outputs, spec)
        assert [spec.class_names[label] for label in found.labels] == ["bus", "pedestrian", "car"]
        np.testing.assert_array_equal(found.boxes[0], found.boxes[1])


def test_an_overlap_at_the_threshold_stays() -> None:
    """3 m x 1 m, 1 m apart along their length: they share 2 m² of 4, whichever way they are turned."""
    for yaw in (0.0, np.pi / 2, 0.7):
        boxes = np.zeros((3, 9), np.float32)
        boxes[:, 3:7] = 3.0, 1.0, 1.0, yaw
        boxes[1, :2] = np.cos(yaw), np.sin(yaw)
        boxes[2, 0] = 50.0
        scores = np.array([0.5, 0.9, 0.7], np.float32)
        assert rotated_nms(boxes, scores, 0.5001).tolist() == [1, 2, 0]
        assert rotated_nms(boxes, scores, 0.4999).tolist() == [1, 2]
        assert rotated_nms(boxes, scores, 0.4999, max_keep=1).tolist() == [1]
        assert rotated_nms(boxes, scores, 0.5001, max_enter=2).tolist() == [1, 2]
    boxes[:2, 6] = 0.0
    boxes[1, :2] = 1.0, 0.0
    assert rotated_nms(boxes, scores, 0.5).tolist() == [1, 2, 0], "mmcv suppresses above the threshold on a GPU"


def test_boxes_that_no_float_holds_or_that_vanish_suppress_nothing() -> None:
    boxes = np.zeros((4, 9), np.float32)
    boxes[:, 3:6] = 1.0
    boxes[0, 3] = 3e38  # twice its half is no float32
    boxes[1, :2] = 1e9  # where half a metre changes nothing
    boxes[2, :2] = 1e9
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert rotated_nms(boxes, scores, 0.1).tolist() == [0, 1, 2, 3]
    assert rotated_nms(boxes[:0], scores[:0], 0.1).tolist() == []
