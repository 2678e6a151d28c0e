"""Assignment of detections to ground truth: greedy by score, all frames at once.

Taken one by one, in descending score, each detection takes the best ground truth that is still free, if its value is
better than the threshold. That is a serial dictatorship, the stable assignment of a market in which every ground truth
prefers the higher score; so it can be computed in rounds for all frames together: every detection that is still free
proposes to the best ground truth that has not refused it, every ground truth keeps its best proposer. The rounds needed
are the longest chain of such refusals, a handful in practice, instead of one step per detection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.metrics.objects import ObjectTable

__all__ = ["CENTER_DISTANCE", "CENTER_DISTANCE_BEV", "CandidatePairs", "MatchingMode", "assign", "candidate_pairs"]

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class MatchingMode:
    """How well a detection fits a ground truth.

    Attributes:
        name: As in results ("center_distance_bev").
        larger_is_better: True for overlaps, False for distances.
        values: Value of every pair of one frame: (E, G) for E detections and G ground truths.
    """

    name: str
    larger_is_better: bool
    values: Callable[[ObjectTable, ObjectTable], Array]

    def better(self, values: Array, threshold: float | Array) -> NDArray[np.bool_]:
        """Which values pass the threshold; equality does not."""
        return values > threshold if self.larger_is_better else values < threshold


def _bev_distance(estimates: ObjectTable, ground_truth: ObjectTable) -> Array:
    delta = estimates.center[:, None, :2] - ground_truth.center[None, :, :2]
    return np.hypot(delta[..., 0], delta[..., 1])


def _distance(estimates: ObjectTable, ground_truth: ObjectTable) -> Array:
    delta = estimates.center[:, None] - ground_truth.center[None]
    return np.asarray(np.sqrt(np.einsum("egc,egc->eg", delta, delta)))


CENTER_DISTANCE_BEV = MatchingMode("center_distance_bev", larger_is_better=False, values=_bev_distance)
"""Distance of the centres in the ground plane, metres."""

CENTER_DISTANCE = MatchingMode("center_distance", larger_is_better=False, values=_distance)
"""Distance of the centres in space, metres."""


@dataclass(frozen=True, eq=False)
class CandidatePairs:
    """Pairs of one frame that may be matched, best first for each detection, the detections ascending.

    Attributes:
        estimate: (P,) row of the detection in its table.
        ground_truth: (P,) row of the ground truth in its table.
        value: (P,) matching value.
    """

    estimate: IntArray
    ground_truth: IntArray
    value: Array

    def select(self, mask: NDArray[np.bool_]) -> CandidatePairs:
        """The pairs that the mask keeps; order is kept."""
        return CandidatePairs(self.estimate[mask], self.ground_truth[mask], self.value[mask])


def candidate_pairs(
    estimates: ObjectTable,
    ground_truth: ObjectTable,
    mode: MatchingMode,
    compatible: NDArray[np.bool_],
    loosest: Array,
) -> CandidatePairs:
    """All pairs of the same frame whose labels may match and whose value can pass a threshold.

    Args:
        estimates: Detections, labels >= 0.
        ground_truth: Ground truth, labels >= 0.
        mode: Gives the value of a pair.
        compatible: (C, C) bool, [detection label, ground truth label].
        loosest: (C,) per ground truth label, the loosest threshold in use.
    """
    num_frames = 1 + max(
        int(estimates.frame[-1]) if len(estimates) else -1, int(ground_truth.frame[-1]) if len(ground_truth) else -1
    )
    estimate_at = estimates.frame_slices(num_frames)
    truth_at = ground_truth.frame_slices(num_frames)
    found: list[tuple[IntArray, IntArray, Array]] = []
    for frame in np.flatnonzero((np.diff(estimate_at) > 0) & (np.diff(truth_at) > 0)):
        rows = slice(estimate_at[frame], estimate_at[frame + 1])
        columns = slice(truth_at[frame], truth_at[frame + 1])
        values = mode.values(estimates.select(rows), ground_truth.select(columns))
        possible = mode.better(values, loosest[ground_truth.label[columns]][None])
        possible &= compatible[estimates.label[rows][:, None], ground_truth.label[columns][None]]
        row, column = np.nonzero(possible)
        found.append((row + rows.start, column + columns.start, values[row, column]))
    if not found:
        return CandidatePairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    estimate, truth, value = (np.concatenate(column) for column in zip(*found, strict=True))
    # Equal values: the ground truth that comes first in the frame wins.
    order = np.lexsort((truth, -value if mode.larger_is_better else value, estimate))
    return CandidatePairs(estimate[order], truth[order], value[order])


def assign(pairs: CandidatePairs, rank: IntArray, num_ground_truth: int) -> IntArray:
    """Greedy one-to-one assignment by rank.

    Args:
        pairs: Candidates that pass the threshold, best first for each detection.
        rank: (E,) order in which detections choose: the lower chooses first; distinct within a frame.
        num_ground_truth: Rows of the ground-truth table.

    Returns:
        (E,) row of the ground truth that each detection takes, -1 for none.
    """
    taken = np.full(len(rank), -1, np.int64)
    if not len(pairs.estimate):
        return taken
    holder = np.full(num_ground_truth, -1, np.int64)
    proposer, first = np.unique(pairs.estimate, return_index=True)
    cursor = np.zeros(len(rank), np.int64)
    end = np.zeros(len(rank), np.int64)
    cursor[proposer] = first
    end[proposer] = np.append(first[1:], len(pairs.estimate))
    free = proposer
    while free.size:
        # Challengers meet the present holders; the lowest rank of each ground truth stays.
        wanted = pairs.ground_truth[cursor[free]]
        held = holder[wanted]
        contested = np.unique(held[held >= 0])
        estimate = np.concatenate([free, contested])
        truth = np.concatenate([wanted, taken[contested]])
        order = np.lexsort((rank[estimate], truth))
        estimate, truth = estimate[order], truth[order]
        wins = np.append(True, truth[1:] != truth[:-1])
        losers = estimate[~wins]
        taken[losers] = -1
        taken[estimate[wins]] = truth[wins]
        holder[truth[wins]] = estimate[wins]
        cursor[losers] += 1
        free = losers[cursor[losers] < end[losers]]
    return taken
