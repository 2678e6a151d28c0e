"""Evaluations of a run against each other: every pair, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations

from base.errors import DataError
from eval.evaluator import BackendEvaluation
from eval.metrics import TOTAL, DetectionMetrics
from eval.statistics import BootstrapComparison, paired_bootstrap
from runtime.decoders import TRAINING

__all__ = ["compare_decodes", "compare_evaluations", "compare_pair"]


def compare_pair(
    reference: BackendEvaluation,
    other: BackendEvaluation,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    by_scene: bool = False,
    min_num_points: int = 0,
    seed: int = 0,
) -> BootstrapComparison:
    """The bootstrap of two evaluations, with the ranges and thresholds that they were scored with.

    Args:
        reference: Differences are the other's AP minus its AP.
        other: Evaluated on the same frames.
        num_resamples: Draws; 0 computes no intervals.
        confidence: Of the intervals.
        by_scene: Draw whole scenes rather than frames.
        min_num_points: As in both evaluations.
        seed: Of the draws.

    Raises:
        DataError: the evaluations are of different frames or ranges, or no scenes are known.
    """
    a, b = reference.metrics, other.metrics
    if a.thresholds != b.thresholds or [part.name for part in a.ranges] != [part.name for part in b.ranges]:
        raise DataError(
            f"{reference.summary.label} and {other.summary.label} were scored with different ranges or thresholds"
        )
    if by_scene and not all(reference.scenes or ("",)):
        raise DataError("intervals by scene need the scene of every frame, and this dataset names none; draw frames")
    return paired_bootstrap(
        reference.frames,
        other.frames,
        a.class_names,
        thresholds_m=a.thresholds,
        ranges_m=_ranges(a),
        min_num_points=min_num_points,
        groups=reference.scenes if by_scene else None,
        num_resamples=num_resamples,
        seed=seed,
        confidence=confidence,
        label_a=reference.summary.label,
        label_b=other.summary.label,
    )


def compare_decodes(
    evaluation: BackendEvaluation, *, num_resamples: int = 1000, confidence: float = 0.95, by_scene: bool = False
) -> BackendEvaluation:
    """The evaluation with the bootstrap of what the vehicle sees against the training framework's decode.

    Unchanged where only one of the two was evaluated.
    """
    seen, frames, metrics = evaluation.vehicle, evaluation.vehicle_frames, evaluation.metrics
    if seen is None or frames is None or evaluation.summary.decode != TRAINING:
        return evaluation
    comparison = paired_bootstrap(
        evaluation.frames,
        frames.published,
        metrics.class_names,
        thresholds_m=metrics.thresholds,
        ranges_m=_ranges(metrics),
        groups=evaluation.scenes if by_scene else None,
        num_resamples=num_resamples,
        confidence=confidence,
        label_a="training framework",
        label_b="vehicle",
    )
    return dataclasses.replace(evaluation, vehicle=dataclasses.replace(seen, comparison=comparison))


def _ranges(metrics: DetectionMetrics) -> list[tuple[float, float]]:
    """The ranges that were asked for: all but the total."""
    return [(part.min_m, part.max_m) for part in metrics.ranges if part.name != TOTAL]


def compare_evaluations(
    evaluations: Sequence[BackendEvaluation],
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    by_scene: bool = False,
) -> tuple[BootstrapComparison, ...]:
    """`compare_pair` of every two evaluations, in their order: the earlier one is the reference of the pair."""
    return tuple(
        compare_pair(first, second, num_resamples=num_resamples, confidence=confidence, by_scene=by_scene)
        for first, second in combinations(evaluations, 2)
    )
