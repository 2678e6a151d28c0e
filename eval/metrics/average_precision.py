"""Average precision from matched detections of one class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PERCEPTION_EVAL", "ApPolicy", "PrecisionRecall", "precision_recall"]

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
    """

    name: str
    envelope: bool
    min_recall: float = 0.1
    min_precision: float = 0.1
    num_recalls: int = 101
    empty_class_ap: float = math.nan


PERCEPTION_EVAL = ApPolicy("perception_eval", envelope=True)
"""Conventions of autoware_perception_evaluation 1.3.6."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of one class at one threshold, over all scores.

    Attributes:
        threshold: Matching threshold, in the unit of the matching mode.
        ap: Average precision in [0, 1]; NaN for a class with neither ground truth nor detections.
        num_ground_truth: Ground truths that count.
        num_detections: Detections that count.
        num_true_positives: Detections with a ground truth.
        max_f1: Largest harmonic mean of precision and recall; NaN without any true positive.
        best_score: Score at which it is reached: the confidence threshold to use in production, by F1.
        best_precision: Precision there.
        best_recall: Recall there.
        curve: (num_recalls,) precision on the recall grid, as AP sees it, to six decimals; 0 past the highest recall
            reached.
    """

    threshold: float
    ap: float
    num_ground_truth: int
    num_detections: int
    num_true_positives: int
    max_f1: float
    best_score: float
    best_precision: float
    best_recall: float
    curve: tuple[float, ...]

    @property
    def num_false_positives(self) -> int:
        """Detections without a ground truth."""
        return self.num_detections - self.num_true_positives

    @property
    def num_misses(self) -> int:
        """Ground truths without a detection."""
        return self.num_ground_truth - self.num_true_positives


def precision_recall(
    scores: Array,
    weights: Array,
    hit: NDArray[np.bool_],
    num_ground_truth: int,
    threshold: float,
    policy: ApPolicy,
) -> PrecisionRecall:
    """AP and the curve behind it.

    Args:
        scores: (K,) of the detections of one class, pooled over all frames, in the order of the results.
        weights: (K,) what a true positive adds: 1 for AP, less for a heading-weighted AP.
        hit: (K,) which detections have a ground truth.
        num_ground_truth: Ground truths of the class.
        threshold: Matching threshold the hits belong to, copied into the result.
        policy: Conventions.
    """
    nan = math.nan
    grid = np.linspace(0.0, 1.0, policy.num_recalls)
    num_hits = int(hit.sum())
    if not len(scores):
        ap = policy.empty_class_ap if num_ground_truth == 0 else 0.0
        empty = (0.0,) * policy.num_recalls
        return PrecisionRecall(threshold, ap, num_ground_truth, 0, 0, nan, nan, nan, nan, empty)
    # Among equal scores the last of the pooled list comes first, which is what a stable sort turned round gives.
    order = np.argsort(scores, kind="stable")[::-1]
    true_positives = np.cumsum(np.where(hit, weights, 0.0)[order])
    false_positives = np.cumsum(~hit[order])
    total = true_positives + false_positives
    precision = np.divide(true_positives, total, out=np.zeros_like(total), where=total > 0)
    recall = true_positives / num_ground_truth if num_ground_truth else np.zeros_like(total)
    shown = np.maximum.accumulate(precision[::-1])[::-1] if policy.envelope else precision
    curve = np.interp(grid, recall, shown, right=0.0)
    first = round(policy.min_recall * (policy.num_recalls - 1)) + 1
    gain = np.maximum(curve[first:] - policy.min_precision, 0.0)
    ap = float(np.mean(gain) / (1.0 - policy.min_precision)) if num_ground_truth else 0.0

    best = (nan, nan, nan, nan)
    if true_positives[-1] > 0 and num_ground_truth:
        both = precision + recall
        f1 = np.divide(2 * precision * recall, both, out=np.full_like(both, -1.0), where=both > 0)
        at = int(np.argmax(f1))
        best = (float(f1[at]), float(scores[order[at]]), float(precision[at]), float(recall[at]))
    return PrecisionRecall(
        threshold, ap, num_ground_truth, len(scores), num_hits, *best, curve=tuple(np.round(curve, 6).tolist())
    )
