"""Non-maximum suppression by the distance of centres, and by the overlap of footprints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.footprints import intersection_area

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["circle_nms", "rotated_nms"]

# mmcv calls boxes that are smaller ones without an overlap.
_MIN_AREA_M2 = 1e-14


def circle_nms(
    centers: NDArray[np.float32], scores: NDArray[np.float32], min_radius_m2: float, max_keep: int | None = None
) -> NDArray[np.int64]:
    """Keeps a centre unless a kept one with a higher score lies within the radius.

    Equal to mmdet3d's `circle_nms`, whose threshold is compared with the *squared* distance: `min_radius = 4` there
    suppresses within 2 m. A distance equal to the radius suppresses. Equal scores are taken in input order, where
    mmdet3d leaves the order to an unstable sort.

    Args:
        centers: (N, 2) float32 x, y, metres.
        scores: (N,) float32.
        min_radius_m2: Squared radius, m².
        max_keep: At most so many are kept; None for no limit.

    Returns:
        Indices of the kept centres, by descending score.
    """
    order = np.argsort(-scores, kind="stable")
    x, y = centers[order, 0], centers[order, 1]
    alive = np.ones(len(order), bool)
    keep: list[int] = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        keep.append(int(order[i]))
        if max_keep is not None and len(keep) >= max_keep:
            break
        dx, dy = x[i] - x[i + 1 :], y[i] - y[i + 1 :]
        # float32 distances against a double threshold, as in mmdet3d's compiled loop.
        alive[i + 1 :] &= (dx * dx + dy * dy).astype(np.float64) > min_radius_m2
    return np.asarray(keep[:max_keep], np.int64)


def rotated_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    iou_threshold: float,
    max_enter: int | None = None,
    max_keep: int | None = None,
) -> NDArray[np.int64]:
    """Keeps a box unless a kept one with a higher score overlaps it by more than the threshold, seen from above.

    Equal to mmdet3d's `nms_bev` on a GPU (mmcv's `nms_rotated`, which suppresses above the threshold there, and at it
    on a CPU). Like that it takes a box's sides from two of its corners in float32, which costs the last digits of a box
    far away. The area that two footprints share is exact here, and the overlap is rounded once; mmcv computes in
    float32 throughout, so that an overlap within some millionths of the threshold may be on its other side there.
    Equal scores are taken in input order, where mmdet3d leaves the order to an unstable sort.

    Args:
        boxes: (N, 7 or more) float32, columns `base.boxes.BOX_COLUMNS`.
        scores: (N,) float32.
        iou_threshold: Area that two footprints share over the area that they cover, 0 to 1.
        max_enter: The best so many enter; None for all.
        max_keep: At most so many are kept; None for no limit.

    Returns:
        Indices of the kept boxes, by descending score.
    """
    # A side that no float32 holds overlaps nothing.
    with np.errstate(over="ignore", invalid="ignore"):
        return _rotated_nms(boxes, scores, np.float32(iou_threshold), max_enter, max_keep)


def _rotated_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    threshold: np.float32,
    max_enter: int | None,
    max_keep: int | None,
) -> NDArray[np.int64]:
    order = np.argsort(-scores, kind="stable")[:max_enter]
    sides = boxes[order, 3:5] / np.float32(2)
    lower, upper = boxes[order, :2] - sides, boxes[order, :2] + sides
    center = ((lower + upper) / np.float32(2)).astype(np.float64)
    size, yaw = (upper - lower).astype(np.float64), boxes[order, 6].astype(np.float64)
    # Footprints whose circumscribed circles do not meet share nothing.
    radius = np.hypot(size[:, 0], size[:, 1]) / 2
    alive = size[:, 0] * size[:, 1] >= _MIN_AREA_M2
    points = ~alive  # which neither suppress nor are suppressed
    keep: list[int] = []
    for i in range(len(order)):
        if points[i] or alive[i]:
            keep.append(int(order[i]))
            if max_keep is not None and len(keep) >= max_keep:
                break
        if not alive[i]:
            continue
        distance2 = ((center[i + 1 :] - center[i]) ** 2).sum(axis=1)
        near = i + 1 + np.flatnonzero(alive[i + 1 :] & (distance2 <= (radius[i + 1 :] + radius[i]) ** 2))
        if len(near):
            row = np.full(len(near), i)
            shared = intersection_area(center[row], size[row], yaw[row], center[near], size[near], yaw[near])
            union = size[i].prod() + size[near].prod(axis=1) - shared
            alive[near[(shared / union).astype(np.float32) > threshold]] = False
    return np.asarray(keep, np.int64)
