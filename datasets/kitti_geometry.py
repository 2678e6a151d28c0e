"""KITTI's frames: boxes of the camera in the LiDAR's, and what of a cloud the camera sees, as mmdet3d has it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["camera_to_lidar", "in_view"]

Array = NDArray[np.float64]
_TURN = 2 * np.pi
# Of the pyramid that mmdet3d cuts out for `velodyne_reduced`, metres.
_NEAREST_M, _FARTHEST_M = 0.001, 100.0


def camera_to_lidar(boxes: Array, lidar2cam: Array) -> Array:
    """Boxes of the rectified camera frame (x right, y down, z ahead) in the frame of the LiDAR.

    Args:
        boxes: (N, 7) x, y, z of the centre of the bottom face, length, height, width (metres), rotation about y.
        lidar2cam: (4, 4) R0_rect x Tr_velo_to_cam.

    Returns:
        (N, 7) x, y, z of the centre, length, width, height, yaw in [-pi, pi), counter-clockwise from +x to the length
        axis. Boxes stay upright, as mmdet3d keeps them: the angle between the two frames' ground planes is left out.
    """
    inverse = np.linalg.inv(lidar2cam)
    out = np.empty((len(boxes), 7))
    out[:, :3] = boxes[:, :3] @ inverse[:3, :3].T + inverse[:3, 3]
    out[:, 3], out[:, 4], out[:, 5] = boxes[:, 3], boxes[:, 5], boxes[:, 4]
    out[:, 2] += out[:, 5] / 2
    yaw = -boxes[:, 6] - np.pi / 2
    out[:, 6] = yaw - np.floor(yaw / _TURN + 0.5) * _TURN
    return out


def in_view(points: NDArray[np.floating], lidar2img: Array, width: int, height: int) -> NDArray[np.bool_]:
    """(N,) whether points lie in the image of the camera, up to 100 m ahead of it.

    Args:
        points: (N, 3 or more) x, y, z first, LiDAR frame, metres.
        lidar2img: (3 or 4, 4) P2 x lidar2cam.
        width, height: Of the image, pixels.
    """
    seen = points[:, :3].astype(np.float64) @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    depth = seen[:, 2]
    inside = (depth > _NEAREST_M) & (depth < _FARTHEST_M)
    inside &= (seen[:, 0] >= 0) & (seen[:, 0] < width * depth)
    inside &= (seen[:, 1] >= 0) & (seen[:, 1] < height * depth)
    return np.asarray(inside, bool)
