"""Scoring in chunks, of unknown and ignored objects, and of single frames."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import ConfigError, DataError
from eval.metrics import (
    CENTER_DISTANCE_BEV,
    NOT_A_TARGET,
    PERCEPTION_EVAL,
    PLANE_DISTANCE,
    ClassMetrics,
    DetectionScorer,
    MatchingRules,
    ObjectLimits,
    ObjectTable,
    evaluate_tables,
)
from eval.metrics.pair_errors import ALL_CLASSES, PairErrorScorer
from eval.metrics.spool import RecordSpool

CLASSES = ("car", "bus")
ANYWHERE = {"all": ObjectLimits()}


def objects(
    xy: list[tuple[float, float]],
    label: list[int],
    score: list[float] | None = None,
    frame: list[int] | None = None,
    yaw: float = 0.0,
) -> ObjectTable:
    count = len(xy)
    center = np.column_stack([np.array(xy, float).reshape(-1, 2), np.zeros(count)])
    return ObjectTable(
        np.array(frame or [0] * count, np.int64),
        np.array(label, np.int64),
        np.array(score or [1.0] * count, float),
        center,
        np.tile([4.0, 2.0, 1.5], (count, 1)),
        np.full(count, yaw),
        np.zeros((count, 2)),
        np.full(count, 5, np.int64),
    )


def score(
    found: ObjectTable, truth: ObjectTable, rules: MatchingRules | None = None, num_frames: int = 1
) -> tuple[ClassMetrics, ...]:
    return evaluate_tables(found, truth, CLASSES, [(2.0,)] * 2, ANYWHERE, rules or MatchingRules(), num_frames)["all"]


def crowd(seed: int, num_frames: int) -> tuple[ObjectTable, ObjectTable]:
    rng = np.random.default_rng(seed)
    count = 12 * num_frames
    frame = np.repeat(np.arange(num_frames), 12).tolist()
    xy = rng.uniform(-20, 20, (count, 2))
    label = rng.integers(0, 2, count).tolist()
    truth = objects([tuple(point) for point in xy], label, frame=frame)
    noisy = [tuple(point) for point in xy + rng.normal(0, 1, xy.shape)]
    scores = (rng.integers(0, 20, count) / 20).tolist()  # with ties
    found = objects(noisy, label, scores, frame)
    return replace(found, yaw=rng.normal(0, 0.5, count)), truth


def test_chunks_do_not_matter() -> None:
    found, truth = crowd(0, 600)  # more than evaluate_tables takes at once
    whole = score(found, truth, num_frames=600)
    scorer = DetectionScorer(CLASSES, [(2.0,)] * 2, ANYWHERE, MatchingRules())
    for first in range(0, 600, 7):
        last = min(first + 7, 600)
        parts = [item.select((item.frame >= first) & (item.frame < last)).from_frame(first) for item in (found, truth)]
        scorer.add(parts[0], parts[1], last - first)
    assert scorer.result()["all"] == whole
    assert whole[0].thresholds[0].num_true_positives > 1000


def test_frame_means_equal_frames_scored_alone() -> None:
    found, truth = crowd(1, 5)
    scorer = DetectionScorer(CLASSES, [(2.0,)] * 2, ANYWHERE, MatchingRules())
    scorer.add(found, truth, 5)
    means = list(scorer.frame_means("all"))
    for frame, item in enumerate(means):
        mine, target = (table.select(table.frame == frame).from_frame(frame) for table in (found, truth))
        alone = score(mine, target)
        assert item.mean_ap == pytest.approx(np.mean([part.mean_ap for part in alone]))
        assert item.mean_aph == pytest.approx(np.mean([part.mean_aph for part in alone]))
    assert len({item.mean_ap for item in means}) > 1


def test_a_frame_without_objects_has_no_score() -> None:
    scorer = DetectionScorer(CLASSES, [(2.0,)] * 2, ANYWHERE, MatchingRules())
    scorer.add(objects([], []), objects([], []), 2)
    assert [math.isnan(item.mean_ap) for item in scorer.frame_means("all")] == [True, True]


def unknown_takes_any() -> NDArray[np.bool_]:
    return np.vstack([np.eye(2, dtype=bool), [True, True]])


def test_unknown_detection_takes_ground_truth_where_it_may() -> None:
    found, truth = objects([(0, 10)], [2], [0.9]), objects([(0, 10)], [0])
    hit = score(found, truth, MatchingRules(compatible=unknown_takes_any()))[0].thresholds[0]
    assert hit.num_true_positives == 1
    assert hit.ap == pytest.approx(1.0)
    free = score(found, truth)[0].thresholds[0]
    # Where only equal labels match it is no detection at all: a miss, no false positive.
    assert (free.num_true_positives, free.num_false_positives, free.num_misses) == (0, 0, 1)


def test_unknown_detection_without_ground_truth_is_not_counted() -> None:
    found, truth = objects([(0, 30)], [2], [0.9]), objects([(0, 10)], [0])
    result = score(found, truth, MatchingRules(compatible=unknown_takes_any()))
    assert [item.thresholds[0].num_detections for item in result] == [0, 0]


def test_unknown_detection_is_held_to_the_mean_limits() -> None:
    limits = ObjectLimits(max_distance_m=(20.0, 60.0), min_score=0.5)
    found = objects([(0, 39), (0, 41), (0, 39)], [2, 2, 2], [0.9, 0.9, 0.0])
    assert limits.mask(found, 2, ground_truth=False).tolist() == [True, False, False]
    low = replace(found, score=np.full(3, 0.1))
    assert limits.mask(low, 2, ground_truth=False).tolist() == [True, False, True]


def test_objects_that_are_no_target_do_not_count() -> None:
    found = objects([(0, 10), (0, 20)], [0, NOT_A_TARGET], [0.9, 0.8])
    truth = objects([(0, 10), (0, 30)], [0, NOT_A_TARGET])
    result = score(found, truth)[0].thresholds[0]
    assert (result.num_ground_truth, result.num_detections, result.num_true_positives) == (1, 1, 1)


def test_class_agnostic_pairs_are_false_positives_of_the_ground_truths_class() -> None:
    found, truth = objects([(0, 10)], [1], [0.9]), objects([(0, 10)], [0])
    plain = score(found, truth)
    assert [item.thresholds[0].num_false_positives for item in plain] == [0, 1]
    agnostic = score(found, truth, MatchingRules(agnostic_false_positives=True))
    assert [item.thresholds[0].num_false_positives for item in agnostic] == [1, 0]


def test_critical_limits_drop_pairs_after_the_matching() -> None:
    found = objects([(0, 10), (0, 30)], [0, 0], [0.9, 0.8])
    truth = objects([(0, 10), (0, 30)], [0, 0])
    rules = MatchingRules(critical=ObjectLimits(max_distance_m=20.0))
    inside = score(found, truth, rules)[0].thresholds[0]
    assert (inside.num_ground_truth, inside.num_detections, inside.num_true_positives) == (1, 1, 1)


@pytest.mark.parametrize("order", [(20.5, 10), (10, 20.5)])
def test_a_detection_within_critical_limits_goes_with_its_ground_truth_beyond(order: tuple[float, float]) -> None:
    found, truth = objects([(0, 19)], [0], [0.9]), objects([(0, y) for y in order], [0, 0])
    rules = MatchingRules(critical=ObjectLimits(max_distance_m=20.0))
    inside = score(found, truth, rules)[0].thresholds[0]
    assert (inside.num_ground_truth, inside.num_detections, inside.num_true_positives) == (1, 0, 0)


def test_heading_weighted_ap_knows_left_from_right() -> None:
    found, truth = objects([(0, 10)], [0], [0.9], yaw=0.5), objects([(0, 10)], [0], yaw=-0.5)
    right = score(found, truth)[0].thresholds[0]
    assert right.ap == pytest.approx(1.0)
    assert right.heading_sum == pytest.approx(1 - 1 / math.pi)
    assert right.aph < 0.7
    policy = replace(PERCEPTION_EVAL, unsigned_heading=True)
    compat = score(found, truth, MatchingRules(policy=policy))[0].thresholds[0]
    assert compat.aph == pytest.approx(1.0)


def test_stray_false_positives() -> None:
    found, truth = objects([(0, 30)], [0], [0.9]), objects([(0, 10)], [0])
    rules = MatchingRules(compatible=np.ones((3, 2), bool))
    thresholds = [(2.0,), (1.0,)]
    plain = evaluate_tables(found, truth, CLASSES, thresholds, ANYWHERE, rules, 1)["all"]
    assert [at.threshold for at in plain[0].thresholds] == [2.0]
    # At 1 m only buses have ground truth to find, yet a free detection of a car counts there in perception_eval.
    rules = replace(rules, stray_false_positives=True)
    compat = evaluate_tables(found, truth, CLASSES, thresholds, ANYWHERE, rules, 1)["all"]
    assert [(at.threshold, at.ap) for at in compat[0].thresholds] == [(1.0, 0.0), (2.0, 0.0)]


def test_far_outliers_do_not_disturb_the_matching() -> None:
    found = objects([(0, 10), (1e300, 0), (-1e12, 5)], [0, 0, 0], [0.9, 0.8, 0.7])
    truth = objects([(0.5, 10), (1e300, 0), (1e12, 5)], [0, 0, 0])
    result = score(found, truth)[0].thresholds[0]
    assert result.num_true_positives == 2


def test_pair_errors_by_hand() -> None:
    scorer = PairErrorScorer(CLASSES, (2.0, 2.0), ObjectLimits(), MatchingRules(PLANE_DISTANCE))
    found = objects([(10, 1), (20, 0), (50, 0)], [0, 0, 1], [0.9, 0.8, 0.7], yaw=0.0)
    truth = objects([(10.5, 1), (20.0, 0.3), (60, 0)], [0, 0, 1], yaw=0.0)
    scorer.add(found, truth)
    result = scorer.result()
    assert result[ALL_CLASSES]["x"].average == pytest.approx(0.25)
    assert result["car"]["x"].rms == pytest.approx(math.sqrt(0.125))
    assert result["car"]["distance"].max == pytest.approx(0.5)
    assert result["car"]["distance"].min == pytest.approx(0.3)
    assert result["car"]["nn_plane"].average == pytest.approx(0.4)
    assert math.isnan(result["bus"]["x"].average)


def test_spool_gives_back_what_it_got() -> None:
    spool = RecordSpool(np.dtype([("a", "i4"), ("b", "f8")]))
    assert len(spool.read()) == 0
    for start in range(0, 300_000, 50_000):  # 3.6 MB: more than it keeps in memory
        spool.append(a=np.arange(start, start + 50_000), b=np.full(50_000, start / 7))
    records = spool.read()
    assert records["a"].tolist() == list(range(300_000))
    assert records["b"][260_000] == 250_000 / 7


def test_wrong_use_is_named() -> None:
    with pytest.raises(ConfigError, match="thresholds are given for 1 classes, there are 2"):
        DetectionScorer(CLASSES, [(2.0,)], ANYWHERE, MatchingRules(CENTER_DISTANCE_BEV))
    with pytest.raises(DataError, match="no frames to score"):
        DetectionScorer(CLASSES, [(2.0,)] * 2, ANYWHERE, MatchingRules()).result()
    with pytest.raises(ConfigError, match="max_distance_m has 3 values for 2 classes"):
        ObjectLimits(max_distance_m=(1.0, 2.0, 3.0)).mask(objects([(1, 1)], [0]), 2, ground_truth=True)
