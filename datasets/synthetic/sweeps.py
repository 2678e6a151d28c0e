"""Earlier revolutions brought into the frame of a key frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sweep_to_key"]


def sweep_to_key(key_pose: NDArray[np.float64], sweep_pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """`lidar2sensor` (4, 4) of a sweep, such that mmdet3d's loader brings its points exactly into the key frame.

    The loader computes `p @ R - t` from `lidar2sensor = [R | t]`. With `p_key = A p + b` that takes R = A^T and
    t = -b. (The true inverse, R = A^T and t = -A^T b, would be off whenever the vehicle turns.)
    """
    sweep2key = np.linalg.inv(key_pose) @ sweep_pose
    out = np.eye(4)
    out[:3, :3] = sweep2key[:3, :3].T
    out[:3, 3] = -sweep2key[:3, 3]
    return out
