"""The nuScenes detection score: mAP, true-positive errors and NDS, as nuscenes-devkit computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from eval.metrics.average_precision import NUSCENES, score_order
from eval.metrics.geometry import circular_difference
from eval.metrics.limits import ObjectLimits
from eval.metrics.modes import CENTER_DISTANCE_BEV
from eval.metrics.objects import ObjectTable
from eval.metrics.scorer import ChunkMatcher, MatchingRules
from eval.metrics.spool import RecordSpool

__all__ = [
    "NUSCENES_RANGES_M",
    "NUSCENES_THRESHOLDS_M",
    "TP_ERRORS",
    "NuScenesClass",
    "NuScenesMetrics",
    "NuScenesScorer",
]

Array = NDArray[np.float64]

NUSCENES_THRESHOLDS_M = (0.5, 1.0, 2.0, 4.0)
_TP_THRESHOLD_M = 2.0
NUSCENES_RANGES_M = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
"""Distance from the ego beyond which a class is not scored, metres."""

TP_ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
"""Errors of true positives at 2 m: BEV distance (m), 1 - IoU of the aligned boxes, heading (rad), velocity (m/s), 1 -
share of right attributes."""

# Errors without meaning for a class: they are left out of its means.
_UNDEFINED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
_HALF_TURN_ALIKE = "barrier"
_MEAN_AP_WEIGHT = 5

_RECORD = np.dtype([("label", "i2"), ("hit", "?"), ("score", "f8")])
_TP_RECORD = np.dtype([("label", "i2"), ("hit", "?"), ("score", "f8"), *((name, "f8") for name in TP_ERRORS[:4])])


@dataclass(frozen=True)
class NuScenesClass:
    """One class.

    Attributes:
        class_name: The class.
        ap: AP at each of `NUSCENES_THRESHOLDS_M`; 0 without ground truth or without any match.
        max_recall: Highest recall reached, on the grid of hundredths, at each threshold.
        tp_errors: By the names of `TP_ERRORS`; 1 without any match, NaN where the class has no such error.
        num_ground_truth: Ground truths that count.
        num_detections: Detections that count.
    """

    class_name: str
    ap: tuple[float, ...]
    max_recall: tuple[float, ...]
    tp_errors: dict[str, float]
    num_ground_truth: int
    num_detections: int

    @property
    def mean_ap(self) -> float:
        """Mean over the thresholds."""
        return float(np.mean(self.ap))


@dataclass(frozen=True)
class NuScenesMetrics:
    """All classes.

    Attributes:
        classes: In the order asked for.
    """

    classes: tuple[NuScenesClass, ...]

    @property
    def mean_ap(self) -> float:
        """Mean over the classes, also those without ground truth."""
        return float(np.mean([item.mean_ap for item in self.classes]))

    @property
    def tp_errors(self) -> dict[str, float]:
        """Mean over the classes that have the error."""
        means = {}
        for name in TP_ERRORS:
            known = [item.tp_errors[name] for item in self.classes if not math.isnan(item.tp_errors[name])]
            means[name] = float(np.mean(known)) if known else math.nan
        return means

    @property
    def tp_scores(self) -> dict[str, float]:
        """max(0, 1 - error)."""
        return {name: max(0.0, 1.0 - value) for name, value in self.tp_errors.items()}

    @property
    def nds(self) -> float:
        """nuScenes detection score: mAP, five times, and the five scores of true positives, averaged."""
        scores = self.tp_scores
        return (_MEAN_AP_WEIGHT * self.mean_ap + sum(scores.values())) / (_MEAN_AP_WEIGHT + len(scores))


class NuScenesScorer:
    """Scores chunks of frames.

    Args:
        class_names: Labels 0 to C - 1.
        filtered: Keep the challenge's limits: `NUSCENES_RANGES_M` (50 m for other classes), and no ground truth without
            LiDAR points.
    """

    def __init__(self, class_names: Sequence[str], *, filtered: bool) -> None:
        self.class_names = tuple(class_names)
        ranges = tuple(NUSCENES_RANGES_M.get(name, 50.0) for name in class_names)
        self._limits = ObjectLimits(max_distance_m=ranges) if filtered else ObjectLimits()
        self._filtered = filtered
        self._spools = {
            value: RecordSpool(_TP_RECORD if value == _TP_THRESHOLD_M else _RECORD) for value in NUSCENES_THRESHOLDS_M
        }
        self._num_ground_truth = np.zeros(len(self.class_names), np.int64)
        self.num_frames = 0

    def add(self, estimates: ObjectTable, ground_truth: ObjectTable, num_frames: int) -> None:
        """Scores some frames; `frame` counts from 0, a point count below 0 is unknown and counts as points."""
        count = len(self.class_names)
        rules = MatchingRules(CENTER_DISTANCE_BEV, NUSCENES)
        # Of equal scores the later detection chooses first.
        matcher = ChunkMatcher(estimates, ground_truth, [NUSCENES_THRESHOLDS_M] * count, rules, last_first=True)
        found, truth = matcher.estimates, matcher.ground_truth
        keep_truth = self._limits.mask(truth, count, ground_truth=True)
        if self._filtered:
            keep_truth &= truth.num_points != 0
        keep = self._limits.mask(found, count, ground_truth=False) & (found.label < count)
        self._num_ground_truth += np.bincount(truth.label[keep_truth], minlength=count)
        pairs = matcher.inside(keep, keep_truth)
        rows = np.flatnonzero(keep)
        for value, spool in self._spools.items():
            match = matcher.match(pairs, value, np.ones(count, bool))[rows]
            columns = {"label": found.label[rows], "hit": match >= 0, "score": found.score[rows]}
            if value == _TP_THRESHOLD_M:
                columns |= self._errors(found, truth, rows, match)
            spool.append(**columns)
        self.num_frames += num_frames

    def _errors(
        self, found: ObjectTable, truth: ObjectTable, rows: NDArray[np.int64], match: NDArray[np.int64]
    ) -> dict[str, Array]:
        hit = match >= 0
        a, b = rows[hit], match[hit]
        shared = np.minimum(found.size[a], truth.size[b]).prod(axis=1)
        union = found.size[a].prod(axis=1) + truth.size[b].prod(axis=1) - shared
        turn = circular_difference(found.yaw[a], truth.yaw[b])
        if _HALF_TURN_ALIKE in self.class_names:
            either_way = truth.label[b] == self.class_names.index(_HALF_TURN_ALIKE)
            turn = np.where(either_way, np.minimum(turn, math.pi - turn), turn)
        delta = found.center[a, :2] - truth.center[b, :2]
        speed = found.velocity[a] - truth.velocity[b]
        values = (np.hypot(*delta.T), 1.0 - shared / union, turn, np.hypot(*speed.T))
        errors: dict[str, Array] = {}
        for name, value in zip(TP_ERRORS, values, strict=False):
            errors[name] = np.zeros(len(rows))
            errors[name][hit] = value
        return errors

    def result(self, *, attributes_equal: bool = False) -> NuScenesMetrics:
        """The metrics over all frames.

        Args:
            attributes_equal: Take every attribute of a match for right; otherwise there are none, and their error is 1.

        Raises:
            DataError: there were no frames.
        """
        if not self.num_frames:
            raise DataError("there are no frames to score")
        curves: dict[int, list[tuple[float, float]]] = {label: [] for label in range(len(self.class_names))}
        errors: dict[int, dict[str, float]] = {}
        num_detections = np.zeros(len(self.class_names), np.int64)
        for value, spool in self._spools.items():
            records = spool.read()
            for label, name in enumerate(self.class_names):
                of_class = records[records["label"] == label]
                of_class = of_class[score_order(of_class["score"])]
                num_detections[label] = len(of_class)
                ap, confidence = _curve(of_class, int(self._num_ground_truth[label]))
                reached = np.flatnonzero(confidence)
                last = int(reached[-1]) if reached.size else 0
                curves[label].append((ap, last / (NUSCENES.num_recalls - 1)))
                if value == _TP_THRESHOLD_M:
                    errors[label] = _tp_errors(of_class, confidence, last, name, attributes_equal)
        return NuScenesMetrics(
            tuple(
                NuScenesClass(
                    name,
                    tuple(ap for ap, _ in curves[label]),
                    tuple(recall for _, recall in curves[label]),
                    errors[label],
                    int(self._num_ground_truth[label]),
                    int(num_detections[label]),
                )
                for label, name in enumerate(self.class_names)
            )
        )


def _curve(records: NDArray[np.void], num_truth: int) -> tuple[float, Array]:
    """AP, and the score that belongs to each recall of the grid, 0 beyond the highest recall reached."""
    grid = np.linspace(0.0, 1.0, NUSCENES.num_recalls)
    if not num_truth or not records["hit"].any():
        return 0.0, np.zeros(len(grid))
    true_positives = np.cumsum(records["hit"]).astype(np.float64)
    precision = true_positives / np.arange(1, len(records) + 1)
    recall = true_positives / num_truth
    confidence = np.interp(grid, recall, records["score"], right=0.0)
    return NUSCENES.area(np.interp(grid, recall, precision, right=0.0)), confidence


def _tp_errors(
    records: NDArray[np.void], confidence: Array, last: int, class_name: str, attributes_equal: bool
) -> dict[str, float]:
    """Mean over the recalls that count of the mean error of all matches down to the score of that recall."""
    hits = records[records["hit"]]
    errors = {}
    for name in TP_ERRORS:
        if name in _UNDEFINED.get(class_name, ()):
            errors[name] = math.nan
        elif not len(hits) or last < NUSCENES.first_recall:
            errors[name] = 1.0
        elif name == "attr_err":
            errors[name] = 0.0 if attributes_equal else 1.0
        else:
            means = _running_mean(hits[name])
            curve = np.interp(confidence[::-1], hits["score"][::-1], means[::-1])[::-1]
            errors[name] = float(np.mean(curve[NUSCENES.first_recall : last + 1]))
    return errors


def _running_mean(values: Array) -> Array:
    """Mean of the values up to each, unknown ones left out; 1 throughout if none is known."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    count = np.cumsum(known)
    means: Array = np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count > 0)
    return means
