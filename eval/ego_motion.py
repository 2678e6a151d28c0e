"""How fast the vehicle went, from where it stood at the frames before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval.metrics.nuscenes_frames import FramePose

__all__ = ["MAX_GAP_S", "ego_velocities"]

MAX_GAP_S = 1.5
"""Frames farther apart say nothing of each other."""


def ego_velocities(
    poses: Sequence[FramePose | None], scenes: Sequence[str], times_s: Sequence[float | None]
) -> list[NDArray[np.float64] | None]:
    """Per frame (2,) m/s over ground in the axes of its boxes; None where neighbours, poses or times are missing.

    Args:
        poses: Of the frames in their order.
        scenes: Frames of one scene that follow each other are neighbours.
        times_s: Of the frames.
    """
    places = [None if pose is None else pose.ego2global @ pose.lidar2ego for pose in poses]
    found: list[NDArray[np.float64] | None] = []
    for index, here in enumerate(places):
        around = [item for item in (index - 1, index, index + 1) if 0 <= item < len(places)]
        known = [item for item in around if places[item] is not None and scenes[item] == scenes[index]]
        first, last = (known[0], known[-1]) if known else (index, index)
        start, end, then, now = places[first], places[last], times_s[first], times_s[last]
        if here is None or start is None or end is None or then is None or now is None:
            found.append(None)
            continue
        gap = now - then
        if not 0.0 < gap <= MAX_GAP_S * (last - first):
            found.append(None)
            continue
        velocity = (end[:3, 3] - start[:3, 3]) / gap
        found.append(np.asarray(here[:3, :3].T @ velocity, np.float64)[:2])
    return found
