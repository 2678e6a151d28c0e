"""What a vehicle cares for beside AP: flipped headings, velocities, boxes as old as the frame took, what is near.

docs/metrics.md defines each, with its sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from eval.metrics.criticality import criticality
from eval.metrics.detection import DEFAULT_THRESHOLDS_M, evaluate_detections
from eval.metrics.geometry import circular_difference
from eval.metrics.limits import ObjectLimits
from eval.metrics.objects import FrameResult, ObjectTable
from eval.metrics.scorer import ChunkMatcher, MatchingRules

__all__ = [
    "ALL_CLASSES",
    "COMMON_LATENCY_S",
    "MATCH_M",
    "MIN_SCORE",
    "DrivingRow",
    "DrivingScore",
    "moved_on",
    "score_driving",
]

ALL_CLASSES = "all"
MATCH_M = 2.0
"""Largest distance of the centres of a pair in the ground plane: that of nuScenes' true-positive errors."""
MIN_SCORE = 0.3
"""Detections below take no part but in AP."""
COMMON_LATENCY_S = 0.1
"""One period of a 10 Hz sensor, at which backends of different speed are compared."""


@dataclass(frozen=True)
class DrivingRow:
    """One class, or all of them.

    Attributes:
        class_name: The class, or `ALL_CLASSES`.
        num_ground_truth: Objects in range.
        num_pairs: Objects with a detection within 2 m.
        flipped_headings: Share of the pairs whose headings are more than 90° apart; NaN without pairs.
        heading_error_rad: Mean over the pairs; NaN without any.
        velocity_error_mps: Mean length of the difference of both velocities, over pairs whose object's is known; NaN
            without any.
        critical_recall: Share of the criticality of all objects that was found; NaN without any.
        critical_precision: Share of the criticality of all detections that are pairs; NaN without any.
        ap: Mean AP over 0.5, 1, 2, 4 m, of all classes the mean; NaN without objects and detections.
        ap_at_common_latency: The same of boxes that are 0.1 s old.
        ap_at_own_latency: The same of boxes that are as old as a frame took; NaN where time is not told.
    """

    class_name: str
    num_ground_truth: int
    num_pairs: int
    flipped_headings: float
    heading_error_rad: float
    velocity_error_mps: float
    critical_recall: float
    critical_precision: float
    ap: float
    ap_at_common_latency: float
    ap_at_own_latency: float


@dataclass(frozen=True)
class DrivingScore:
    """One backend.

    Attributes:
        label: Of the evaluation.
        own_latency_s: Median time of a frame; NaN where time is not told.
        frames_with_ego_motion: Frames of which the ego's velocity is known; in the others it is taken to stand.
        total: All classes.
        classes: In the order of the class names.
    """

    label: str
    own_latency_s: float
    frames_with_ego_motion: int
    total: DrivingRow
    classes: tuple[DrivingRow, ...]


def moved_on(boxes: Boxes3D, seconds: float) -> Boxes3D:
    """Where objects are after some time, at the velocities that they have; those of unknown velocity stay."""
    values = boxes.boxes.copy()
    values[:, :2] += np.nan_to_num(values[:, 7:9]) * np.float32(seconds)
    return replace(boxes, boxes=values)


def score_driving(
    label: str,
    frames: Sequence[FrameResult],
    class_names: Sequence[str],
    own_latency_s: float | None,
    ego_velocities: Sequence[NDArray[np.float64] | None],
    ranges_m: Sequence[tuple[float, float]],
    thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
) -> DrivingScore:
    """Scores detections for a vehicle.

    Args:
        label: Of the evaluation.
        frames: At least one, each with a token of its own.
        class_names: The labels of the boxes index these.
        own_latency_s: Time of a frame from points to boxes; None where it is not told.
        ego_velocities: Per frame (2,) m/s over ground in the axes of its boxes; None where it is not known.
        ranges_m: Distances from the ego; objects between the least and the largest of them count.
        thresholds_m: Of AP.

    Raises:
        DataError, ConfigError: as for `evaluate_detections`.
    """
    reach = (min(low for low, _ in ranges_m), max(high for _, high in ranges_m))
    ages = (0.0, COMMON_LATENCY_S, *(() if own_latency_s is None else (own_latency_s,)))
    untold = [] if len(ages) == 3 else [math.nan]
    average = {
        seconds: evaluate_detections(
            [replace(frame, ground_truth=moved_on(frame.ground_truth, seconds)) for frame in frames],
            class_names,
            thresholds_m=thresholds_m,
            ranges_m=[reach],
        )
        for seconds in dict.fromkeys(ages)
    }
    ap = [average[seconds].total for seconds in ages]
    pairs = _Pairs.of(frames, class_names, ego_velocities, ObjectLimits(*reach))
    classes = tuple(
        pairs.row(name, index, [*(item.classes[index].mean_ap for item in ap), *untold])
        for index, name in enumerate(class_names)
    )
    total = pairs.row(ALL_CLASSES, None, [*(item.mean_ap for item in ap), *untold])
    known = sum(velocity is not None for velocity in ego_velocities)
    return DrivingScore(label, math.nan if own_latency_s is None else own_latency_s, known, total, classes)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Objects and detections in range, and which belong together.

    Attributes:
        found, truth: Those that count.
        partner: (E,) row of the ground truth of each detection, -1 for none.
        found_weight, truth_weight: Criticality of each.
    """

    found: ObjectTable
    truth: ObjectTable
    partner: NDArray[np.int64]
    found_weight: NDArray[np.float64]
    truth_weight: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        frames: Sequence[FrameResult],
        class_names: Sequence[str],
        ego_velocities: Sequence[NDArray[np.float64] | None],
        limits: ObjectLimits,
    ) -> _Pairs:
        tokens, count = [frame.token for frame in frames], len(class_names)
        found = ObjectTable.from_boxes([frame.detections for frame in frames], tokens, count, "detection")
        truth = ObjectTable.from_boxes([frame.ground_truth for frame in frames], tokens, count, "ground truth")
        found = found.select(limits.mask(found, count, ground_truth=False) & (found.score >= MIN_SCORE))
        truth = truth.select(limits.mask(truth, count, ground_truth=True))
        matcher = ChunkMatcher(found, truth, [(MATCH_M,)] * count, MatchingRules())
        near = matcher.inside(np.ones(len(found), bool), np.ones(len(truth), bool))
        partner = matcher.match(near, MATCH_M, np.ones(count, bool))
        ego = np.array([np.zeros(2) if velocity is None else velocity for velocity in ego_velocities])
        weights = (
            criticality(table.center[:, :2], table.velocity, ego[table.frame].reshape(len(table), 2))
            for table in (found, truth)
        )
        return cls(found, truth, partner, *weights)

    def row(self, name: str, label: int | None, ap: Sequence[float]) -> DrivingRow:
        """One class (None: all), with its AP at no, the common and its own latency."""
        found_here = np.ones(len(self.found), bool) if label is None else self.found.label == label
        truth_here = np.ones(len(self.truth), bool) if label is None else self.truth.label == label
        rows = np.flatnonzero(found_here & (self.partner >= 0))
        found, truth = self.found.select(rows), self.truth.select(self.partner[rows])
        turn = circular_difference(found.yaw, truth.yaw)
        speed = np.hypot(*(found.velocity - truth.velocity).T)
        is_found = np.zeros(len(self.truth), bool)
        is_found[self.partner[rows]] = True
        return DrivingRow(
            name,
            int(truth_here.sum()),
            len(rows),
            _mean(turn > math.pi / 2),
            _mean(turn),
            _mean(speed[np.isfinite(speed)]),
            _share(self.truth_weight, is_found, truth_here),
            _share(self.found_weight, self.partner >= 0, found_here),
            *ap,
        )


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _share(weight: NDArray[np.float64], part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """Weight of the part in that of the whole."""
    total = float(weight[whole].sum())
    return float(weight[whole & part].sum()) / total if total > 0.0 else math.nan
