"""Pillars of a whole batch by one sort, and their canvas."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.spec import ModelSpec
from runtime.voxels import grid_float32

__all__ = ["BatchPillars", "batch_canvas", "batch_pillars"]


@dataclass(frozen=True)
class BatchPillars:
    """Pillars of B frames.

    Attributes:
        points: (M, P, C) float32, zero behind `num_points`.
        num_points: (M,) int32.
        coords: (M, 4) int32 [frame, z, y, x], as mmdet3d's encoders take them.
    """

    points: torch.Tensor
    num_points: torch.Tensor
    coords: torch.Tensor


def batch_pillars(points: torch.Tensor, frame: torch.Tensor, spec: ModelSpec) -> BatchPillars:
    """Sorts points into pillars; of a pillar the first points are kept. No pillar is dropped.

    Args:
        points: (N, C) float32 of all frames.
        frame: (N,) which frame each belongs to.
        spec: With its grid of pillars, one cell high.
    """
    device = points.device
    lower, size, (nx, ny, nz) = grid_float32(spec)
    position = torch.floor((points[:, :3] - torch.from_numpy(lower).to(device)) / torch.from_numpy(size).to(device))
    limits = torch.tensor([nx, ny, nz], device=device)
    inside = ((position >= 0) & (position < limits)).all(dim=1)
    cell = position.to(torch.int64)
    index = ((frame.to(torch.int64) * nz + cell[:, 2]) * ny + cell[:, 1]) * nx + cell[:, 0]
    # What lies outside goes to the end.
    index, order = torch.sort(torch.where(inside, index, torch.iinfo(torch.int64).max), stable=True)
    count = int(inside.sum())
    index, order = index[:count], order[:count]
    is_start = torch.ones(len(index), dtype=torch.bool, device=device)
    is_start[1:] = index[1:] != index[:-1]
    starts = torch.nonzero(is_start).flatten()
    row = torch.cumsum(is_start, 0) - 1
    slot = torch.arange(len(index), device=device) - starts[row]
    kept = slot < spec.max_points_per_voxel
    pillars = points.new_zeros((len(starts), spec.max_points_per_voxel, points.shape[1]))
    pillars[row[kept], slot[kept]] = points[order[kept]]
    sizes = torch.diff(starts, append=starts.new_tensor([len(index)])).clamp(max=spec.max_points_per_voxel)
    flat = index[starts]
    coords = torch.stack([flat // (nx * ny * nz), flat // (nx * ny) % nz, flat // nx % ny, flat % nx], dim=1)
    return BatchPillars(pillars, sizes.to(torch.int32), coords.to(torch.int32))


def batch_canvas(features: torch.Tensor, coords: torch.Tensor, batch: int, spec: ModelSpec) -> torch.Tensor:
    """Pillar features (M, C) on their canvases (B, C, ny, nx), channels last in memory."""
    nx, ny = spec.grid_size
    canvas = features.new_zeros((batch * ny * nx, features.shape[1]))
    place = coords.to(torch.int64)
    canvas = canvas.index_copy(0, (place[:, 0] * ny + place[:, 2]) * nx + place[:, 3], features)
    return canvas.view(batch, ny, nx, -1).permute(0, 3, 1, 2)
