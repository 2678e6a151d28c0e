"""Footprints of upright boxes: corners, and the area that two share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["footprint_corners", "intersection_area"]

Array = NDArray[np.float64]

# Signs of (length, width) at the corners, counter-clockwise from front left.
_CORNERS = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])


def footprint_corners(center: Array, size: Array, yaw: Array) -> Array:
    """Corners in the ground plane: front left, rear left, rear right, front right.

    Args:
        center: (N, 2 or 3) metres; x and y are used.
        size: (N, 2 or 3) length, width, ... in metres.
        yaw: (N,) radians, counter-clockwise from +x.

    Returns:
        (N, 4, 2) metres.
    """
    local = size[:, None, :2] * _CORNERS
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x = local[..., 0] * cos - local[..., 1] * sin + center[:, None, 0]
    y = local[..., 0] * sin + local[..., 1] * cos + center[:, None, 1]
    return np.stack([x, y], axis=-1)


def intersection_area(
    center_a: Array, size_a: Array, yaw_a: Array, center_b: Array, size_b: Array, yaw_b: Array
) -> Array:
    """Area that the footprints of each pair share, in square metres.

    In the frame of b, whose footprint is |x| <= X, |y| <= Y, Green's theorem turns the area of the part of a inside it
    into an integral along a's edges: clamp(x, -X, X) d clamp(y, -Y, Y). Between the points where an edge meets the four
    lines both clamped coordinates are linear, so the trapezoidal rule is exact there. Nothing is decided by comparing
    coordinates: edges that coincide, corners that touch and equal boxes need no case of their own.

    Args:
        center_a: (P, 2 or 3) metres.
        size_a: (P, 2 or 3) length, width, ... in metres, not negative.
        yaw_a: (P,) radians.
        center_b: Likewise of the other box.
        size_b: Likewise.
        yaw_b: Likewise.

    Returns:
        (P,) square metres.
    """
    cos, sin = np.cos(yaw_b), np.sin(yaw_b)
    dx, dy = center_a[:, 0] - center_b[:, 0], center_a[:, 1] - center_b[:, 1]
    offset = np.stack([dx * cos + dy * sin, dy * cos - dx * sin], axis=1)
    start = footprint_corners(offset, size_a, yaw_a - yaw_b)  # (P, 4, 2)
    step = np.roll(start, -1, axis=1) - start
    half = size_b[:, None, :2] / 2  # (P, 1, 2)
    # Where an edge (parameter 0 to 1) meets the lines; an edge parallel to a line does not care where it is cut.
    slope = np.where(step == 0.0, 1.0, step)
    cuts = np.concatenate([(-half - start) / slope, (half - start) / slope], axis=2)
    ends = np.zeros((*cuts.shape[:2], 1))
    cuts = np.concatenate([ends, np.sort(np.clip(cuts, 0.0, 1.0), axis=2), ends + 1.0], axis=2)  # (P, 4, 6)
    limit = half[:, :, None]  # (P, 1, 1, 2)
    points = np.clip(start[:, :, None] + cuts[..., None] * step[:, :, None], -limit, limit)
    x, y = points[..., 0], points[..., 1]
    area = 0.5 * ((x[..., 1:] + x[..., :-1]) * np.diff(y, axis=2)).sum(axis=(1, 2))
    positive: Array = np.maximum(area, 0.0)
    return positive
