"""What did not enter the network or the score, in the words that terminal and report share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from base.checks import Finding
from models.known_checks import KNOWN_CHECKS
from runtime.counts import MAX_VOXELS_KEY, dropped_pillars

if TYPE_CHECKING:
    from eval.evaluator import EvaluationSummary

__all__ = ["judge_losses", "loss_lines", "losses", "share"]


def share(part: int, rest: int) -> float:
    """Part of both; 0 of nothing."""
    return part / (part + rest) if part + rest else 0.0


def losses(summary: EvaluationSummary) -> list[tuple[str, str]]:
    """(What was lost, how much) of an evaluation; nothing where nothing was."""
    inputs, frames = summary.inputs, summary.num_frames
    found: list[tuple[str, str]] = []

    def add(what: str, part: int, rest: int, more: str = "") -> None:
        if part:
            found.append((what, f"{part} of {part + rest} ({share(part, rest):.1%}){more}"))

    kept = round(inputs.mean_voxels * frames)
    where = f" in {inputs.frames_with_dropped_voxels} of {frames} frames; raise {MAX_VOXELS_KEY}"
    add("pillars left out", inputs.dropped_voxels, kept, where)
    inside = inputs.points - inputs.dropped_points - inputs.outside_points
    add("points without room in a pillar", inputs.dropped_points, max(inside, 0))
    add("points out of range", inputs.outside_points, max(inputs.points - inputs.outside_points, 0))
    add("invalid points", inputs.invalid_points, inputs.points)
    add("points at (0, 0, 0)", inputs.zero_points, max(inputs.points - inputs.zero_points, 0))
    add("frames without a point", inputs.frames_without_points, frames - inputs.frames_without_points)
    for what, dropped in (
        ("boxes with a size of 0 or less, left out", summary.dropped_boxes.without_size),
        ("boxes with a NaN or infinite number, left out", summary.dropped_boxes.broken),
    ):
        if dropped:
            found.append((what, f"{dropped} in {frames} frames"))
    missing = summary.metrics.classes_without_ground_truth
    if missing:
        found.append(("classes without ground truth", f"{', '.join(missing)}: their AP is none"))
    return found


def loss_lines(summaries: Sequence[EvaluationSummary]) -> list[str]:
    """A line for each loss; one that several backends share is told once."""
    lines: dict[str, list[str]] = {}
    for summary in summaries:
        for what, much in losses(summary):
            lines.setdefault(f"{what}: {much}", []).append(summary.label)
    every = len(summaries)
    return [line if len(labels) == every else f"{line} [{', '.join(labels)}]" for line, labels in lines.items()]


def judge_losses(summary: EvaluationSummary) -> Iterator[Finding]:
    """What of an evaluation means nothing, or less than it seems: what did not enter the network or leave it."""
    inputs, frames = summary.inputs, summary.num_frames
    place = f"evaluate {summary.backend}"
    if inputs.frames_without_points:
        value = f"{inputs.frames_without_points} of {frames} frames have no point in the model's range"
        remedy = "Their objects count as missed. Check the point files, their unit and their frame."
        yield Finding(KNOWN_CHECKS["frames-without-points"], place, value, remedy=remedy)
    firsts = [item.thresholds[0] for item in summary.metrics.total.classes if item.thresholds]
    objects = sum(first.num_ground_truth for first in firsts)
    if objects and not sum(first.num_detections for first in firsts):
        value = f"no box in any of {frames} frames, which have {objects} objects"
        remedy = (
            "Score the checkpoint with --backend pytorch, too: if that finds boxes, the files or the device are wrong."
        )
        yield Finding(KNOWN_CHECKS["no-boxes"], place, value, remedy=remedy)
    if inputs.dropped_voxels:
        kept = round(inputs.mean_voxels * frames)
        yield dropped_pillars(place, inputs.dropped_voxels, kept)
