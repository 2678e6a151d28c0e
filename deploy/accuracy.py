"""Accuracy of the evaluated backends against each other, and the gates that decide whether it is enough."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from base.checks import settle
from deploy.config.schema import EvaluationConfig, GatesConfig
from deploy.steps import Step

if TYPE_CHECKING:
    from eval.evaluator import BackendEvaluation, EvaluationSummary
    from eval.gates import GateLimits, GateResult
    from eval.statistics import BootstrapComparison

__all__ = ["judge_accuracy", "limits_on_losses", "with_decodes_compared"]

_logger = logging.getLogger(__name__)
_MAX_REASONS = 3  # In the table of steps; the results and the report list every gate.


def with_decodes_compared(evaluation: BackendEvaluation, config: EvaluationConfig) -> BackendEvaluation:
    """The evaluation with the bootstrap of both decodes, where both were evaluated; what was lost is told."""
    from eval.losses import judge_losses
    from eval.significance import compare_decodes

    settle(judge_losses(evaluation.summary))
    settings = config.statistics
    compared = compare_decodes(
        evaluation,
        num_resamples=settings.num_resamples,
        confidence=settings.confidence,
        by_scene=settings.group_by == "scene",
    )
    seen = compared.vehicle
    if seen is not None:
        _logger.info("   %s: mAP %.4f in the vehicle (%s)", seen.label, seen.metrics.mean_ap, seen.parameters)
    return compared


def judge_accuracy(
    evaluated: Sequence[tuple[Step, BackendEvaluation]], config: EvaluationConfig
) -> tuple[tuple[BootstrapComparison, ...], tuple[GateResult, ...]]:
    """Compares every pair of backends and fails the step of each one that breaks a gate.

    Args:
        evaluated: Steps with what they found, in the order of the run.
        config: Gates and the settings of the intervals.

    Returns:
        A comparison for every pair, and a result for every gate and backend.
    """
    from eval.gates import judge_gates
    from eval.significance import compare_evaluations, compare_pair

    settings = config.statistics
    evaluations = [evaluation for _, evaluation in evaluated]
    comparisons = compare_evaluations(
        evaluations,
        num_resamples=settings.num_resamples,
        confidence=settings.confidence,
        by_scene=settings.group_by == "scene",
    )
    for item in comparisons:
        total = item.total
        _logger.info(
            "   mAP of %s against %s: %+.4f [%+.4f, %+.4f], %s",
            *(item.label_b, item.label_a, total.difference, total.low, total.high, total.verdict),
        )
    gates = [gate for _, evaluation in evaluated for gate in _limits_on_map(evaluation, evaluations, config)]
    gates += [gate for _, evaluation in evaluated for gate in limits_on_losses(evaluation.summary, config.gates)]
    limits = _limits(config)
    reference = _of_backend(evaluations, config.gates.reference)
    if limits.any_set:
        for step, evaluation in evaluated:
            if reference is None:
                # Its own step says why it was not evaluated; nothing may pass a gate that could not be judged.
                step.fail(f"evaluation.gates could not be judged: {config.gates.reference} was not evaluated")
            elif evaluation is not reference:
                label = evaluation.summary.label
                found = [c for c in comparisons if (c.label_a, c.label_b) == (reference.summary.label, label)]
                # Where the reference came later in the run, the pair stands the other way round.
                pair = (
                    found[0]
                    if found
                    else compare_pair(
                        reference,
                        evaluation,
                        num_resamples=settings.num_resamples,
                        confidence=settings.confidence,
                        by_scene=settings.group_by == "scene",
                    )
                )
                gates.extend(judge_gates(pair, limits))
    for step, evaluation in evaluated:
        reasons = [
            gate.reason for gate in gates if gate.status == "FAILED" and gate.backend == evaluation.summary.label
        ]
        if reasons:
            more = [f"and {len(reasons) - _MAX_REASONS} more gates"] if len(reasons) > _MAX_REASONS else []
            step.fail("; ".join([*reasons[:_MAX_REASONS], *more]))
    return comparisons, tuple(gates)


def _of_backend(evaluations: Sequence[BackendEvaluation], backend: str) -> BackendEvaluation | None:
    return next((item for item in evaluations if item.summary.backend == backend), None)


def _limits(config: EvaluationConfig) -> GateLimits:
    from eval.gates import GateLimits

    gates = config.gates
    return GateLimits(gates.max_drop, gates.max_drop_per_class, gates.max_drop_per_range, gates.judge)


def limits_on_losses(summary: EvaluationSummary, limits: GatesConfig) -> list[GateResult]:
    """`evaluation.gates.max_dropped_pillars_share` and its like; nothing where nothing was lost."""
    from eval.gates import GateResult
    from eval.losses import share
    from runtime.counts import MAX_VOXELS_KEY

    inputs, frames = summary.inputs, summary.num_frames
    kept = round(inputs.mean_voxels * frames)
    empty, empty_frames = inputs.frames_without_points, "frames without a point"
    results = []
    for key, subject, part, rest, advice in (
        ("max_dropped_pillars_share", "pillars left out", inputs.dropped_voxels, kept, f"raise {MAX_VOXELS_KEY}"),
        ("max_empty_frames_share", empty_frames, empty, frames - empty, "check the point files"),
        ("max_invalid_points_share", "invalid points", inputs.invalid_points, inputs.points, "check the point files"),
    ):
        limit, value = getattr(limits, key), share(part, rest)
        # Of nothing at all there is no score, whatever the configuration allows.
        limit = 1.0 if limit is None else limit
        failed = value > limit or (part == frames and subject == empty_frames)
        if not part or (not failed and getattr(limits, key) is None):
            continue
        reason = f"{subject}: {part} of {part + rest} ({value:.1%}), evaluation.gates.{key} is {limit:g}; {advice}"
        status: Literal["PASSED", "FAILED"] = "FAILED" if failed else "PASSED"
        name = f"evaluation.gates.{key}"
        results.append(
            GateResult(name, subject, summary.label, "", limit, value, "value", status, reason if failed else "")
        )
    return results


def _limits_on_map(
    evaluation: BackendEvaluation, evaluations: Sequence[BackendEvaluation], config: EvaluationConfig
) -> list[GateResult]:
    """`evaluation.min_map` and `evaluation.max_map_drop`."""
    from eval.gates import GateResult

    score, label = evaluation.metrics.mean_ap, evaluation.summary.label
    results = []
    if config.min_map is not None:
        # Negated, so that an mAP that is NaN (no ground truth at all) fails a gate instead of passing it.
        failed = not score >= config.min_map
        status: Literal["PASSED", "FAILED"] = "FAILED" if failed else "PASSED"
        reason = f"mAP {score:.4f} is below evaluation.min_map = {config.min_map:g}" if failed else ""
        results.append(
            GateResult("evaluation.min_map", "mAP", label, "", config.min_map, score, "value", status, reason)
        )
    reference = _of_backend(evaluations, "pytorch")
    if config.max_map_drop is not None and reference is not None and reference is not evaluation:
        drop = reference.metrics.mean_ap - score
        failed = not drop <= config.max_map_drop
        status = "FAILED" if failed else "PASSED"
        limit = config.max_map_drop
        text = f"mAP {score:.4f} is {drop:.4f} below PyTorch's, evaluation.max_map_drop is {limit:g}" if failed else ""
        names = label, reference.summary.label
        results.append(GateResult("evaluation.max_map_drop", "mAP", *names, limit, drop, "difference", status, text))
    return results
