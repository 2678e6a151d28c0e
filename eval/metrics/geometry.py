"""Geometry of pairs of upright boxes, row by row: footprints, overlaps, plane distance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from runtime.footprints import footprint_corners, intersection_area

__all__ = [
    "circular_difference",
    "footprint_corners",
    "intersection_area",
    "nearest_plane_distances",
    "wrap_to_pi",
]

Array = NDArray[np.float64]


def wrap_to_pi(angle: Array) -> Array:
    """The same angles in (-π, π]."""
    wrapped: Array = math.pi - np.mod(math.pi - angle, 2 * math.pi)
    return wrapped


def circular_difference(a: Array, b: Array) -> Array:
    """Unsigned angle between directions a and b in [0, π]."""
    turn = np.mod(np.abs(a - b), 2 * math.pi)
    smaller: Array = np.minimum(turn, 2 * math.pi - turn)
    return smaller


def nearest_plane_distances(corners: Array, truth_corners: Array) -> Array:
    """Distances of the two ground-truth corners nearest to the ego from their counterparts on the other box.

    The counterparts follow from the cyclic order of corners with the smallest sum of the four corner distances, so a
    heading that is off by a multiple of 90° does not matter.

    Args:
        corners: (P, 4, 2) of the detections, counter-clockwise, metres, ego frame.
        truth_corners: (P, 4, 2) of the ground truth.

    Returns:
        (P, 2) metres: at the nearest and at the second nearest corner.
    """
    delta = corners[:, :, None] - truth_corners[:, None]
    distance = np.hypot(delta[..., 0], delta[..., 1])  # (P, 4, 4): detection corner, ground-truth corner
    index = np.arange(4)
    counterpart = (index[None] - index[:, None]) % 4  # [roll, ground-truth corner] -> detection corner
    rolled = distance[:, counterpart, index]  # (P, roll, 4)
    best = rolled[np.arange(len(corners)), rolled.sum(axis=2).argmin(axis=1)]
    nearest = np.argsort(np.hypot(truth_corners[..., 0], truth_corners[..., 1]), axis=1, kind="stable")[:, :2]
    return np.take_along_axis(best, nearest, axis=1)
