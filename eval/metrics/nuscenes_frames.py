"""nuScenes' official score of frames: its detection configuration of 2019, in the axes of the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from base.errors import ConfigError, DataError
from eval.metrics.nuscenes import NUSCENES_RANGES_M, NuScenesClass, NuScenesScorer
from eval.metrics.objects import FrameResult, ObjectTable

__all__ = ["MAX_BOXES", "FramePose", "NuScenesScore", "check_nuscenes_classes", "score_nuscenes"]

MAX_BOXES = 500
"""Detections of a frame; nuScenes refuses more."""

_FRAMES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class FramePose:
    """Where the axes of a frame's boxes are.

    Attributes:
        lidar2ego: (4, 4) frame of the boxes to the vehicle's.
        ego2global: (4, 4) vehicle to map.
    """

    lidar2ego: NDArray[np.float64]
    ego2global: NDArray[np.float64]


@dataclass(frozen=True)
class NuScenesScore:
    """What nuscenes-devkit says of one backend; its attributes are not predicted, so that their error is 1.

    Attributes:
        label: Of the evaluation.
        mean_ap: Mean over classes and the thresholds 0.5, 1, 2, 4 m.
        nds: nuScenes detection score; at most 0.9 without attributes.
        tp_errors: Mean errors of true positives at 2 m.
        classes: The same by class.
        is_complete: Whether all ten classes of nuScenes were scored; means over fewer are no official score.
    """

    label: str
    mean_ap: float
    nds: float
    tp_errors: dict[str, float]
    classes: tuple[NuScenesClass, ...]
    is_complete: bool


def check_nuscenes_classes(class_names: Sequence[str], most_boxes: int, source: str) -> None:
    """That a model can be scored so.

    Args:
        class_names: Of the model.
        most_boxes: That it can give for a frame.
        source: Who asks, for messages.

    Raises:
        ConfigError: a class is none of nuScenes, or a frame can have more boxes than it takes.
    """
    unknown = [name for name in class_names if name not in NUSCENES_RANGES_M]
    if unknown:
        raise ConfigError(
            f"{source}: nuScenes has no class {', '.join(map(repr, unknown))}; its range would be unknown. It has "
            f"{', '.join(NUSCENES_RANGES_M)}. Score this model without evaluation.metrics.nuscenes (--nuscenes)."
        )
    if most_boxes > MAX_BOXES:
        raise ConfigError(
            f"{source}: the model can give {most_boxes} boxes for a frame; nuScenes takes at most {MAX_BOXES}. Lower "
            f"post_max_size of the model config's test_cfg: {MAX_BOXES} over all tasks."
        )


def score_nuscenes(
    label: str, frames: Sequence[FrameResult], poses: Sequence[FramePose | None], class_names: Sequence[str]
) -> NuScenesScore:
    """Scores frames as nuscenes-devkit does: ranges by class, from the vehicle, in the axes of the map.

    Two things differ: the devkit also drops bicycles and motorcycles in bicycle racks, and counts objects that only the
    radar saw; info files have neither.

    Args:
        label: Of the result.
        frames: Detections and ground truth.
        poses: Of each frame; None: its boxes are in the vehicle's axes.
        class_names: Of the labels, of nuScenes' own.

    Raises:
        DataError: there are no frames, a frame has too many detections, or a value is not finite.
    """
    for frame in frames:
        if len(frame.detections) > MAX_BOXES:
            raise DataError(
                f"frame '{frame.token}' has {len(frame.detections)} detections; nuScenes takes at most {MAX_BOXES}. "
                "Lower post_max_size of the model config's test_cfg."
            )
    scorer = NuScenesScorer(class_names, filtered=True)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        part = frames[start : start + _FRAMES_AT_ONCE]
        tokens = [frame.token for frame in part]
        count = len(class_names)
        found = ObjectTable.from_boxes([frame.detections for frame in part], tokens, count, "detection")
        truth = ObjectTable.from_boxes([frame.ground_truth for frame in part], tokens, count, "ground truth")
        unknown = [frame.ground_truth.num_points is None for frame in part]
        truth = replace(truth, num_points=np.where(np.array(unknown)[truth.frame], -1, truth.num_points))
        chosen = poses[start : start + _FRAMES_AT_ONCE]
        scorer.add(_in_map_axes(found, chosen), _in_map_axes(truth, chosen), len(part))
    metrics = scorer.result()
    is_complete = set(class_names) == set(NUSCENES_RANGES_M)
    return NuScenesScore(label, metrics.mean_ap, metrics.nds, metrics.tp_errors, metrics.classes, is_complete)


def _in_map_axes(table: ObjectTable, poses: Sequence[FramePose | None]) -> ObjectTable:
    """The objects in the axes of the map, with the vehicle at the origin."""
    if all(pose is None for pose in poses):
        return table
    own = [FramePose(np.eye(4), np.eye(4)) if pose is None else pose for pose in poses]
    turns = np.stack([pose.ego2global[:3, :3] @ pose.lidar2ego[:3, :3] for pose in own])[table.frame]
    shifts = np.stack([pose.ego2global[:3, :3] @ pose.lidar2ego[:3, 3] for pose in own])[table.frame]
    flat = np.zeros(len(table))
    heading = np.column_stack([np.cos(table.yaw), np.sin(table.yaw), flat])
    heading = np.einsum("nij,nj->ni", turns, heading)
    velocity = np.einsum("nij,nj->ni", turns, np.column_stack([table.velocity, flat]))
    return replace(
        table,
        center=np.einsum("nij,nj->ni", turns, table.center) + shifts,
        yaw=np.arctan2(heading[:, 1], heading[:, 0]),
        velocity=velocity[:, :2],
    )
