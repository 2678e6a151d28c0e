"""AP of scenes small enough to compute by hand, ranges, point counts, and wrong input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from eval.metrics import FrameResult, MatchingRules, default_ranges, evaluate_detections
from eval.metrics.average_precision import ApPolicy, precision_recall


def boxes(xy: list[tuple[float, float]], scores: list[float] | None = None, **columns: list[int]) -> Boxes3D:
    values = np.zeros((len(xy), 9), np.float32)
    values[:, :2] = np.array(xy).reshape(-1, 2)
    values[:, 3:6] = [4.0, 2.0, 1.5]
    labels = columns.get("labels", [0] * len(xy))
    points = columns.get("points")
    return Boxes3D(
        values,
        np.array(scores or [1.0] * len(xy), np.float32),
        np.array(labels, np.int64).reshape(-1),
        None if points is None else np.array(points),
    )


def frame(detections: Boxes3D, truth: Boxes3D, token: str = "f0") -> FrameResult:
    return FrameResult(token, detections, truth)


RANGES = [(0.0, 50.0)]


def ap(*frames: FrameResult, threshold: float = 2.0) -> float:
    metrics = evaluate_detections(frames, ["car"], ranges_m=RANGES, thresholds_m=[threshold])
    return metrics.total.of_class("car").at(threshold).ap


def test_perfect_detection() -> None:
    assert ap(frame(boxes([(10, 0)], [0.9]), boxes([(10, 0)]))) == pytest.approx(1.0)


def test_false_positive_below_the_hit_costs_only_the_last_recall() -> None:
    # Both detections lie at recall 1, with precision 1 and 1/2; np.interp takes the last of equal recalls, so that of
    # the 90 recalls that count 89 see precision 1 and one sees 1/2.
    found = boxes([(10, 0), (30, 0)], [0.9, 0.5])
    assert ap(frame(found, boxes([(10, 0)]))) == pytest.approx((89 + 0.4 / 0.9) / 90)


def test_false_positive_above_the_hit_halves_precision() -> None:
    # Precision is 1/2 at every recall, minus the 0.1 that is subtracted, of at most 0.9.
    assert ap(frame(boxes([(10, 0), (30, 0)], [0.5, 0.9]), boxes([(10, 0)]))) == pytest.approx(0.4 / 0.9)


def test_a_miss_halves_recall() -> None:
    # The envelope is 1 up to recall 0.5 and 0 beyond: 40 of the 90 recalls 0.11 ... 1.00 count.
    assert ap(frame(boxes([(10, 0)], [0.9]), boxes([(10, 0), (30, 0)]))) == pytest.approx(40 / 90)


def test_frames_are_pooled_not_averaged() -> None:
    hit = frame(boxes([(10, 0)], [0.5]), boxes([(10, 0)]), "a")
    false = frame(boxes([(10, 0)], [0.9]), boxes([]), "b")
    assert ap(hit, false) == pytest.approx(0.4 / 0.9)


def test_interpolation_is_linear_between_recalls() -> None:
    # Recalls 0, 1/2, 1/2, 1 with precisions 0, 1/2, 1/3, 1/2; the envelope is 1/2 everywhere; without it, the curve
    # passes (0, 0), (0.5, 1/3) and (1, 1/2): np.interp takes the last of equal recalls.
    scores, hit = np.array([0.9, 0.8, 0.7, 0.6]), np.array([False, True, False, True])
    arguments = (scores, hit, 2, 2.0)
    assert precision_recall(*arguments, ApPolicy("e", envelope=True)).ap == pytest.approx(0.4 / 0.9)
    recalls = np.arange(11, 101) / 100
    raw = np.where(recalls < 0.5, recalls / 0.5 * (1 / 2), 1 / 3 + (recalls - 0.5) / 0.5 * (1 / 2 - 1 / 3))
    expected = np.maximum(raw - 0.1, 0).sum() / 90 / 0.9
    assert precision_recall(*arguments, ApPolicy("r", envelope=False)).ap == pytest.approx(expected)


def test_without_a_detection_the_curve_is_zero() -> None:
    nothing = np.zeros(0)
    policy = ApPolicy("e", envelope=True)
    missed = precision_recall(nothing, nothing.astype(bool), 3, 2.0, policy)
    assert (missed.ap, missed.num_ground_truth, missed.curve) == (0.0, 3, (0.0,) * policy.num_recalls)


def test_max_f1_names_the_score_to_use() -> None:
    truth = boxes([(10, 0), (20, 0), (30, 0)])
    found = boxes([(10, 0), (20, 0), (40, 10), (40, 20), (30, 0)], [0.9, 0.8, 0.5, 0.4, 0.3])
    metrics = evaluate_detections([frame(found, truth)], ["car"], ranges_m=RANGES)
    result = metrics.total.of_class("car").at(2.0)
    assert result.best_precision == 1.0
    assert result.best_recall == pytest.approx(2 / 3)
    assert result.max_f1 == pytest.approx(0.8)
    assert result.best_score == pytest.approx(0.8)
    assert (result.num_true_positives, result.num_false_positives, result.num_misses) == (3, 2, 0)


def test_class_without_objects_is_left_out_of_the_mean() -> None:
    metrics = evaluate_detections([frame(boxes([(10, 0)], [0.9]), boxes([(10, 0)]))], ["car", "bus"], ranges_m=RANGES)
    assert math.isnan(metrics.total.of_class("bus").mean_ap)
    assert metrics.mean_ap == pytest.approx(1.0)


def test_class_without_ground_truth_but_detections_counts_as_zero() -> None:
    found = boxes([(10, 0), (20, 0)], [0.9, 0.9], labels=[0, 1])
    metrics = evaluate_detections([frame(found, boxes([(10, 0)]))], ["car", "bus"], ranges_m=RANGES)
    assert metrics.total.of_class("bus").mean_ap == 0.0
    assert metrics.mean_ap == pytest.approx(0.5)


def test_another_class_does_not_match() -> None:
    found = boxes([(10, 0)], [0.9], labels=[1])
    metrics = evaluate_detections([frame(found, boxes([(10, 0)]))], ["car", "bus"], ranges_m=RANGES)
    assert metrics.mean_ap == 0.0


def test_rules_can_let_other_classes_match() -> None:
    found = boxes([(10, 0)], [0.9], labels=[1])
    rules = MatchingRules(compatible=np.ones((2, 2), bool))
    metrics = evaluate_detections([frame(found, boxes([(10, 0)]))], ["car", "bus"], ranges_m=RANGES, rules=rules)
    assert metrics.mean_ap == pytest.approx(1.0)


def test_ranges_are_scored_apart() -> None:
    truth = boxes([(10, 0), (60, 0)])
    metrics = evaluate_detections([frame(boxes([(10, 0)], [0.9]), truth)], ["car"], ranges_m=[(0, 50), (50, 90)])
    assert [item.name for item in metrics.ranges] == ["0-50 m", "50-90 m", "total"]
    assert metrics.range("0-50 m").mean_ap == pytest.approx(1.0)
    assert metrics.range("50-90 m").mean_ap == 0.0
    assert metrics.mean_ap == pytest.approx(40 / 90)


def test_limits_are_strict() -> None:
    truth = boxes([(50, 0), (0, 0), (3, 4)])
    metrics = evaluate_detections([frame(boxes([]), truth)], ["car"], ranges_m=[(5, 50)])
    assert metrics.total.of_class("car").num_ground_truth == 0
    metrics = evaluate_detections([frame(boxes([]), truth)], ["car"], ranges_m=[(0, 51)])
    assert metrics.total.of_class("car").num_ground_truth == 2


def test_ground_truth_with_few_points_is_dropped_and_its_detection_is_false() -> None:
    truth = boxes([(10, 0), (20, 0)], points=[4, 5])
    found = boxes([(10, 0), (20, 0)], [0.9, 0.8])
    metrics = evaluate_detections([frame(found, truth)], ["car"], ranges_m=RANGES, min_num_points=5)
    result = metrics.total.of_class("car").at(2.0)
    assert (result.num_ground_truth, result.num_true_positives, result.num_false_positives) == (1, 1, 1)


def test_order_of_boxes_and_frames_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    frames, shuffled = [], []
    for index in range(5):
        truth = [tuple(point) for point in rng.uniform(-40, 40, (12, 2))]
        found = [(x + rng.normal(0, 1), y + rng.normal(0, 1)) for x, y in truth]
        scores = list(rng.permutation(12) / 100 + index / 1000)
        frames.append(frame(boxes(found, scores), boxes(truth), f"f{index}"))
        order = rng.permutation(12)
        shuffled.append(FrameResult(f"f{index}", frames[-1].detections.select(order), frames[-1].ground_truth))
    expected = evaluate_detections(frames, ["car"], ranges_m=RANGES)
    assert evaluate_detections(shuffled[::-1], ["car"], ranges_m=RANGES).ranges == expected.ranges


@pytest.mark.parametrize(
    ("half_width", "ranges"),
    [
        (51.2, ((0.0, 50.0),)),
        (61.44, ((0.0, 50.0), (50.0, 61.0))),
        (122.4, ((0.0, 50.0), (50.0, 90.0), (90.0, 121.0))),
        (30.0, ((0.0, 30.0),)),
    ],
)
def test_default_ranges_follow_the_grid(half_width: float, ranges: tuple[tuple[float, float], ...]) -> None:
    assert default_ranges(half_width) == ranges


def test_wrong_input_is_named() -> None:
    good = frame(boxes([(10, 0)], [0.9]), boxes([(10, 0)]), "a")
    with pytest.raises(DataError, match="no frames to score"):
        evaluate_detections([], ["car"])
    with pytest.raises(DataError, match="frame 'a' occurs more than once"):
        evaluate_detections([good, good], ["car"])
    bad = frame(boxes([(1, 1), (2, 2)], labels=[0, 3]), boxes([]), "b")
    with pytest.raises(DataError, match="detection 1 of frame 'b' has label 3; the 2 class names allow 0 to 1"):
        evaluate_detections([good, bad], ["car", "bus"])
    with pytest.raises(DataError, match=r"detection 0 of frame 'f0' has a value that is not finite.*score nan"):
        evaluate_detections([frame(boxes([(1, 1)], [math.nan]), boxes([]))], ["car"])
    with pytest.raises(DataError, match="ground truth 0 of frame 'f0' has a value that is not finite"):
        evaluate_detections([frame(boxes([]), boxes([(math.inf, 1)]))], ["car"])
    with pytest.raises(DataError, match="has no point counts, but min_num_points is 5"):
        evaluate_detections([good], ["car"], min_num_points=5)
    with pytest.raises(ConfigError, match=r"range \(50.0, 50.0\) is empty"):
        evaluate_detections([good], ["car"], ranges_m=[(50.0, 50.0)])
    with pytest.raises(ConfigError, match="nothing to score"):
        evaluate_detections([good], ["car"], thresholds_m=[])
