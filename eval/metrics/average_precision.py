"""Average precision from matched detections of one class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NUSCENES",
    "PERCEPTION_EVAL",
    "PERCEPTION_EVAL_COMPAT",
    "ApPolicy",
    "PrecisionRecall",
    "precision_recall",
    "score_order",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ApPolicy:
    """The conventions in which AP definitions of the field differ.

    Attributes:
        name: As in results.
        envelope: Precision at a recall is the best at that or any higher recall; otherwise the raw precision.
        min_recall: Recalls up to and including this do not count.
        min_precision: Subtracted from every precision, then clipped at 0.
        num_recalls: Points of the recall grid over [0, 1].
        empty_class_ap: AP of a class with neither ground truth nor detections; NaN leaves it out of the means.
        unsigned_heading: APH compares rotation magnitudes, so that a turn to the left equals one to the right.
        stable_ties: Equal scores keep an order that follows from the input alone; otherwise numpy's default sort, whose
            order depends on the CPU, decides.
    """

    name: str
    envelope: bool
    min_recall: float = 0.1
    min_precision: float = 0.1
    num_recalls: int = 101
    empty_class_ap: float = math.nan
    unsigned_heading: bool = False
    stable_ties: bool = True

    @property
    def first_recall(self) -> int:
        """Index of the first point of the recall grid that counts."""
        return round(self.min_recall * (self.num_recalls - 1)) + 1

    def area(self, curve: Array) -> float:
        """AP of a precision curve on the recall grid: what exceeds `min_precision`, relative to the most it can be."""
        gain = np.maximum(curve[self.first_recall :] - self.min_precision, 0.0)
        return float(np.mean(gain) / (1.0 - self.min_precision))


PERCEPTION_EVAL = ApPolicy("perception_eval", envelope=True)
"""Conventions of autoware_perception_evaluation 1.3.6, true headings, reproducible order of equal scores."""

PERCEPTION_EVAL_COMPAT = replace(PERCEPTION_EVAL, name="perception_eval_compat", unsigned_heading=True)
"""The same with the headings that the package takes for boxes in base_link."""

NUSCENES = ApPolicy("nuscenes", envelope=False, empty_class_ap=0.0)
"""Conventions of nuscenes-devkit, detection_cvpr_2019."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of one class at one threshold, over all scores.

    Attributes:
        threshold: Matching threshold, in the unit of the matching mode.
        ap: Average precision in [0, 1]; NaN for a class with neither ground truth nor detections.
        aph: The same with true positives weighted by 1 - |heading error| / π.
        num_ground_truth: Ground truths that count.
        num_detections: Detections that count.
        num_true_positives: Detections with a ground truth.
        heading_sum: Sum of the heading weights of the true positives.
        max_f1: Largest harmonic mean of precision and recall; NaN without any true positive.
        best_score: Score at which it is reached: the confidence threshold to use in production, by F1.
        best_precision: Precision there.
        best_recall: Recall there.
        match_mean: Mean matching value: of the matched detections for distances, of all detections (0 for those
            without a ground truth) for overlaps; NaN without any.
        match_std: Its standard deviation.
        curve: (num_recalls,) precision on the recall grid, as AP sees it, to six decimals; 0 past the highest recall
            reached.
    """

    threshold: float
    ap: float
    aph: float
    num_ground_truth: int
    num_detections: int
    num_true_positives: int
    heading_sum: float
    max_f1: float
    best_score: float
    best_precision: float
    best_recall: float
    match_mean: float
    match_std: float
    curve: tuple[float, ...]

    @property
    def num_false_positives(self) -> int:
        """Detections without a ground truth."""
        return self.num_detections - self.num_true_positives

    @property
    def num_misses(self) -> int:
        """Ground truths without a detection."""
        return self.num_ground_truth - self.num_true_positives


def score_order(scores: Array, *, stable: bool = True) -> NDArray[np.intp]:
    """Indices by descending score; among equal scores the last comes first, which both references do."""
    return np.argsort(scores, kind="stable" if stable else None)[::-1]


def precision_recall(
    scores: Array,
    hit: NDArray[np.bool_],
    num_ground_truth: int,
    threshold: float,
    policy: ApPolicy,
    *,
    heading: Array | None = None,
    values: Array | None = None,
) -> PrecisionRecall:
    """AP, APH and the curve behind them.

    Args:
        scores: (K,) of the detections of one class, pooled over all frames, in the order of the results.
        hit: (K,) which detections have a ground truth.
        num_ground_truth: Ground truths of the class.
        threshold: Matching threshold the hits belong to, copied into the result.
        policy: Conventions.
        heading: (K,) heading weight of the hits; 1 for all by default.
        values: Matching values to describe by mean and standard deviation.
    """
    nan = math.nan
    num_hits = int(hit.sum())
    if not len(scores):
        ap = policy.empty_class_ap if num_ground_truth == 0 else 0.0
        empty = (0.0,) * policy.num_recalls
        return PrecisionRecall(threshold, ap, ap, num_ground_truth, 0, 0, 0.0, nan, nan, nan, nan, nan, nan, empty)
    order = score_order(scores, stable=policy.stable_ties)
    ranked = hit[order]
    precision, recall, curve = _curve(ranked.astype(np.float64), ~ranked, num_ground_truth, policy)
    weights = np.where(hit, 1.0 if heading is None else heading, 0.0)
    weighted = curve if heading is None else _curve(weights[order], ~ranked, num_ground_truth, policy)[2]
    ap, aph = (policy.area(curve), policy.area(weighted)) if num_ground_truth else (0.0, 0.0)

    best = (nan, nan, nan, nan)
    if num_hits and num_ground_truth:
        both = precision + recall
        f1 = np.divide(2 * precision * recall, both, out=np.full_like(both, -1.0), where=both > 0)
        at = int(np.argmax(f1))
        best = (float(f1[at]), float(scores[order[at]]), float(precision[at]), float(recall[at]))
    # Sums of sorted numbers do not depend on the order of the frames.
    described = np.sort(values) if values is not None else np.zeros(0)
    spread = (float(np.mean(described)), float(np.std(described))) if len(described) else (nan, nan)
    return PrecisionRecall(
        threshold,
        ap,
        aph,
        num_ground_truth,
        len(scores),
        num_hits,
        float(np.sort(weights).sum()),
        *best,
        *spread,
        curve=tuple(np.round(curve, 6).tolist()),
    )


def _curve(
    weights: Array, miss: NDArray[np.bool_], num_ground_truth: int, policy: ApPolicy
) -> tuple[Array, Array, Array]:
    """Precision and recall after each detection, and the precision on the recall grid."""
    true_positives = np.cumsum(weights)
    total = true_positives + np.cumsum(miss)
    precision = np.divide(true_positives, total, out=np.zeros_like(total), where=total > 0)
    recall = true_positives / num_ground_truth if num_ground_truth else np.zeros_like(total)
    shown = np.maximum.accumulate(precision[::-1])[::-1] if policy.envelope else precision
    grid = np.linspace(0.0, 1.0, policy.num_recalls)
    return precision, recall, np.interp(grid, recall, shown, right=0.0)
