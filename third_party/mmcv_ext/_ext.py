"""The operators of `mmcv._ext` that CenterPoint runs, in the plainest form: one point after the other.

On the CPU this is deliberately a direct sequential statement of the operator's definition (first come, first kept), so
that it can serve as the reference for the vectorised voxelization of `runtime`. On a GPU, where training spends its
time, the same result comes from sorting.
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
    if points.is_cuda:
        used = _hard_voxelize_sorted(
            points.detach(), voxel_size, coors_range, max_points, max_voxels, voxels, coors, num_points_per_voxel
        )
        voxel_num.fill_(used)
        return
    size = voxel_size.cpu().numpy().astype(np.float32)
    limits = coors_range.cpu().numpy().astype(np.float32)
    grid = np.round((limits[3:] - limits[:3]) / size).astype(np.int64)
    out_voxels = np.zeros(tuple(voxels.shape), np.float32)
    out_coords = np.zeros(tuple(coors.shape), np.int32)
    out_counts = np.zeros(tuple(num_points_per_voxel.shape), np.int32)
    cloud = np.ascontiguousarray(points.detach().cpu().numpy(), dtype=np.float32)
    used = _hard_voxelize(cloud, size, limits[:3], grid, max_points, max_voxels, out_voxels, out_coords, out_counts)
    voxels.copy_(torch.from_numpy(out_voxels))
    coors.copy_(torch.from_numpy(out_coords))
    num_points_per_voxel.copy_(torch.from_numpy(out_counts))
    voxel_num.fill_(used)


def _hard_voxelize_sorted(
    points: torch.Tensor,
    voxel_size: torch.Tensor,
    coors_range: torch.Tensor,
    max_points: int,
    max_voxels: int,
    voxels: torch.Tensor,
    coords: torch.Tensor,
    counts: torch.Tensor,
) -> int:
    """The same rows in the same order; sorts have unique keys, so that no result depends on scheduling."""
    device = points.device
    lower, size = coors_range[:3].to(points), voxel_size.to(points)
    grid = torch.round((coors_range[3:].to(points) - lower) / size).to(torch.int64)
    cell = torch.floor((points[:, :3] - lower) / size)
    kept = torch.nonzero(((cell >= 0) & (cell < grid)).all(dim=1)).flatten()
    if len(kept) == 0:
        return 0
    x, y, z = cell[kept].to(torch.int64).unbind(dim=1)
    index = (z * grid[1] + y) * grid[0] + x
    shift = len(kept).bit_length()
    # Points by cell, and within a cell in the order of the cloud.
    key = torch.sort((index << shift) | torch.arange(len(kept), device=device)).values
    position, index = key & ((1 << shift) - 1), key >> shift
    is_start = torch.cat([index.new_ones(1, dtype=torch.bool), index[1:] != index[:-1]])
    starts = torch.nonzero(is_start).flatten()
    group = torch.cumsum(is_start, 0) - 1
    slot = torch.arange(len(key), device=device) - starts[group]
    # Voxels in the order of their first points.
    order = torch.argsort(position[starts])
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=device)
    row = rank[group]
    fits = (slot < max_points) & (row < max_voxels)
    voxels[row[fits], slot[fits]] = points[kept[position[fits]]].to(voxels.dtype)
    used = min(len(starts), max_voxels)
    first = index[starts[order[:used]]]
    plane = grid[0] * grid[1]
    coords[:used] = torch.stack([first // plane, first % plane // grid[0], first % grid[0]], dim=1).to(coords.dtype)
    sizes = torch.diff(starts, append=starts.new_tensor([len(key)]))[order[:used]]
    counts[:used] = sizes.clamp(max=max_points).to(counts.dtype)
    return used


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
