"""A config's tasks, and how boxes of a task suppress each other, read as mmdet3d's CenterHead reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ConfigError
from models.facts import BRANCH_ORDER, CIRCLE, HeadSpec, TaskSpec

if TYPE_CHECKING:
    from models.schema import Coder, Head, Suppression

__all__ = ["suppression_of", "tasks_of"]


def tasks_of(head: Head, suppression: Suppression, file: str) -> tuple[TaskSpec, ...]:
    """The tasks of a head: every one has its own heatmap and the branches of `common_heads`.

    Args:
        head: `model.pts_bbox_head`.
        suppression: `model.test_cfg.pts`.
        file: The config, for messages.

    Raises:
        ConfigError: `common_heads` has a branch that no box is made of, or tasks lack a radius.
    """
    channels = {name: sizes[0] for name, sizes in head.common_heads.items()}
    unknown = sorted(set(channels) - set(BRANCH_ORDER))
    if unknown:
        raise ConfigError(f"{file}: common_heads has {unknown}; known outputs are {list(BRANCH_ORDER)}.")
    radii = _radii(suppression, len(head.tasks), file)
    tasks = []
    for task, radius in zip(head.tasks, radii, strict=True):
        branches = channels | {"heatmap": len(task.class_names)}
        heads = tuple(HeadSpec(name, branches[name]) for name in BRANCH_ORDER if name in branches)
        tasks.append(TaskSpec(task.class_names, heads, radius))
    return tuple(tasks)


def _radii(suppression: Suppression, count: int, file: str) -> list[float]:
    """Of the tasks; a single number is every task's, and "rotate" reads none."""
    given = suppression.min_radius
    if suppression.nms_type != CIRCLE:
        return [0.0] * count
    if isinstance(given, float):
        return [given] * count
    if len(given) < count:
        raise ConfigError(
            f"{file}: model.test_cfg.pts.min_radius has {len(given)} values, but pts_bbox_head has {count} tasks. Give "
            "a radius for each task, in their order."
        )
    return list(given[:count])


def suppression_of(coder: Coder, suppression: Suppression) -> dict[str, Any]:
    """Fields of `ModelFacts` on scores and suppression.

    mmdet3d reads the coder's threshold (a score must be above it) with either kind, and with "rotate" `test_cfg`'s too
    (a score must reach it) in float32; one threshold says both. Likewise centres must lie in the coder's limits, and
    with "rotate" those of the boxes that were kept in `test_cfg`'s.

    Args:
        coder: `model.pts_bbox_head.bbox_coder`.
        suppression: `model.test_cfg.pts`.
    """
    # mmdet3d drops nothing without a threshold; a sigmoid is above 0.
    fields: dict[str, Any] = {
        "score_threshold": 0.0 if coder.score_threshold is None else coder.score_threshold,
        "nms_type": suppression.nms_type,
        "post_max_size": suppression.post_max_size,
    }
    if suppression.nms_type == CIRCLE:
        return fields
    reached = np.float32(suppression.score_threshold or 0.0)
    if reached > np.float32(fields["score_threshold"]):
        fields["score_threshold"] = float(np.nextafter(reached, np.float32(-1.0)))
    outer, inner = coder.post_center_range, suppression.post_center_limit_range
    if inner is not None and any(
        a > b for a, b in zip((*inner[:3], *outer[3:]), (*outer[:3], *inner[3:]), strict=True)
    ):
        fields["nms_center_range"] = inner
    return fields | {
        "nms_iou_threshold": suppression.nms_thr,
        "nms_pre_max_size": suppression.pre_max_size,
    }
