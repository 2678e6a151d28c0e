"""The operators of `mmcv._ext` that CenterPoint runs, in the plainest form: one point after the other.

This module is deliberately a direct sequential statement of the operator's definition (first come, first kept), so
that it can serve as the reference for the vectorised voxelization of `runtime`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

IS_STAND_IN = True


@numba.njit(cache=False)
def _hard_voxelize(
    points: NDArray[np.float32],
    voxel_size: NDArray[np.float32],
    lower: NDArray[np.float32],
    grid: NDArray[np.int64],
    max_points: int,
    max_voxels: int,
    voxels: NDArray[np.float32],
    coords: NDArray[np.int32],
    counts: NDArray[np.int32],
) -> int:
    # -1: no voxel there yet.
    voxel_at = np.full((grid[2], grid[1], grid[0]), -1, dtype=np.int32)
    used = 0
    cell = np.empty(3, dtype=np.int64)
    for i in range(points.shape[0]):
        inside = True
        for axis in range(3):
            position = np.floor((points[i, axis] - lower[axis]) / voxel_size[axis])
            if not (position >= 0 and position < grid[axis]):
                inside = False
                break
            cell[axis] = int(position)
        if not inside:
            continue
        index = voxel_at[cell[2], cell[1], cell[0]]
        if index == -1:
            if used >= max_voxels:
                continue
            index = used
            used += 1
            voxel_at[cell[2], cell[1], cell[0]] = index
            coords[index, 0] = cell[2]
            coords[index, 1] = cell[1]
            coords[index, 2] = cell[0]
        if counts[index] < max_points:
            voxels[index, counts[index]] = points[i]
            counts[index] += 1
    return used


def hard_voxelize_forward(
    points: torch.Tensor,
    voxel_size: torch.Tensor,
    coors_range: torch.Tensor,
    voxels: torch.Tensor,
    coors: torch.Tensor,
    num_points_per_voxel: torch.Tensor,
    voxel_num: torch.Tensor,
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> None:
    """mmcv's operator of that name: fills `voxels`, `coors` (z, y, x) and the two counts in place."""
    size = voxel_size.cpu().numpy().astype(np.float32)
    limits = coors_range.cpu().numpy().astype(np.float32)
    grid = np.round((limits[3:] - limits[:3]) / size).astype(np.int64)
    out_voxels = np.zeros(tuple(voxels.shape), np.float32)
    out_coords = np.zeros(tuple(coors.shape), np.int32)
    out_counts = np.zeros(tuple(num_points_per_voxel.shape), np.int32)
    cloud = np.ascontiguousarray(points.detach().cpu().numpy(), dtype=np.float32)
    used = _hard_voxelize(cloud, size, limits[:3], grid, max_points, max_voxels, out_voxels, out_coords, out_counts)
    # The caller's tensors are zero; only the used rows travel, which matters where they lie on a GPU.
    voxels[:used].copy_(torch.from_numpy(out_voxels[:used]))
    coors[:used].copy_(torch.from_numpy(out_coords[:used]))
    num_points_per_voxel[:used].copy_(torch.from_numpy(out_counts[:used]))
    voxel_num.fill_(used)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError(
            f"mmcv._ext.{name} was called, but this is mmcv-lite with a stand-in for the one operator that "
            "CenterPoint needs. Install a compiled mmcv (2.1.0) to use a model that needs it."
        )

    missing.__name__ = name
    return missing
