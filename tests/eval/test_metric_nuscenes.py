"""The nuScenes score held against nuscenes-devkit itself and against values known by hand."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

from base.errors import DataError
from eval.metrics import ObjectTable
from eval.metrics.nuscenes import NUSCENES_THRESHOLDS_M, TP_ERRORS, NuScenesMetrics, NuScenesScorer

CLASSES = ("car", "pedestrian", "barrier", "traffic_cone")
needs_devkit = pytest.mark.skipif(
    importlib.util.find_spec("nuscenes") is None, reason="nuscenes-devkit is not installed"
)


def make_tables(seed: int, num_frames: int = 6) -> tuple[ObjectTable, ObjectTable]:
    rng = np.random.default_rng(seed)
    count = 10 * num_frames
    frame = np.repeat(np.arange(num_frames), 10)
    label = rng.integers(0, len(CLASSES), count)
    center = np.column_stack([rng.uniform(-50, 50, (count, 2)), rng.normal(0, 1, count)])
    size = rng.uniform(0.5, 5, (count, 3))
    velocity = rng.normal(0, 3, (count, 2))
    velocity[::9] = np.nan
    yaw = rng.uniform(-3, 3, count)
    truth = ObjectTable(
        frame, label, np.ones(count), center, size, yaw, velocity, rng.integers(0, 4, count).astype(np.int64)
    )
    found = ObjectTable(
        frame,
        np.where(rng.random(count) < 0.9, label, rng.integers(0, len(CLASSES), count)),
        rng.integers(0, 12, count) / 12,  # few values, so that many are equal
        center + rng.normal(0, 0.8, center.shape),
        size * rng.uniform(0.8, 1.2, size.shape),
        yaw + rng.normal(0, 0.4, count),
        np.nan_to_num(velocity) + rng.normal(0, 1, velocity.shape),
        np.full(count, -1, np.int64),
    )
    return found, truth


def score(found: ObjectTable, truth: ObjectTable, num_frames: int = 6, *, filtered: bool = False) -> NuScenesMetrics:
    scorer = NuScenesScorer(CLASSES, filtered=filtered)
    # In two chunks, as the command reads them.
    for first, last in ((0, 2), (2, num_frames)):
        parts = [item.select((item.frame >= first) & (item.frame < last)).from_frame(first) for item in (found, truth)]
        scorer.add(parts[0], parts[1], last - first)
    return scorer.result()


@needs_devkit
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_devkit(seed: int) -> None:
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.common.utils import center_distance
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.data_classes import DetectionBox

    found, truth = make_tables(seed)
    keep = truth.num_points > 0
    limit = {"car": 50.0, "pedestrian": 40.0, "barrier": 30.0, "traffic_cone": 30.0}
    sides = []
    for table, is_truth in ((found, False), (truth, True)):
        boxes = EvalBoxes()
        for frame in range(6):
            inside = []
            for row in np.flatnonzero(table.frame == frame):
                name = CLASSES[table.label[row]]
                if np.hypot(*table.center[row, :2]) >= limit[name] or (is_truth and not keep[row]):
                    continue
                inside.append(
                    DetectionBox(
                        sample_token=str(frame),
                        translation=tuple(table.center[row]),
                        size=tuple(table.size[row, [1, 0, 2]]),
                        rotation=(math.cos(table.yaw[row] / 2), 0, 0, math.sin(table.yaw[row] / 2)),
                        velocity=tuple(table.velocity[row]),
                        detection_name=name,
                        detection_score=float(table.score[row]),
                        attribute_name="",
                    )
                )
            boxes.add_boxes(str(frame), inside)
        sides.append(boxes)
    ours = score(found, truth, filtered=True)
    for item in ours.classes:
        undefined = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
        for index, threshold in enumerate(NUSCENES_THRESHOLDS_M):
            data = accumulate(sides[1], sides[0], item.class_name, center_distance, threshold)
            assert item.ap[index] == pytest.approx(calc_ap(data, 0.1, 0.1), abs=1e-9)
            assert item.max_recall[index] == pytest.approx(data.max_recall, abs=1e-9)
            if threshold != 2.0:
                continue
            for name in TP_ERRORS:
                if name in undefined.get(item.class_name, ()):
                    assert math.isnan(item.tp_errors[name])
                else:
                    assert item.tp_errors[name] == pytest.approx(calc_tp(data, 0.1, name), abs=1e-9), name
    assert ours.mean_ap > 0.2


def one_car(shift: float = 0.0, **columns: float) -> ObjectTable:
    zero = np.zeros(1, np.int64)
    return ObjectTable(
        zero,
        zero,
        np.array([columns.get("score", 0.9)]),
        np.array([[10.0 + shift, 0, 0]]),
        np.array([[4.0, 2.0, columns.get("height", 1.5)]]),
        np.array([columns.get("yaw", 0.0)]),
        np.array([[columns.get("speed", 0.0), 0.0]]),
        np.array([int(columns.get("points", 7))]),
    )


def test_nds_of_a_perfect_detector() -> None:
    scorer = NuScenesScorer(["car"], filtered=True)
    scorer.add(one_car(), one_car(), 1)
    result = scorer.result()
    assert result.mean_ap == pytest.approx(1.0)
    # No attributes are given, so that their error is 1: (5 · 1 + 4 · 1 + 0) / 10.
    assert result.nds == pytest.approx(0.9)
    assert scorer.result(attributes_equal=True).nds == pytest.approx(1.0)


def test_true_positive_errors_by_hand() -> None:
    scorer = NuScenesScorer(["car"], filtered=False)
    scorer.add(one_car(0.6, yaw=0.2, speed=1.5, height=3.0), one_car(speed=0.5), 1)
    result = scorer.result()
    assert result.tp_errors == pytest.approx(
        {"trans_err": 0.6, "scale_err": 0.5, "orient_err": 0.2, "vel_err": 1.0, "attr_err": 1.0}
    )
    # 0.6 m apart: no match at 0.5 m, one at the others.
    assert result.classes[0].ap == pytest.approx((0.0, 1.0, 1.0, 1.0))
    assert result.nds == pytest.approx((5 * 0.75 + 0.4 + 0.5 + 0.8 + 0.0 + 0.0) / 10)


def test_classes_without_ground_truth_count_as_zero() -> None:
    scorer = NuScenesScorer(["car", "bus"], filtered=True)
    scorer.add(one_car(), one_car(), 1)
    assert scorer.result().mean_ap == pytest.approx(0.5)
    assert scorer.result().tp_errors["trans_err"] == pytest.approx(0.5)


def test_filter_drops_far_objects_and_ground_truth_without_points() -> None:
    for shift, points, left in ((0.0, 7, 1), (45.0, 7, 0), (0.0, 0, 0), (0.0, -1, 1)):
        scorer = NuScenesScorer(["car"], filtered=True)
        scorer.add(one_car(shift), one_car(shift, points=points), 1)
        assert scorer.result().classes[0].num_ground_truth == left


def test_no_frames() -> None:
    with pytest.raises(DataError, match="no frames to score"):
        NuScenesScorer(["car"], filtered=True).result()
