"""nuScenes' official evaluation of frames, held against nuscenes-devkit's own, run on the same boxes in the map."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from eval.metrics import FrameResult
from eval.metrics.nuscenes import NUSCENES_RANGES_M, NUSCENES_THRESHOLDS_M, TP_ERRORS
from eval.metrics.nuscenes_frames import FramePose, check_nuscenes_classes, score_nuscenes

CLASSES = tuple(NUSCENES_RANGES_M)
needs_devkit = pytest.mark.skipif(
    importlib.util.find_spec("nuscenes") is None, reason="nuscenes-devkit is not installed"
)


def rotation(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    cx, sx, cy, sy, cz, sz = (turn(a) for a in (roll, pitch, yaw) for turn in (math.cos, math.sin))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.asarray(np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_y @ about_x)


def pose(rng: np.random.Generator) -> FramePose:
    """A LiDAR as nuScenes mounts it, and a vehicle somewhere on a hill."""
    lidar2ego, ego2global = np.eye(4), np.eye(4)
    lidar2ego[:3, :3], lidar2ego[:3, 3] = rotation(0.01, -0.02, -math.pi / 2), (0.94, 0.0, 1.84)
    roll, pitch = rng.normal(0, 0.03, 2).tolist()
    ego2global[:3, :3] = rotation(roll, pitch, rng.uniform(-3, 3))
    ego2global[:3, 3] = rng.uniform(300, 2000, 3)
    return FramePose(lidar2ego, ego2global)


def as_boxes(boxes: Any, scores: Any, labels: Any, num_points: Any = None) -> Boxes3D:
    counts = None if num_points is None else np.asarray(num_points, np.int64)
    kinds = np.asarray(labels, np.int64)
    return Boxes3D(np.asarray(boxes, np.float32), np.asarray(scores, np.float32), kinds, counts)


def make_frames(seed: int, count: int = 5) -> list[FrameResult]:
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        number = 120
        boxes = np.column_stack(
            [
                rng.uniform(-55, 55, (number, 2)),
                rng.normal(-1, 0.5, number),
                rng.uniform(0.5, 5, (number, 3)),
                rng.uniform(-3, 3, number),
                rng.normal(0, 3, (number, 2)),
            ]
        )
        boxes[::11, 7:] = np.nan
        labels = rng.integers(0, len(CLASSES), number)
        truth = as_boxes(boxes, np.ones(number), labels, rng.integers(0, 5, number))
        moved = np.nan_to_num(boxes) + rng.normal(0, 0.4, boxes.shape) * [1, 1, 1, 0.2, 0.2, 0.2, 0.5, 1, 1]
        moved[:, 3:6] = np.abs(moved[:, 3:6]) + 0.1
        wrong = rng.random(number) < 0.1
        scores = rng.integers(1, 40, number) / 40  # few values, so that many are equal
        guessed = np.where(wrong, rng.integers(0, len(CLASSES), number), labels)
        kept = rng.random(number) < 0.9
        frames.append(
            FrameResult(f"frame-{index}", as_boxes(moved, scores, guessed).select(np.flatnonzero(kept)), truth)
        )
    return frames


class _NoRacks:
    """What the devkit asks its database for: annotations of bicycle racks, of which there are none."""

    def get(self, table: str, token: str) -> dict[str, Any]:
        assert table == "sample"
        assert token
        return {"anns": []}


def devkit_metrics(frames: list[FrameResult], poses: list[FramePose | None]) -> Any:
    """nuscenes-devkit's `DetectionEval` with its own configuration, filters and loops."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.common.loaders import filter_eval_boxes
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.utils.data_classes import Box
    from pyquaternion import Quaternion

    run = DetectionEval.__new__(DetectionEval)
    run.cfg = config_factory("detection_cvpr_2019")
    run.verbose = False
    sides = []
    for is_truth in (False, True):
        everything = EvalBoxes()
        for frame, own in zip(frames, poses, strict=True):
            of_frame = []
            side = frame.ground_truth if is_truth else frame.detections
            steps = [np.eye(4)] if own is None else [own.lidar2ego, own.ego2global]
            ego = steps[-1][:3, 3]
            for row in range(len(side)):
                values = side.boxes[row].astype(float)
                box = Box(
                    values[:3],
                    values[[4, 3, 5]],
                    Quaternion(axis=[0, 0, 1], radians=values[6]),
                    velocity=(*values[7:9], 0.0),
                )
                for step in steps:
                    box.rotate(Quaternion(matrix=step[:3, :3], atol=1e-6, rtol=1e-6))
                    box.translate(step[:3, 3])
                points = -1 if side.num_points is None else int(side.num_points[row])
                of_frame.append(
                    DetectionBox(
                        sample_token=frame.token,
                        translation=tuple(box.center),
                        size=tuple(box.wlh),
                        rotation=tuple(box.orientation.elements),
                        velocity=tuple(box.velocity[:2]),
                        ego_translation=tuple(box.center - ego),
                        num_pts=points,
                        detection_name=CLASSES[side.labels[row]],
                        detection_score=-1.0 if is_truth else float(side.scores[row]),
                        attribute_name="",
                    )
                )
            everything.add_boxes(frame.token, of_frame)
        sides.append(filter_eval_boxes(_NoRacks(), everything, run.cfg.class_range))
    run.pred_boxes, run.gt_boxes = sides
    metrics, _ = run.evaluate()
    return metrics


@needs_devkit
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_poses", [True, False], ids=["in the LiDAR's axes", "in the vehicle's axes"])
def test_equals_the_devkits_whole_evaluation(seed: int, with_poses: bool) -> None:
    frames = make_frames(seed)
    rng = np.random.default_rng(100 + seed)
    poses: list[FramePose | None] = [pose(rng) if with_poses else None for _ in frames]
    ours, theirs = score_nuscenes("x", frames, poses, CLASSES), devkit_metrics(frames, poses)
    assert ours.is_complete
    assert 0.2 < ours.nds < 0.9
    assert ours.nds == pytest.approx(theirs.nd_score, abs=1e-9)
    assert ours.mean_ap == pytest.approx(theirs.mean_ap, abs=1e-9)
    for name in TP_ERRORS:
        assert ours.tp_errors[name] == pytest.approx(theirs.tp_errors[name], abs=1e-9), name
    for item in ours.classes:
        for threshold, ap in zip(NUSCENES_THRESHOLDS_M, item.ap, strict=True):
            assert ap == pytest.approx(theirs.get_label_ap(item.class_name, threshold), abs=1e-9)
        for name in TP_ERRORS:
            expected = theirs.get_label_tp(item.class_name, name)
            assert item.tp_errors[name] == pytest.approx(expected, abs=1e-9, nan_ok=True), (item.class_name, name)


@needs_devkit
def test_limits_are_the_devkits() -> None:
    from nuscenes.eval.common.config import config_factory

    from eval.metrics.average_precision import NUSCENES
    from eval.metrics.nuscenes_frames import MAX_BOXES

    config = config_factory("detection_cvpr_2019")
    assert config.class_range == NUSCENES_RANGES_M
    assert tuple(config.dist_ths) == NUSCENES_THRESHOLDS_M
    assert config.max_boxes_per_sample == MAX_BOXES
    assert config.min_recall == pytest.approx((NUSCENES.first_recall - 1) / (NUSCENES.num_recalls - 1))


def test_a_frame_of_too_many_boxes_is_refused_as_the_devkit_refuses_it() -> None:
    boxes = np.zeros((501, 9))
    boxes[:, 3:6] = 1
    crowd = as_boxes(boxes, np.full(501, 0.5), np.zeros(501, int))
    with pytest.raises(DataError, match="frame 'a' has 501 detections; nuScenes takes at most 500"):
        score_nuscenes("x", [FrameResult("a", crowd, Boxes3D.empty())], [None], CLASSES)


def test_models_that_cannot_be_scored_so_are_told_before_any_frame() -> None:
    check_nuscenes_classes(("car", "bicycle"), 500, "deploy.py")
    with pytest.raises(ConfigError, match=r"deploy\.py: nuScenes has no class 'tram'; .* It has car, truck, bus"):
        check_nuscenes_classes(("car", "tram"), 100, "deploy.py")
    with pytest.raises(ConfigError, match="can give 1200 boxes for a frame; nuScenes takes at most 500"):
        check_nuscenes_classes(("car",), 1200, "deploy.py")


def test_fewer_classes_are_no_official_score() -> None:
    box = as_boxes([[10.0, 0, 0, 4, 2, 1.5, 0, 0, 0]], [0.9], [0], [7])
    score = score_nuscenes("x", [FrameResult("a", box, box)], [None], ("car",))
    assert not score.is_complete
    # Everything right but the attributes, which nobody predicts.
    assert score.nds == pytest.approx(0.9)
