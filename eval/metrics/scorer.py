"""Scoring frame by frame, in memory that does not grow with the frames: matching now, average precision at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from base.errors import ConfigError, DataError
from eval.metrics.average_precision import PERCEPTION_EVAL, ApPolicy, PrecisionRecall, precision_recall
from eval.metrics.detection_results import ClassMetrics, mean_of_known
from eval.metrics.heading import heading_weight
from eval.metrics.limits import ObjectLimits
from eval.metrics.matching import CandidatePairs, candidate_pairs, choice_order, loosest_thresholds, match_at
from eval.metrics.modes import CENTER_DISTANCE_BEV, MatchingMode
from eval.metrics.objects import ObjectTable
from eval.metrics.spool import RecordSpool

__all__ = ["ChunkMatcher", "DetectionScorer", "FrameMeans", "MatchingRules", "Outcome"]

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_RECORD = np.dtype(
    [
        ("frame", "i4"),
        ("label", "i2"),
        ("hit", "?"),
        ("paired", "?"),
        ("score", "f8"),
        ("heading", "f8"),
        ("value", "f8"),
    ]
)


@dataclass(frozen=True, eq=False)
class MatchingRules:
    """How detections are matched and pooled.

    Attributes:
        mode: Matching value.
        policy: AP conventions.
        compatible: bool [detection label, ground truth label] of C + 1 labels, the last for detections of unknown
            class, or of C labels where there are none; None: the same label only.
        agnostic_false_positives: After the matching, detections still free are paired with ground truth still free of
            any class; such a pair is a false positive of the ground truth's class, not of its own.
        stray_false_positives: A class with a detection that is free at a threshold of other classes is scored there as
            well, where it has no ground truth to find: AP 0. perception_eval does so unless labels must be equal.
        critical: Limits applied after the matching: ground truth outside them is dropped with its detection, a
            detection outside them is dropped although its ground truth stays.
    """

    mode: MatchingMode = CENTER_DISTANCE_BEV
    policy: ApPolicy = PERCEPTION_EVAL
    compatible: BoolArray | None = None
    agnostic_false_positives: bool = False
    stray_false_positives: bool = False
    critical: ObjectLimits = field(default_factory=ObjectLimits)

    def label_matrix(self, num_classes: int) -> BoolArray:
        """(C + 1, C + 1) `compatible`, completed."""
        full = np.zeros((num_classes + 1, num_classes + 1), bool)
        if self.compatible is None:
            full[:num_classes, :num_classes] = np.eye(num_classes, dtype=bool)
        else:
            rows, columns = self.compatible.shape
            full[:rows, :columns] = self.compatible
        return full


class ChunkMatcher:
    """The matching of some frames, at any threshold and within any limits, from pairs that are valued once."""

    def __init__(
        self,
        estimates: ObjectTable,
        ground_truth: ObjectTable,
        thresholds: Sequence[Sequence[float]],
        rules: MatchingRules,
        *,
        last_first: bool = False,
    ) -> None:
        num_classes = len(thresholds)
        self.estimates = estimates.select(estimates.label >= 0)
        known = (ground_truth.label >= 0) & (ground_truth.label < num_classes)
        self.ground_truth = ground_truth.select(known)
        self.rules = rules
        self.compatible = rules.label_matrix(num_classes)
        self.rank = choice_order(self.estimates, last_first=last_first)
        self._by_class = rules.compatible is None
        agnostic = rules.agnostic_false_positives
        loosest = np.append(loosest_thresholds(thresholds, rules.mode), np.nan)
        self._pairs = candidate_pairs(
            self.estimates,
            self.ground_truth,
            rules.mode,
            np.ones_like(self.compatible) if agnostic else self.compatible,
            loosest,
        )

    def inside(self, keep_estimate: BoolArray, keep_truth: BoolArray) -> CandidatePairs:
        """The candidate pairs of which both objects are kept."""
        return self._pairs.select(keep_estimate[self._pairs.estimate] & keep_truth[self._pairs.ground_truth])

    def match(self, pairs: CandidatePairs, threshold: float | NDArray[np.float64], active: BoolArray) -> IntArray:
        """(E,) row of the ground truth of each detection, -1 for none.

        Args:
            pairs: From `inside`.
            threshold: To be passed; a number, or per class.
            active: (C,) which classes are scored at it.
        """
        label = self.ground_truth.label[pairs.ground_truth]
        limit = threshold if isinstance(threshold, float) else threshold[label]
        usable = self.rules.mode.better(pairs.value, limit) & active[label]
        if self._by_class:
            usable &= np.append(active, False)[self.estimates.label[pairs.estimate]]
        return match_at(
            pairs.select(usable),
            self.rank,
            self.estimates,
            self.ground_truth,
            self.compatible,
            agnostic=self.rules.agnostic_false_positives,
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of the detections of some frames at one threshold, in the order in which they are pooled.

    Attributes:
        rows: (K,) rows of the detections that count.
        truth: (K,) row of the ground truth of each, -1 for none.
        label: (K,) class under which each counts: the ground truth's, if it has one.
        hit: (K,) which are true positives.
    """

    rows: IntArray
    truth: IntArray
    label: IntArray
    hit: BoolArray

    @classmethod
    def of(cls, matcher: ChunkMatcher, match: IntArray, counted: BoolArray, critical_truth: BoolArray) -> Outcome:
        """Pairs whose ground truth is not critical are dropped; `counted` says which detections may count."""
        estimates = matcher.estimates
        matched = match >= 0
        counted = counted.copy()
        counted[matched] &= critical_truth[match[matched]]
        rows = np.flatnonzero(counted)
        truth = match[rows]
        paired = truth >= 0
        label = estimates.label[rows]
        truth_label = np.where(paired, matcher.ground_truth.label[truth] if len(matcher.ground_truth) else 0, label)
        hit = paired & matcher.compatible[label, truth_label]
        # Within a frame: true positives, pairs of other classes, free detections; each in the order of choice.
        kind = np.where(hit, 0, np.where(paired, 1, 2))
        order = np.lexsort((matcher.rank[rows], kind, estimates.frame[rows]))
        return cls(rows[order], truth[order], truth_label[order], hit[order])


@dataclass(frozen=True)
class FrameMeans:
    """mAP and mAPH of one frame scored alone; NaN without any object."""

    mean_ap: float
    mean_aph: float


class DetectionScorer:
    """Scores chunks of frames by one matching mode, within several limits at once.

    Args:
        class_names: The scored classes; labels 0 to C - 1 name them, C is a detection of unknown class, -1 is not
            scored.
        thresholds: Per class.
        limits: By name; each is scored on its own: objects outside take no part in its matching.
        rules: Matching and pooling.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        thresholds: Sequence[Sequence[float]],
        limits: dict[str, ObjectLimits],
        rules: MatchingRules,
    ) -> None:
        if len(thresholds) != len(class_names):
            raise ConfigError(f"thresholds are given for {len(thresholds)} classes, there are {len(class_names)}")
        self.class_names = tuple(class_names)
        self.rules = rules
        self.num_frames = 0
        self._thresholds = [tuple(float(value) for value in values) for values in thresholds]
        self._distinct = sorted({value for values in self._thresholds for value in values})
        self._active = {value: np.array([value in values for values in self._thresholds]) for value in self._distinct}
        self._limits = dict(limits)
        self._spools = {(name, value): RecordSpool(_RECORD) for name in limits for value in self._distinct}
        self._counts: dict[str, list[IntArray]] = {name: [] for name in limits}

    def add(self, estimates: ObjectTable, ground_truth: ObjectTable, num_frames: int) -> None:
        """Scores some frames.

        Args:
            estimates: Their detections, `frame` counting from 0.
            ground_truth: Their ground truth.
            num_frames: How many they are; some may have no objects.
        """
        num_classes = len(self.class_names)
        matcher = ChunkMatcher(estimates, ground_truth, self._thresholds, self.rules)
        found, truth = matcher.estimates, matcher.ground_truth
        critical = self.rules.critical
        critical_truth = critical.mask(truth, num_classes, ground_truth=True)
        critical_estimate = critical.mask(found, num_classes, ground_truth=False)
        for name, limit in self._limits.items():
            keep_estimate = limit.mask(found, num_classes, ground_truth=False)
            keep_truth = limit.mask(truth, num_classes, ground_truth=True)
            counting = keep_truth & critical_truth
            key = truth.frame[counting] * num_classes + truth.label[counting]
            self._counts[name].append(
                np.bincount(key, minlength=num_frames * num_classes).reshape(num_frames, num_classes)
            )
            pairs = matcher.inside(keep_estimate, keep_truth)
            for value in self._distinct:
                match = matcher.match(pairs, value, self._active[value])
                outcome = Outcome.of(matcher, match, keep_estimate & critical_estimate, critical_truth)
                self._record(self._spools[name, value], matcher, outcome, pairs, match)
        self.num_frames += num_frames

    def _record(
        self, spool: RecordSpool, matcher: ChunkMatcher, outcome: Outcome, pairs: CandidatePairs, match: IntArray
    ) -> None:
        found, truth = matcher.estimates, matcher.ground_truth
        chosen = match[pairs.estimate] == pairs.ground_truth
        value_of = np.full(len(found), math.nan)
        value_of[pairs.estimate[chosen]] = pairs.value[chosen]
        heading = np.zeros(len(outcome.rows))
        hits = outcome.hit
        heading[hits] = heading_weight(
            found.yaw[outcome.rows[hits]],
            truth.yaw[outcome.truth[hits]],
            unsigned=self.rules.policy.unsigned_heading,
        )
        spool.append(
            frame=found.frame[outcome.rows] + self.num_frames,
            label=outcome.label,
            hit=hits,
            paired=outcome.truth >= 0,
            score=found.score[outcome.rows],
            heading=heading,
            value=value_of[outcome.rows],
        )

    def result(self) -> dict[str, tuple[ClassMetrics, ...]]:
        """By the names of the limits, the metrics per class over all frames.

        Raises:
            DataError: there were no frames.
        """
        if not self.num_frames:
            raise DataError("there are no frames to score")
        results = {}
        for name in self._limits:
            found: list[list[PrecisionRecall]] = [[] for _ in self.class_names]
            num_truth = sum(counts.sum(axis=0) for counts in self._counts[name])
            for value in self._distinct:
                records = self._spools[name, value].read()
                for label in self._scored(value, records):
                    of_class = records[records["label"] == label]
                    found[label].append(self._precision_recall(of_class, int(num_truth[label]), value))
            results[name] = tuple(
                ClassMetrics(self.class_names[label], tuple(items)) for label, items in enumerate(found)
            )
        return results

    def _scored(self, threshold: float, records: NDArray[np.void]) -> IntArray:
        """The classes that have a result at a threshold."""
        scored = self._active[threshold].copy()
        if self.rules.stray_false_positives:
            labels = records["label"]
            scored[labels[labels < len(scored)]] = True
        return np.flatnonzero(scored)

    def _precision_recall(self, records: NDArray[np.void], num_truth: int, threshold: float) -> PrecisionRecall:
        values, paired = records["value"], records["paired"]
        # perception_eval describes all detections by their overlap, but only pairs by their distance.
        values = np.where(paired, values, 0.0) if self.rules.mode.larger_is_better else values[paired]
        return precision_recall(
            records["score"],
            records["hit"],
            num_truth,
            threshold,
            self.rules.policy,
            heading=records["heading"],
            values=values,
        )

    def frame_means(self, name: str) -> Iterator[FrameMeans]:
        """mAP and mAPH of every frame as if it were the only one."""
        counts = np.concatenate(self._counts[name])
        tables = {value: self._spools[name, value].read() for value in self._distinct}
        offsets = {
            value: np.searchsorted(records["frame"], np.arange(self.num_frames + 1))
            for value, records in tables.items()
        }
        for frame in range(self.num_frames):
            found: list[list[PrecisionRecall]] = [[] for _ in self.class_names]
            for value, records in tables.items():
                part = records[offsets[value][frame] : offsets[value][frame + 1]]
                for label in self._scored(value, part):
                    of_class = part[part["label"] == label]
                    found[label].append(self._precision_recall(of_class, int(counts[frame, label]), value))
            classes = [ClassMetrics(name, tuple(items)) for name, items in zip(self.class_names, found, strict=True)]
            yield FrameMeans(
                mean_of_known(item.mean_ap for item in classes), mean_of_known(item.mean_aph for item in classes)
            )
