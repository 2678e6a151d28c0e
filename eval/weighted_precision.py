"""Average precision of one result under many weightings of its frames.

A frame of weight w counts w times. Its detections stay matched as they were and keep their place in the order of
scores, so a result is matched and sorted once, and a weighting is two cumulative sums.

With the envelope of the AP policy, precision at recall r is the best over all true positives that reach more than r:
another true positive never lowers precision, so the interpolation between two of them is constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.metrics import ApPolicy, FrameResult, MatchingMode, ObjectLimits, ObjectTable
from eval.metrics.matching import assign, candidate_pairs

__all__ = ["WeightedPrecision"]


@dataclass(frozen=True, eq=False)
class _Scored:
    """Detections of one class in one range at one threshold, best score first.

    Attributes:
        frame: (K,) frame of each detection.
        hit_at: (H,) which of them are true positives, ascending.
        num_ground_truth: (F,) ground truths of each frame.
    """

    frame: NDArray[np.int64]
    hit_at: NDArray[np.int64]
    num_ground_truth: NDArray[np.int64]

    def average_precision(self, counts: NDArray[np.int32], policy: ApPolicy) -> NDArray[np.float64]:
        """(R,) AP of every draw.

        Args:
            counts: (F, R) how often each frame was drawn.
            policy: AP conventions.
        """
        num_truth = self.num_ground_truth @ counts
        nothing = np.where(num_truth == 0, policy.empty_class_ap, 0.0)
        if not len(self.frame):
            return nothing
        running = np.cumsum(counts[self.frame], axis=0, dtype=np.int32)
        result = np.where(running[-1] > 0, 0.0, nothing)
        if not len(self.hit_at):
            return result
        hits = np.cumsum(counts[self.frame[self.hit_at]], axis=0, dtype=np.int32)
        seen = running[self.hit_at]
        precision = np.divide(hits, seen, out=np.zeros(hits.shape), where=seen > 0)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        gain = np.maximum(best - policy.min_precision, 0.0)
        recall = hits / np.maximum(num_truth, 1)
        # How many points of the recall grid each true positive adds to those that the ones before it reach.
        reached, points = _grid_points_below(recall, policy)
        area = gain[0] * reached[0] + np.einsum("hr,hr->r", gain[1:], np.diff(reached, axis=0))
        # A grid point exactly at the last recall: there, precision is that of the whole list.
        whole = hits[-1] / np.maximum(running[-1], 1)
        area += np.where(_on_grid(recall[-1], policy), np.maximum(whole - policy.min_precision, 0.0), 0.0)
        return np.where(hits[-1] > 0, area / points / (1.0 - policy.min_precision), result)


def _first_point(policy: ApPolicy) -> int:
    return round(policy.min_recall * (policy.num_recalls - 1)) + 1


def _grid_points_below(recall: NDArray[np.float64], policy: ApPolicy) -> tuple[NDArray[np.int64], int]:
    """How many counted grid points lie below each recall, and how many there are."""
    grid = np.linspace(0.0, 1.0, policy.num_recalls)
    last, first = policy.num_recalls - 1, _first_point(policy)
    # The nearest point at or below, up to rounding; comparing with it settles the rounding.
    near = np.minimum((recall * last + 1e-9).astype(np.int64), last)
    return np.maximum(near + (grid[near] < recall) - first, 0), last + 1 - first


def _on_grid(recall: NDArray[np.float64], policy: ApPolicy) -> NDArray[np.bool_]:
    last = policy.num_recalls - 1
    near = np.minimum((recall * last + 1e-9).astype(np.int64), last)
    hit: NDArray[np.bool_] = np.linspace(0.0, 1.0, policy.num_recalls)[near] == recall
    return hit & (near >= _first_point(policy))


class WeightedPrecision:
    """One result, matched: for each range, class and threshold what AP needs of it.

    Args:
        frames: Detections and ground truth.
        num_classes: Labels lie in [0, num_classes).
        thresholds: Matching thresholds.
        limits: One per range; each is matched on its own.
        mode: Matching value; only equal labels match.
    """

    def __init__(
        self,
        frames: Sequence[FrameResult],
        num_classes: int,
        thresholds: Sequence[float],
        limits: Sequence[ObjectLimits],
        mode: MatchingMode,
    ) -> None:
        tokens = [frame.token for frame in frames]
        self._shape = (len(limits), num_classes, len(thresholds))
        estimates = ObjectTable.from_boxes([frame.detections for frame in frames], tokens, num_classes, "detection")
        truth = ObjectTable.from_boxes([frame.ground_truth for frame in frames], tokens, num_classes, "ground truth")
        rank = np.empty(len(estimates), np.int64)
        rank[np.lexsort((np.arange(len(estimates)), -estimates.score, estimates.frame))] = np.arange(len(estimates))
        loosest = np.full(num_classes, min(thresholds) if mode.larger_is_better else max(thresholds))
        pairs = candidate_pairs(estimates, truth, mode, np.eye(num_classes, dtype=bool), loosest)
        self._scored: list[_Scored] = []
        for limit in limits:
            keep = limit.mask(estimates, num_classes, ground_truth=False)
            keep_truth = limit.mask(truth, num_classes, ground_truth=True)
            inside = pairs.select(keep[pairs.estimate] & keep_truth[pairs.ground_truth])
            matched = [
                assign(inside.select(mode.better(inside.value, threshold)), rank, len(truth)) >= 0
                for threshold in thresholds
            ]
            for label in range(num_classes):
                of_class = truth.frame[keep_truth & (truth.label == label)]
                num_truth = np.bincount(of_class, minlength=len(frames))
                rows = np.flatnonzero(keep & (estimates.label == label))
                for hit in matched:
                    # The pooled order of the metric: within a frame true positives first; of equal scores the last
                    # comes first.
                    pooled = rows[np.lexsort((rank[rows], ~hit[rows], estimates.frame[rows]))]
                    best = pooled[np.argsort(estimates.score[pooled], kind="stable")[::-1]]
                    self._scored.append(_Scored(estimates.frame[best], np.flatnonzero(hit[best]), num_truth))

    def average_precision(self, counts: NDArray[np.int32], policy: ApPolicy) -> NDArray[np.float64]:
        """Mean AP over the thresholds under every weighting.

        Args:
            counts: (F, R) int32, how often each frame counts.
            policy: AP conventions; with an envelope.

        Returns:
            (ranges, 1 + classes, R): the mean over the classes first; NaN where there is no object.
        """
        values = np.stack([item.average_precision(counts, policy) for item in self._scored])
        classes = values.reshape(*self._shape, -1).mean(axis=2)
        known = ~np.isnan(classes)
        total = np.where(known, classes, 0.0).sum(axis=1)
        with np.errstate(invalid="ignore"):
            mean = total / known.sum(axis=1)
        return np.concatenate([mean[:, None], classes], axis=1)
