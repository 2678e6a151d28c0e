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

__all__ = ["ScoredDetections", "WeightedPrecision"]

# Detections of a class up to which all draws are computed at once; of more, draw by draw is faster.
_FEW = 1500


@dataclass(frozen=True, eq=False)
class ScoredDetections:
    """Detections of one class in one range at one threshold, best score first.

    Attributes:
        frame: (K,) frame of each detection; the same at every threshold.
        hit_at: (H,) which of them are true positives, ascending.
        num_ground_truth: (F,) ground truths of each frame.
        detection: (K,) number of each among all detections of all frames; at another threshold those of one frame with
            one score can lie in another order.
    """

    frame: NDArray[np.int64]
    hit_at: NDArray[np.int64]
    num_ground_truth: NDArray[np.int64]
    detection: NDArray[np.int64]

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


def _precisions(items: Sequence[ScoredDetections], by_draw: NDArray[np.int32], policy: ApPolicy) -> NDArray[np.float64]:
    """(T, R) AP of every draw at each threshold.

    Draw by draw: what one needs of a class stays in the processor's cache. AP adds, for every point of the recall grid,
    the best precision of all true positives beyond it, so that only the first of them has to be found for each point,
    and the best between one such place and the next.

    Args:
        items: Of one class in one range, by threshold.
        by_draw: (R, F) how often each frame was drawn.
        policy: AP conventions.
    """
    frame, num_ground_truth = items[0].frame, items[0].num_ground_truth
    grid = np.linspace(0.0, 1.0, policy.num_recalls)[_first_point(policy) :].astype(np.float64)
    found = np.empty((len(items), len(by_draw)))
    for draw, count in enumerate(by_draw):
        num_truth = int(num_ground_truth @ count)
        nothing = policy.empty_class_ap if num_truth == 0 else 0.0
        running = np.cumsum(count[frame], dtype=np.int32)
        seen = int(running[-1]) if len(running) else 0
        found[:, draw] = 0.0 if seen else nothing
        if not seen:
            continue
        # How many hits it takes to get beyond each point. The product may have been rounded down to less than a whole
        # number, so that two steps can be missing; the quotients are the recalls themselves.
        needed: NDArray[np.float64] = np.floor(grid * num_truth)
        for _ in range(2):
            needed += needed / max(num_truth, 1) <= grid
        for row, item in enumerate(items):
            hits = np.cumsum(count[frame[item.hit_at]], dtype=np.int32)
            if len(hits) and hits[-1]:
                found[row, draw] = _area(item, hits, running, needed, grid, num_truth, policy)
    return found


def _area(
    item: ScoredDetections,
    hits: NDArray[np.int32],
    running: NDArray[np.int32],
    needed: NDArray[np.float64],
    grid: NDArray[np.float64],
    num_truth: int,
    policy: ApPolicy,
) -> float:
    """AP of one draw with a hit in it.

    Args:
        item: The detections.
        hits: (H,) hits up to each true positive, as often as their frames were drawn.
        running: (K,) detections up to each.
        needed: How many hits are beyond each point of the grid.
        grid: The recalls that count.
        num_truth: Ground truths.
        policy: AP conventions.
    """
    first = np.searchsorted(hits, needed.astype(np.int32))
    first = first[first < len(hits)]
    area = 0.0
    if len(first):
        precision = hits[first[0] :] / running[item.hit_at[first[0] :]]
        best = np.maximum.accumulate(np.maximum.reduceat(precision, first - first[0])[::-1])
        area = float(np.maximum(best - policy.min_precision, 0.0).sum())
    # A grid point exactly at the last recall: there, precision is that of the whole list.
    if (grid == hits[-1] / max(num_truth, 1)).any():
        area += max(float(hits[-1] / running[-1]) - policy.min_precision, 0.0)
    return area / len(grid) / (1.0 - policy.min_precision)


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
        self._scored: list[ScoredDetections] = []
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
                    self._scored.append(
                        ScoredDetections(estimates.frame[best], np.flatnonzero(hit[best]), num_truth, best)
                    )

    @classmethod
    def of_scored(cls, scored: Sequence[ScoredDetections], shape: tuple[int, int, int]) -> WeightedPrecision:
        """A result that was matched before.

        Args:
            scored: By range, class and threshold, the last running fastest.
            shape: How many ranges, classes and thresholds.
        """
        made = cls.__new__(cls)
        made._shape, made._scored = shape, list(scored)
        return made

    def scored(self, limit: int, label: int, threshold: int) -> ScoredDetections:
        """Of one range, class and threshold, by their places."""
        return self._scored[int(np.ravel_multi_index((limit, label, threshold), self._shape))]

    def groups_with_objects(self, group_of: NDArray[np.int64], num_groups: int) -> NDArray[np.int64]:
        """(ranges, 1 + classes) how many groups of frames hold an object, of any class first.

        Args:
            group_of: (F,) number of each frame's group.
            num_groups: How many there are.
        """
        ranges, classes, thresholds = self._shape
        holds = np.zeros((ranges, 1 + classes, num_groups), bool)
        for part in range(ranges):
            for label in range(classes):
                of_frames = self._scored[(part * classes + label) * thresholds].num_ground_truth
                holds[part, 1 + label, group_of[of_frames > 0]] = True
        holds[:, 0] = holds[:, 1:].any(axis=1)
        return np.asarray(holds.sum(axis=2), np.int64)

    def average_precision(self, counts: NDArray[np.int32], policy: ApPolicy) -> NDArray[np.float64]:
        """Mean AP over the thresholds under every weighting.

        Args:
            counts: (F, R) int32, how often each frame counts.
            policy: AP conventions; with an envelope.

        Returns:
            (ranges, 1 + classes, R): the mean over the classes first; NaN where there is no object.
        """
        by_draw = np.ascontiguousarray(counts.T)
        step = self._shape[-1]
        groups = (self._scored[start : start + step] for start in range(0, len(self._scored), step))
        values = np.concatenate(
            [
                _precisions(group, by_draw, policy)
                if len(group[0].frame) > _FEW
                else [item.average_precision(counts, policy) for item in group]
                for group in groups
            ]
        )
        classes = values.reshape(*self._shape, -1).mean(axis=2)
        known = ~np.isnan(classes)
        total = np.where(known, classes, 0.0).sum(axis=1)
        with np.errstate(invalid="ignore"):
            mean = total / known.sum(axis=1)
        return np.concatenate([mean[:, None], classes], axis=1)
