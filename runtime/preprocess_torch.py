"""The torch half of `runtime.preprocess`: the same operations on tensors of any device, in a deterministic order.

Sorts have unique keys and no two threads write one element, so that a CUDA device gives the CPU's bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from runtime.counts import VoxelCounts
from runtime.voxels import SUM_LANES, Voxels, grid_float32, pillar_centers_float32

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = ["decorate_torch", "voxelize_torch"]


def voxelize_torch(points: torch.Tensor, spec: ModelSpec) -> Voxels:
    """`runtime.preprocess.voxelize` for a checked (N, C) float32 tensor; the result lies on its device."""
    device = points.device
    num_input = len(points)
    points = points[torch.isfinite(points).all(dim=1)]
    lower, size, grid = grid_float32(spec)
    cell = torch.zeros(len(points), dtype=torch.int64, device=device)
    inside = torch.ones(len(points), dtype=torch.bool, device=device)
    for axis in (2, 1, 0):
        # Tensors rather than Python numbers: CUDA turns a division by a number into a product with its reciprocal.
        position = torch.floor(
            (points[:, axis] - torch.tensor(lower[axis], device=device)) / torch.tensor(size[axis], device=device)
        )
        inside &= (position >= 0) & (position < grid[axis])
        cell = cell * grid[axis] + torch.where(inside, position, 0.0).to(torch.int64)
    kept = torch.nonzero(inside).flatten()
    invalid, outside = num_input - len(points), len(points) - len(kept)
    limit = spec.max_points_per_voxel
    if len(kept) == 0:
        return Voxels(
            points.new_zeros((0, limit, points.shape[1])),
            torch.zeros(0, dtype=torch.int32, device=device),
            torch.zeros((0, 3), dtype=torch.int32, device=device),
            VoxelCounts(outside_points=outside, invalid_points=invalid),
        )

    shift = len(kept).bit_length()
    key = torch.sort((cell[kept] << shift) | torch.arange(len(kept), device=device)).values
    position_in_kept = key & ((1 << shift) - 1)
    sorted_cell = key >> shift
    is_start = torch.ones(len(key), dtype=torch.bool, device=device)
    is_start[1:] = sorted_cell[1:] != sorted_cell[:-1]
    starts = torch.nonzero(is_start).flatten()
    group = torch.cumsum(is_start, 0) - 1
    slot = torch.arange(len(key), device=device) - starts[group]
    order = torch.argsort(position_in_kept[starts])
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(starts), device=device)
    num_voxels = min(len(starts), spec.max_voxels)
    voxel = rank[group]
    fits = (slot < limit) & (voxel < num_voxels)

    voxels = points.new_zeros((num_voxels, limit, points.shape[1]))
    voxels[voxel[fits], slot[fits]] = points[kept[position_in_kept[fits]]]
    ends = torch.cat([starts[1:], starts.new_tensor([len(key)])])
    chosen = order[:num_voxels]
    nx, ny, _ = grid
    index = sorted_cell[starts[chosen]]
    coords = torch.stack([index // (nx * ny), index // nx % ny, index % nx], dim=1)
    return Voxels(
        voxels,
        torch.clamp((ends - starts)[chosen], max=limit).to(torch.int32),
        coords.to(torch.int32),
        VoxelCounts(
            voxels=num_voxels,
            dropped_voxels=len(starts) - num_voxels,
            dropped_points=len(key) - int(fits.sum()),
            outside_points=outside,
            invalid_points=invalid,
        ),
    )


def decorate_torch(voxels: Voxels, spec: ModelSpec) -> torch.Tensor:
    """`runtime.preprocess.decorate` for tensors."""
    points: torch.Tensor = voxels.points
    num_points: torch.Tensor = voxels.num_points
    coords: torch.Tensor = voxels.coords
    num_voxels, limit, columns = points.shape
    features = points.new_zeros(spec.encoder_shape(num_voxels))
    features[:, :, :columns] = points
    if spec.cluster_center:
        features[:, :, columns : columns + 3] = points[:, :, :3] - _mean(voxels)[:, None]
        columns += 3
    for axis, (size, offset) in enumerate(pillar_centers_float32(spec)):
        # Two operations, so that no fused multiply-add rounds once where the CPU rounds twice.
        center = coords[:, 2 - axis].to(torch.float32) * float(size)
        center = center + float(offset)
        features[:, :, columns + axis] = points[:, :, axis] - center[:, None]
    if spec.legacy_encoder:
        features[:, :, :3] = features[:, :, columns : columns + 3]
    columns += spec.voxel_center_dims
    if spec.point_distance:
        features[:, :, columns] = _length(features[:, :, :3])
    if spec.encoder_mode == "avg":
        features[:, :, -1] = num_points.to(torch.float32)[:, None]
    padded = torch.arange(limit, device=points.device) >= num_points[:, None]
    return features.masked_fill_(padded[:, :, None], 0.0)


def _mean(voxels: Voxels) -> torch.Tensor:
    """(M, 3) mean of xyz over the points of each pillar, added up in torch's order on a CPU."""
    points: torch.Tensor = voxels.points
    num_points: torch.Tensor = voxels.num_points
    num_voxels, limit, _ = points.shape
    lanes = points.new_zeros((num_voxels, SUM_LANES, 3))
    for start in range(0, limit, SUM_LANES):
        block = points[:, start : start + SUM_LANES, :3]
        lanes[:, : block.shape[1]] += block
    total = ((lanes[:, 0] + lanes[:, 1]) + lanes[:, 2]) + lanes[:, 3]
    return total / num_points.to(torch.float32)[:, None]


def _length(xyz: torch.Tensor) -> torch.Tensor:
    """`runtime.preprocess`'s length, with the same roundings, of (M, P, 3)."""
    total = torch.square(xyz[..., 0]).double()
    for axis in (1, 2):
        total = (torch.square(xyz[..., axis].double()) + total).float().double()
    # torch's square root of float32 is not always the nearest one.
    return torch.sqrt(total).float()
