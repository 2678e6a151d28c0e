"""What there is to find in frames, before any of them is evaluated: from the info file alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from base.checks import Finding
from models.known_checks import KNOWN_CHECKS

__all__ = ["AnnotationCounts", "count_annotations", "judge_annotations"]


@dataclass(frozen=True)
class AnnotationCounts:
    """Annotated objects of some frames; each is counted where it is first left out.

    Attributes:
        frames: Frames.
        annotated: Objects.
        without_class: Of these, objects with label -1.
        without_points: Then those that no LiDAR point hit, or that are not valid where the dataset goes by that.
        too_far: Then those beyond the evaluated range.
        by_class: The rest by class: what is to be found.
    """

    frames: int
    annotated: int
    without_class: int
    without_points: int
    too_far: int
    by_class: tuple[int, ...]


def count_annotations(truths: Iterable[dict[str, Any]], num_classes: int, reach_m: float) -> AnnotationCounts:
    """Counts what `T4Dataset` says of frames.

    Args:
        truths: Its annotations of each.
        num_classes: Classes of the labels.
        reach_m: Objects at least so far from the ego, over the ground, are not evaluated.
    """
    frames = annotated = without_class = without_points = too_far = 0
    by_class = np.zeros(num_classes, np.int64)
    for truth in truths:
        frames += 1
        annotated += truth["num_annotated"]
        without_class += truth["num_without_class"]
        without_points += truth["num_without_points"]
        centers = truth["gt_bboxes_3d"].tensor.numpy()[:, :2]
        near = np.hypot(centers[:, 0], centers[:, 1]) < reach_m
        too_far += int((~near).sum())
        by_class += np.bincount(truth["gt_labels_3d"][near], minlength=num_classes)
    return AnnotationCounts(frames, annotated, without_class, without_points, too_far, tuple(by_class.tolist()))


def judge_annotations(counts: AnnotationCounts, class_names: Sequence[str], place: str) -> Iterator[Finding]:
    """What of an evaluation on these frames would mean nothing.

    Args:
        counts: Of the frames.
        class_names: In the order of the labels.
        place: The info file, for messages.
    """
    frames = f"{counts.frames} frame{'s' if counts.frames != 1 else ''}"
    if not any(counts.by_class):
        left_out = {
            "have no class (label -1)": counts.without_class,
            "have no LiDAR point (num_lidar_pts 0, or are marked as not valid)": counts.without_points,
            "lie beyond the evaluated range": counts.too_far,
        }
        parts = [f"{number} {why}" for why, number in left_out.items() if number]
        value = f"the {frames} to evaluate have no object to find: {counts.annotated} are annotated"
        value += f", of which {', '.join(parts)}" if parts else ""
        yield Finding(KNOWN_CHECKS["no-ground-truth"], place, value, remedy=_remedy(counts))
        return
    missing = [name for name, number in zip(class_names, counts.by_class, strict=True) if not number]
    if missing:
        value = f"the {frames} to evaluate have no {', no '.join(missing)} to find: their AP is none"
        remedy = "What the model takes for one there is still false, and counts as an AP of 0 in the mean."
        yield Finding(KNOWN_CHECKS["class-without-ground-truth"], place, value, remedy=remedy)


def _remedy(counts: AnnotationCounts) -> str:
    most = max(counts.without_class, counts.without_points, counts.too_far)
    if not most:
        return (
            "Take a split with annotations, or leave evaluation out: --no-evaluation of deploy.export "
            "(evaluation.enabled = False)."
        )
    if most == counts.without_class:
        return "Map its categories to the model's classes where the info file is made (name_mapping)."
    if most == counts.without_points:
        return "Count the LiDAR points in each box where the info file is made (num_lidar_pts)."
    return "Take frames with objects that the model can see, or a model with a larger range."
