"""Matching held against a step-by-step greedy written out here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eval.metrics import CENTER_DISTANCE_BEV, IOU_BEV, ObjectTable
from eval.metrics.matching import CandidatePairs, assign, candidate_pairs, loosest_thresholds


def objects(frame: list[int], label: list[int], xy: NDArray[Any], score: NDArray[Any]) -> ObjectTable:
    count = len(frame)
    center = np.concatenate([np.asarray(xy, float).reshape(count, 2), np.zeros((count, 1))], axis=1)
    return ObjectTable(
        np.array(frame, np.int64),
        np.array(label, np.int64),
        np.asarray(score, float),
        center,
        np.ones((count, 3)),
        np.zeros(count),
        np.zeros((count, 2)),
        np.zeros(count, np.int64),
    )


def greedy(estimates: ObjectTable, truth: ObjectTable, threshold: float) -> list[int]:
    """One detection after the other, best score first; the nearest free ground truth of its class and frame."""
    match = [-1] * len(estimates)
    for row in sorted(range(len(estimates)), key=lambda item: -estimates.score[item]):
        best, best_distance = -1, np.inf
        for column in range(len(truth)):
            if truth.frame[column] != estimates.frame[row] or truth.label[column] != estimates.label[row]:
                continue
            delta = estimates.center[row] - truth.center[column]
            distance = np.hypot(delta[0], delta[1])
            if column not in match and distance < best_distance:
                best, best_distance = column, distance
        if best_distance < threshold:
            match[row] = best
    return match


@st.composite
def scenes(draw: st.DrawFn) -> tuple[ObjectTable, ObjectTable, float]:
    # A coarse grid and few scores on purpose: equal distances and equal scores must be decided alike.
    def side(kind_scores: list[float]) -> ObjectTable:
        count = draw(st.integers(0, 14))
        frame = sorted(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
        label = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
        xy = draw(st.lists(st.integers(0, 6), min_size=2 * count, max_size=2 * count))
        score = draw(st.lists(st.sampled_from(kind_scores), min_size=count, max_size=count))
        return objects(frame, label, np.array(xy, float), np.array(score, float))

    return side([0.1, 0.2, 0.3, 0.4, 0.5]), side([1.0]), draw(st.sampled_from([1.0, 1.5, 3.0, 10.0]))


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_equals_one_by_one_greedy(scene: tuple[ObjectTable, ObjectTable, float]) -> None:
    estimates, truth, threshold = scene
    order = np.lexsort((np.arange(len(estimates)), -estimates.score, estimates.frame))
    rank = np.empty(len(estimates), np.int64)
    rank[order] = np.arange(len(estimates))
    pairs = candidate_pairs(
        estimates, truth, CENTER_DISTANCE_BEV, np.eye(2, dtype=bool), np.array([threshold, threshold])
    )
    assert assign(pairs, rank, len(truth)).tolist() == greedy(estimates, truth, threshold)


def test_a_refused_detection_takes_its_second_choice() -> None:
    # Detection 1 scores higher and takes ground truth 0, which is the nearest of both; detection 0 falls back.
    estimates = objects([0, 0], [0, 0], np.array([[0.1, 0], [0.2, 0]]), np.array([0.3, 0.9]))
    truth = objects([0, 0], [0, 0], np.array([[0.0, 0], [1.5, 0]]), np.ones(2))
    pairs = candidate_pairs(estimates, truth, CENTER_DISTANCE_BEV, np.eye(1, dtype=bool), np.array([2.0]))
    assert assign(pairs, np.array([1, 0]), 2).tolist() == [1, 0]


@pytest.mark.parametrize(("distance", "matched"), [(1.9999, True), (2.0, False), (2.0001, False)])
def test_a_value_at_the_threshold_does_not_match(distance: float, matched: bool) -> None:
    estimates = objects([0], [0], np.array([[distance, 0]]), np.array([0.5]))
    truth = objects([0], [0], np.zeros((1, 2)), np.ones(1))
    pairs = candidate_pairs(estimates, truth, CENTER_DISTANCE_BEV, np.eye(1, dtype=bool), np.array([2.0]))
    assert assign(pairs, np.array([0]), 1).tolist() == [0 if matched else -1]


def test_no_candidates() -> None:
    none = CandidatePairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    assert assign(none, np.arange(3), 0).tolist() == [-1, -1, -1]


def test_the_loosest_threshold_of_a_class() -> None:
    thresholds = [[0.5, 2.0], [], [1.0]]
    assert loosest_thresholds(thresholds, CENTER_DISTANCE_BEV).tolist() == [2.0, -np.inf, 1.0]
    assert loosest_thresholds(thresholds, IOU_BEV).tolist() == [0.5, np.inf, 1.0]
