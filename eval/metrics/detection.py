"""Detection metrics of a set of frames: class × threshold × distance range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from base.errors import ConfigError, DataError
from eval.metrics.average_precision import PERCEPTION_EVAL, ApPolicy, PrecisionRecall, precision_recall
from eval.metrics.limits import ObjectLimits
from eval.metrics.matching import CENTER_DISTANCE_BEV, CandidatePairs, MatchingMode, assign, candidate_pairs
from eval.metrics.objects import FrameResult, ObjectTable

__all__ = [
    "DEFAULT_RANGES_M",
    "DEFAULT_THRESHOLDS_M",
    "TOTAL",
    "ClassMetrics",
    "DetectionMetrics",
    "MatchingRules",
    "RangeMetrics",
    "default_ranges",
    "evaluate_detections",
    "evaluate_tables",
]

DEFAULT_THRESHOLDS_M = (0.5, 1.0, 2.0, 4.0)
DEFAULT_RANGES_M = ((0.0, 50.0), (50.0, 90.0), (90.0, 121.0))
TOTAL = "total"
"""Name of the range that spans all others."""


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class ClassMetrics:
    """One class in one range, at every threshold.

    Attributes:
        class_name: The class.
        thresholds: Ascending by `threshold`.
    """

    class_name: str
    thresholds: tuple[PrecisionRecall, ...]

    @property
    def mean_ap(self) -> float:
        """Mean over the thresholds; NaN for a class with neither ground truth nor detections."""
        return _mean(item.ap for item in self.thresholds)

    @property
    def num_ground_truth(self) -> int:
        """Ground truths of the class, the same at every threshold."""
        return self.thresholds[0].num_ground_truth if self.thresholds else 0

    def at(self, threshold: float) -> PrecisionRecall:
        """The result at one threshold.

        Raises:
            KeyError: it was not evaluated at this threshold.
        """
        for item in self.thresholds:
            if math.isclose(item.threshold, threshold):
                return item
        raise KeyError(f"no result at {threshold}; there are {[item.threshold for item in self.thresholds]}")


@dataclass(frozen=True)
class RangeMetrics:
    """All classes in one distance range.

    Attributes:
        name: "0-50 m", or `TOTAL`.
        min_m: Objects lie farther than this from the ego, in the ground plane,
        max_m: and nearer than this.
        classes: In the order of the class names.
    """

    name: str
    min_m: float
    max_m: float
    classes: tuple[ClassMetrics, ...]

    @property
    def mean_ap(self) -> float:
        """Mean over the classes of their means over thresholds, classes without any object left out."""
        return _mean(item.mean_ap for item in self.classes)

    def of_class(self, name: str) -> ClassMetrics:
        """The metrics of one class.

        Raises:
            KeyError: there is no such class.
        """
        for item in self.classes:
            if item.class_name == name:
                return item
        raise KeyError(f"no class '{name}'; there are {[item.class_name for item in self.classes]}")


@dataclass(frozen=True)
class DetectionMetrics:
    """What `evaluate_detections` found.

    Attributes:
        mode: Name of the matching mode.
        policy: Name of the AP conventions.
        class_names: The scored classes.
        thresholds: Matching thresholds, ascending.
        num_frames: Frames scored.
        ranges: In the order asked for, then the range named `TOTAL`.
    """

    mode: str
    policy: str
    class_names: tuple[str, ...]
    thresholds: tuple[float, ...]
    num_frames: int
    ranges: tuple[RangeMetrics, ...]

    @property
    def total(self) -> RangeMetrics:
        """The range that spans all others."""
        return self.range(TOTAL)

    @property
    def mean_ap(self) -> float:
        """Mean AP over the whole range."""
        return self.total.mean_ap

    def range(self, name: str) -> RangeMetrics:
        """The metrics of one range.

        Raises:
            KeyError: there is no such range.
        """
        for item in self.ranges:
            if item.name == name:
                return item
        raise KeyError(f"no range '{name}'; there are {[item.name for item in self.ranges]}")


@dataclass(frozen=True, eq=False)
class MatchingRules:
    """How detections are matched and pooled.

    Attributes:
        mode: Matching value.
        policy: AP conventions.
        compatible: (C, C) bool [detection label, ground truth label]; None: the same label only.
        agnostic_false_positives: After the matching, detections still free are paired with ground truth still free of
            any class; such a pair is a false positive of the ground truth's class, not of its own.
        critical: Limits applied after the matching: ground truth outside them is dropped with its detection, a
            detection outside them is dropped although its ground truth stays.
    """

    mode: MatchingMode = CENTER_DISTANCE_BEV
    policy: ApPolicy = PERCEPTION_EVAL
    compatible: NDArray[np.bool_] | None = None
    agnostic_false_positives: bool = False
    critical: ObjectLimits = field(default_factory=ObjectLimits)


def default_ranges(half_width_m: float) -> tuple[tuple[float, float], ...]:
    """`DEFAULT_RANGES_M` cut to what a detector of this half width can see.

    Args:
        half_width_m: Largest |x| that the detection grid covers.

    Returns:
        The usual ranges below `half_width_m`; a remainder of at least 5 m keeps its own, shorter range.
    """
    limit = math.floor(half_width_m)
    cut = tuple((low, min(high, float(limit))) for low, high in DEFAULT_RANGES_M if limit - low >= 5.0)
    if not cut:
        raise ConfigError(f"a detection range of {half_width_m} m is too short to evaluate; at least 5 m are needed")
    return cut


def evaluate_detections(
    frames: Sequence[FrameResult],
    class_names: Sequence[str],
    *,
    thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
    ranges_m: Sequence[tuple[float, float]] = DEFAULT_RANGES_M,
    min_score: float | None = None,
    min_num_points: int = 0,
    rules: MatchingRules | None = None,
) -> DetectionMetrics:
    """Scores detections against ground truth; results of all frames are pooled, as in perception_eval.

    Each range is scored on its own: objects outside it take no part in its matching.

    Args:
        frames: Each with a token of its own.
        class_names: The labels of the boxes index these.
        thresholds_m: Matching thresholds.
        ranges_m: (min, max) distances from the ego in the ground plane, both exclusive. The total spans them all.
        min_score: Detections count only above this score; None counts all.
        min_num_points: Ground truth with fewer LiDAR points does not count.
        rules: Matching mode and conventions; BEV centre distance with perception_eval's by default.

    Raises:
        DataError: no frames, two frames of one name, a label outside the classes, a value that is not finite, or a
            minimum point count where the ground truth has no counts.
        ConfigError: no thresholds or ranges, or a range that is empty.
    """
    tokens = [frame.token for frame in frames]
    if not tokens:
        raise DataError("there are no frames to score")
    if len(set(tokens)) != len(tokens):
        double = next(token for token in tokens if tokens.count(token) > 1)
        raise DataError(f"frame '{double}' occurs more than once; every frame is scored once")
    for frame in frames if min_num_points > 0 else ():
        if frame.ground_truth.num_points is None and len(frame.ground_truth):
            raise DataError(
                f"ground truth of frame '{frame.token}' has no point counts, but min_num_points is {min_num_points}; "
                "provide them or set it to 0"
            )
    if not ranges_m or not thresholds_m:
        raise ConfigError(f"nothing to score: ranges {list(ranges_m)}, thresholds {list(thresholds_m)}")
    for low, high in ranges_m:
        if not 0.0 <= low < high:
            raise ConfigError(f"range ({low}, {high}) is empty; give 0 <= min < max in metres")
    num_classes = len(class_names)
    estimates = ObjectTable.from_boxes([frame.detections for frame in frames], tokens, num_classes, "detection")
    truth = ObjectTable.from_boxes([frame.ground_truth for frame in frames], tokens, num_classes, "ground truth")
    named = {f"{low:g}-{high:g} m": (float(low), float(high)) for low, high in ranges_m}
    named[TOTAL] = (min(low for low, _ in ranges_m), max(high for _, high in ranges_m))
    limits = {
        name: ObjectLimits(low, high, min_score=min_score, min_num_points=min_num_points)
        for name, (low, high) in named.items()
    }
    thresholds = tuple(sorted(float(value) for value in thresholds_m))
    results = evaluate_tables(
        estimates, truth, class_names, [thresholds] * num_classes, limits, rules or MatchingRules()
    )
    ranges = tuple(RangeMetrics(name, *named[name], classes) for name, classes in results.items())
    rules = rules or MatchingRules()
    return DetectionMetrics(rules.mode.name, rules.policy.name, tuple(class_names), thresholds, len(frames), ranges)


def evaluate_tables(
    estimates: ObjectTable,
    ground_truth: ObjectTable,
    class_names: Sequence[str],
    thresholds: Sequence[Sequence[float]],
    limits: dict[str, ObjectLimits],
    rules: MatchingRules,
) -> dict[str, tuple[ClassMetrics, ...]]:
    """The core of `evaluate_detections`, for objects in tables and limits of any kind.

    Args:
        estimates: Detections of all frames; within a frame, the order decides among equal scores.
        ground_truth: Ground truth of all frames.
        class_names: The scored classes.
        thresholds: Per class.
        limits: By name; each is scored on its own.
        rules: Matching and pooling.

    Returns:
        By the names of `limits`, the metrics per class.
    """
    num_classes = len(class_names)
    estimates = estimates.select(estimates.label >= 0)
    ground_truth = ground_truth.select(ground_truth.label >= 0)
    same = np.eye(num_classes, dtype=bool)
    compatible = same if rules.compatible is None else rules.compatible
    anything = np.ones_like(compatible) if rules.agnostic_false_positives else compatible
    pick = min if rules.mode.larger_is_better else max
    nothing = math.inf if rules.mode.larger_is_better else -math.inf
    loosest = np.array([pick(values, default=nothing) for values in thresholds])
    pairs = candidate_pairs(estimates, ground_truth, rules.mode, anything, loosest)

    # Position of every detection in its frame's order of choice: score descending, then input order.
    order = np.lexsort((np.arange(len(estimates)), -estimates.score, estimates.frame))
    rank = np.empty(len(estimates), np.int64)
    rank[order] = np.arange(len(estimates))

    distinct = sorted({value for values in thresholds for value in values})
    active = {value: np.array([value in values for values in thresholds]) for value in distinct}
    results: dict[str, tuple[ClassMetrics, ...]] = {}
    for name, limit in limits.items():
        keep_estimate = limit.mask(estimates, num_classes, ground_truth=False)
        keep_truth = limit.mask(ground_truth, num_classes, ground_truth=True)
        inside = pairs.select(keep_estimate[pairs.estimate] & keep_truth[pairs.ground_truth])
        found: list[list[PrecisionRecall]] = [[] for _ in class_names]
        for value in distinct:
            usable = inside.select(
                rules.mode.better(inside.value, value)
                & active[value][estimates.label[inside.estimate]]
                & active[value][ground_truth.label[inside.ground_truth]]
            )
            match = _match(usable, rank, estimates, ground_truth, compatible, rules.agnostic_false_positives)
            scored = _pool(match, rank, estimates, ground_truth, keep_estimate, keep_truth, compatible, rules)
            for label in np.flatnonzero(active[value]):
                found[label].append(scored.precision_recall(int(label), value, rules.policy))
        results[name] = tuple(ClassMetrics(class_names[label], tuple(items)) for label, items in enumerate(found))
    return results


def _match(
    pairs: CandidatePairs,
    rank: NDArray[np.int64],
    estimates: ObjectTable,
    ground_truth: ObjectTable,
    compatible: NDArray[np.bool_],
    agnostic: bool,
) -> NDArray[np.int64]:
    """(E,) ground truth of each detection, -1 for none; incompatible ones only from the agnostic pass."""
    allowed = compatible[estimates.label[pairs.estimate], ground_truth.label[pairs.ground_truth]]
    match = assign(pairs.select(allowed), rank, len(ground_truth))
    if agnostic:
        taken = np.zeros(len(ground_truth), bool)
        taken[match[match >= 0]] = True
        rest = pairs.select((match[pairs.estimate] < 0) & ~taken[pairs.ground_truth])
        late = assign(rest, rank, len(ground_truth))
        match = np.where(match < 0, late, match)
    return match


@dataclass(frozen=True, eq=False)
class _Pooled:
    """Detections of all frames at one threshold, in the order of the results."""

    label: NDArray[np.int64]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    num_ground_truth: NDArray[np.int64]

    def precision_recall(self, label: int, threshold: float, policy: ApPolicy) -> PrecisionRecall:
        of_class = self.label == label
        hit = self.hit[of_class]
        count = int(self.num_ground_truth[label])
        return precision_recall(self.score[of_class], np.ones(len(hit)), hit, count, threshold, policy)


def _pool(
    match: NDArray[np.int64],
    rank: NDArray[np.int64],
    estimates: ObjectTable,
    ground_truth: ObjectTable,
    keep_estimate: NDArray[np.bool_],
    keep_truth: NDArray[np.bool_],
    compatible: NDArray[np.bool_],
    rules: MatchingRules,
) -> _Pooled:
    num_classes = len(compatible)
    critical_truth = rules.critical.mask(ground_truth, num_classes, ground_truth=True)
    counted = keep_estimate & rules.critical.mask(estimates, num_classes, ground_truth=False)
    matched = match >= 0
    counted[matched] &= critical_truth[match[matched]]
    # Within a frame pairs come before free detections, each in the order of choice.
    rows = np.flatnonzero(counted)
    rows = rows[np.lexsort((rank[rows], ~matched[rows], estimates.frame[rows]))]
    label = estimates.label[rows].copy()
    hit = np.zeros(len(rows), bool)
    paired = matched[rows]
    truth_label = ground_truth.label[match[rows[paired]]]
    hit[paired] = compatible[label[paired], truth_label]
    label[paired] = truth_label
    num = np.bincount(ground_truth.label[keep_truth & critical_truth], minlength=num_classes)
    return _Pooled(label, estimates.score[rows], hit, num.astype(np.int64))
