"""Points inside boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_in_boxes", "in_box"]


def in_box(points: NDArray[np.floating], box: NDArray[np.float64], margin_m: float = 0.0) -> NDArray[np.bool_]:
    """(N,) whether points are in a box.

    Args:
        points: (N, 3 or more) x, y, z first, metres.
        box: (7,) centre, length, width, height (metres), yaw (radians), of the same frame.
        margin_m: By so much the box is larger on each face.
    """
    reach = max(box[3], box[4]) / 2 * 2**0.5 + margin_m
    # Most points are far away: one comparison tells.
    chosen = np.flatnonzero(np.abs(points[:, 0] - box[0]) <= reach)
    near = points[chosen, :3] - box[:3]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    inside = np.abs(near[:, 0] * cos + near[:, 1] * sin) <= box[3] / 2 + margin_m
    inside &= np.abs(near[:, 1] * cos - near[:, 0] * sin) <= box[4] / 2 + margin_m
    inside &= np.abs(near[:, 2]) <= box[5] / 2 + margin_m
    out = np.zeros(len(points), bool)
    out[chosen[inside]] = True
    return out


def count_in_boxes(points: NDArray[np.floating], boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """(M,) points in each of (M, 7) boxes; see `in_box`."""
    return np.array([int(in_box(points, box).sum()) for box in boxes], np.int64)
