"""Assignment of detections to ground truth: greedy by score, all frames at once.

Taken one by one, in descending score, each detection takes the best ground truth that is still free, if its value is
better than the threshold. That is a serial dictatorship, the stable assignment of a market in which every ground truth
prefers the higher score; so it can be computed in rounds for all frames together: every detection that is still free
proposes to the best ground truth that has not refused it, every ground truth keeps its best proposer. The rounds needed
are the longest chain of such refusals, a handful in practice, instead of one step per detection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.metrics.modes import CENTER_DISTANCE, CENTER_DISTANCE_BEV, MatchingMode
from eval.metrics.objects import ObjectTable

__all__ = [
    "CENTER_DISTANCE",
    "CENTER_DISTANCE_BEV",
    "CandidatePairs",
    "MatchingMode",
    "assign",
    "candidate_pairs",
    "choice_order",
    "loosest_thresholds",
    "match_at",
]

Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_PAIRS_AT_ONCE = 1 << 18  # bounds memory: some 100 bytes a pair
_FARTHEST_M = 1e6
_HAIR = 1.0 + 1e-9
_SLACK_M = 1e-3


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

    def select(self, mask: BoolArray) -> CandidatePairs:
        """The pairs that the mask keeps; order is kept."""
        return CandidatePairs(self.estimate[mask], self.ground_truth[mask], self.value[mask])


def choice_order(estimates: ObjectTable, *, last_first: bool = False) -> IntArray:
    """(E,) place of every detection in the order in which those of its frame choose: by score, descending.

    Args:
        estimates: Detections.
        last_first: Among equal scores the later row chooses first (nuScenes) instead of the earlier (perception_eval).
    """
    rows = np.arange(len(estimates))
    order = np.lexsort((-rows if last_first else rows, -estimates.score, estimates.frame))
    rank = np.empty(len(estimates), np.int64)
    rank[order] = rows
    return rank


def candidate_pairs(
    estimates: ObjectTable,
    ground_truth: ObjectTable,
    mode: MatchingMode,
    compatible: BoolArray,
    loosest: Array,
) -> CandidatePairs:
    """All pairs of the same frame whose labels may match and whose value can pass a threshold.

    Args:
        estimates: Detections, labels >= 0.
        ground_truth: Ground truth, labels >= 0.
        mode: Gives the value of a pair.
        compatible: (L, L) bool, [detection label, ground truth label].
        loosest: (L,) per ground truth label, the loosest threshold in use.
    """
    radius, truth_radius = _half_diagonal(estimates), _half_diagonal(ground_truth)
    usable = loosest[np.isfinite(loosest)]
    farthest = 0.0
    if mode.reach_has_threshold:
        farthest += float(usable.max(initial=0.0))
    if mode.reach_has_size:
        farthest += float(radius.max(initial=0.0) + truth_radius.max(initial=0.0))
    found: list[tuple[IntArray, IntArray, Array]] = []
    for row, column in _near_pairs(estimates, ground_truth, compatible, farthest):
        reach = np.zeros(len(row))
        if mode.reach_has_threshold:
            reach += loosest[ground_truth.label[column]]
        if mode.reach_has_size:
            reach += radius[row] + truth_radius[column]
        delta = estimates.center[row, :2] - ground_truth.center[column, :2]
        # A hair more than the reach: what is close to the limit is decided by the value below.
        near = (reach >= 0.0) & (np.hypot(delta[:, 0], delta[:, 1]) <= reach * _HAIR)
        row, column = row[near], column[near]
        value = mode.values(estimates, ground_truth, row, column)
        passes = mode.better(value, loosest[ground_truth.label[column]])
        found.append((row[passes], column[passes], value[passes]))
    if not found:
        return CandidatePairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    estimate, truth, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # Equal values: the ground truth that comes first in the frame wins.
    order = np.lexsort((truth, -value if mode.larger_is_better else value, estimate))
    return CandidatePairs(estimate[order], truth[order], value[order])


def _half_diagonal(objects: ObjectTable) -> Array:
    """(N,) metres: how far a footprint reaches from its centre."""
    diagonal: Array = np.hypot(objects.size[:, 0], objects.size[:, 1])
    return diagonal / 2


def _near_pairs(
    estimates: ObjectTable, ground_truth: ObjectTable, compatible: BoolArray, reach_m: float
) -> Iterator[tuple[IntArray, IntArray]]:
    """Rows of all compatible pairs of the same frame of which x differs by at most the reach, block by block.

    Ground truth is sorted by frame (and class, where only equal classes are compatible) and then by x, so that the
    partners of each detection are neighbours: two searches find them, and what is too far away is never looked at.
    """
    num_labels = len(compatible)
    same_label_only = not (compatible & ~np.eye(num_labels, dtype=bool)).any()
    key, truth_key = estimates.frame, ground_truth.frame
    if same_label_only:
        key = key * num_labels + estimates.label
        truth_key = truth_key * num_labels + ground_truth.label
    # Clipping brings no two objects farther apart, so it loses no pair; it keeps the keys within a double's digits.
    x, truth_x = (table.center[:, 0].clip(-_FARTHEST_M, _FARTHEST_M) for table in (estimates, ground_truth))
    reach = min(reach_m, 2 * _FARTHEST_M) * _HAIR + _SLACK_M
    lowest = min(x.min(initial=0.0), truth_x.min(initial=0.0))
    width = max(x.max(initial=0.0), truth_x.max(initial=0.0)) - lowest + 2 * reach
    place = key * width + (x - lowest)
    truth_place = truth_key * width + (truth_x - lowest)
    columns = np.argsort(truth_place, kind="stable")
    truth_place = truth_place[columns]
    first = np.searchsorted(truth_place, place - reach, side="left")
    count = np.searchsorted(truth_place, place + reach, side="right") - first
    total = np.cumsum(count)
    start = 0
    while start < len(key):
        before = total[start - 1] if start else 0
        # At least one detection at a time, however many ground truths its frame has.
        stop = max(int(np.searchsorted(total, before + _PAIRS_AT_ONCE, side="right")), start + 1)
        number = count[start:stop]
        row = np.repeat(np.arange(start, stop), number)
        within = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
        column = columns[np.repeat(first[start:stop], number) + within]
        # The strips of x of two frames do not overlap, but a pair on the edge must not slip through.
        allowed = compatible[estimates.label[row], ground_truth.label[column]]
        allowed &= estimates.frame[row] == ground_truth.frame[column]
        yield row[allowed], column[allowed]
        start = stop


def match_at(
    pairs: CandidatePairs,
    rank: IntArray,
    estimates: ObjectTable,
    ground_truth: ObjectTable,
    compatible: BoolArray,
    *,
    agnostic: bool = False,
) -> IntArray:
    """One-to-one matching of all frames.

    Args:
        pairs: Candidates that pass the threshold.
        rank: (E,) from `choice_order`.
        estimates: Detections.
        ground_truth: Ground truth.
        compatible: (L, L) bool, [detection label, ground truth label].
        agnostic: In a second pass, detections still free take ground truth still free whatever the labels.

    Returns:
        (E,) row of the ground truth of each detection, -1 for none.
    """
    allowed = compatible[estimates.label[pairs.estimate], ground_truth.label[pairs.ground_truth]]
    match = assign(pairs.select(allowed), rank, len(ground_truth))
    if agnostic:
        taken = np.zeros(len(ground_truth), bool)
        taken[match[match >= 0]] = True
        rest = pairs.select((match[pairs.estimate] < 0) & ~taken[pairs.ground_truth])
        match = np.where(match < 0, assign(rest, rank, len(ground_truth)), match)
    return match


def loosest_thresholds(thresholds: Sequence[Sequence[float]], mode: MatchingMode) -> Array:
    """(C,) per class the threshold that lets most pairs pass; a class without one lets none."""
    pick = min if mode.larger_is_better else max
    nothing = np.inf if mode.larger_is_better else -np.inf
    return np.array([pick(values, default=nothing) for values in thresholds], np.float64)


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
