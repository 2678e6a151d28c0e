"""Points to the voxel encoder's input: hard voxelization and the decoration of each point.

Both are equal, bit for bit, to what mmdet3d 1.4 does on a CPU: `voxelize` to mmcv's deterministic hard voxelization,
`decorate` to `PillarFeatureNet` up to its PFN layers. numpy arrays and torch tensors (CPU and CUDA) take
the same sequence of float32 operations, so that every device gives the same bits.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import DataError
from runtime.counts import VoxelCounts
from runtime.voxels import SUM_LANES, EncoderInput, PackedVoxels, Slots, Voxels, grid_float32, pillar_centers_float32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec

__all__ = ["decorate", "decorate_packed", "pack", "preprocess", "voxelize"]

# Points that are looked at at a time, so that what is computed of them stays in a core's cache.
_BLOCK = 16384


def voxelize(points: Any, spec: ModelSpec) -> Voxels:
    """Sorts points into pillars: the first P points of a pillar, the first `max_voxels` pillars, in input order.

    A point belongs to cell floor((p - lower limit) / voxel size), computed in float32 as mmcv does; points outside
    the grid and points with a non-finite value are left out and counted. No points give no pillars.

    Args:
        points: (N, C) float32 numpy array or torch tensor with the columns `spec.point_columns`, x, y, z first; metres
            and seconds, ego frame.

    Raises:
        DataError: the array has another shape or type.
    """
    _check_points(points, spec)
    if spec.dynamic_pillars:
        raise ValueError(f"Pillars of model '{spec.name}' hold any number of points; preprocess makes rows of them.")
    if not isinstance(points, np.ndarray):
        from runtime.preprocess_torch import voxelize_torch

        return voxelize_torch(points, spec)

    packed = pack(points, spec)
    padded = np.zeros((len(packed), spec.max_points_per_voxel, points.shape[1]), np.float32)
    padded[packed.places.pillars, packed.places.slots] = packed.points
    return Voxels(padded, packed.num_points.astype(np.int32), packed.coords, packed.counts)


def pack(points: NDArray[np.float32], spec: ModelSpec) -> PackedVoxels:
    """`voxelize` of a numpy array without the padded rows; arguments and errors as there."""
    _check_points(points, spec)
    kept, cell, invalid = _in_range(points, spec)
    outside = len(points) - invalid - len(kept)
    if len(kept) == 0:
        counts = VoxelCounts(outside_points=outside, invalid_points=invalid)
        nothing = np.zeros((0, points.shape[1]), np.float32)
        return PackedVoxels(nothing, Slots(np.zeros(0, np.int64)), np.zeros((0, 3), np.int32), counts)

    # One sort of unique keys groups the points by cell and keeps the input order inside each group.
    shift = len(kept).bit_length()
    key = np.sort((cell << shift) | np.arange(len(kept)))
    position_in_kept = key & ((1 << shift) - 1)
    sorted_cell = key >> shift
    is_start = np.empty(len(key), bool)
    is_start[0] = True
    np.not_equal(sorted_cell[1:], sorted_cell[:-1], out=is_start[1:])
    starts = np.flatnonzero(is_start)
    sizes = np.diff(np.append(starts, len(key)))
    # A pillar's place is the rank of its first point.
    chosen = np.argsort(position_in_kept[starts])
    num_points = sizes[chosen]
    if not spec.dynamic_pillars:
        chosen, num_points = (
            chosen[: spec.max_voxels],
            np.minimum(num_points, spec.max_points_per_voxel)[: spec.max_voxels],
        )
    places = Slots(num_points)
    rows = kept[position_in_kept[starts[chosen][places.pillars] + places.slots]]
    columns = np.empty((points.shape[1], len(rows)), np.float32)
    for begin in range(0, len(rows), _BLOCK):
        columns[:, begin : begin + _BLOCK] = points[rows[begin : begin + _BLOCK]].T
    return PackedVoxels(
        columns.T,
        places,
        _coords(sorted_cell[starts[chosen]], grid_float32(spec)[2]),
        VoxelCounts(
            voxels=len(chosen),
            dropped_voxels=len(starts) - len(chosen),
            dropped_points=len(key) - len(rows),
            outside_points=outside,
            invalid_points=invalid,
        ),
    )


def _in_range(points: NDArray[np.float32], spec: ModelSpec) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Points of the grid without a NaN or an infinity, their cells, and how many points have one."""
    lower, size, grid = grid_float32(spec)
    kept: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    cells: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    invalid = 0
    for begin in range(0, len(points), _BLOCK):
        columns = np.ascontiguousarray(points[begin : begin + _BLOCK].T)
        inside: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(columns), axis=0)
        invalid += len(inside) - int(np.count_nonzero(inside))
        positions = []
        for axis in range(3):
            # A coordinate near float32's limit may overflow to infinity here, which is outside like any far point.
            with np.errstate(over="ignore", invalid="ignore"):
                position = np.floor((columns[axis] - lower[axis]) / size[axis])
            inside &= (position >= 0) & (position < grid[axis])
            positions.append(position)
        rows = np.flatnonzero(inside)
        x, y, z = (position[rows].astype(np.int64) for position in positions)
        kept.append(rows + begin)
        cells.append((z * grid[1] + y) * grid[0] + x)
    return np.concatenate(kept), np.concatenate(cells), invalid


def decorate(voxels: Voxels, spec: ModelSpec) -> Any:
    """(M, P, F) float32 encoder input: [point columns, xyz - mean of the pillar's points, xyz - pillar centre].

    The last part has `spec.voxel_center_dims` columns (2 in models without a z offset). Padded rows are zero. As the
    specification says, the second or third part is left out; xyz among the columns is what the third part holds
    (`legacy_encoder`); a column with the length of that xyz follows; last, the number of the pillar's points for an
    encoder that takes a mean.
    """
    if not isinstance(voxels.points, np.ndarray):
        from runtime.preprocess_torch import decorate_torch

        return decorate_torch(voxels, spec)
    num_voxels, limit, columns = voxels.points.shape
    features = np.zeros(spec.encoder_shape(num_voxels), np.float32)
    places = Slots(voxels.num_points.astype(np.int64))
    rows = places.pillars * limit + places.slots
    packed = PackedVoxels(voxels.points.reshape(-1, columns)[rows], places, voxels.coords, voxels.counts)
    features.reshape(-1, features.shape[2])[rows] = decorate_packed(packed, spec)
    return features


def decorate_packed(packed: PackedVoxels, spec: ModelSpec) -> NDArray[np.float32]:
    """(K, F) float32: the rows of `decorate` that are not padding, in the order of `packed.places`."""
    points, places = packed.points, packed.places
    columns = points.shape[1]
    # Each column in one piece, as those of the points.
    features: NDArray[np.float32] = np.empty((spec.encoder_in_features, len(points)), np.float32).T
    features[:, :columns] = points
    if spec.cluster_center:
        for axis, mean in enumerate(_means(packed)):
            features[:, columns + axis] = points[:, axis] - mean[places.ranks]
        columns += 3
    for axis, (size, offset) in enumerate(pillar_centers_float32(spec)):
        center = packed.coords[places.order, 2 - axis].astype(np.float32) * size + offset
        features[:, columns + axis] = points[:, axis] - center[places.ranks]
    if spec.legacy_encoder:
        features[:, :3] = features[:, columns : columns + 3]
    columns += spec.voxel_center_dims
    if spec.point_distance:
        features[:, columns] = _length(features[:, :3])
    if spec.encoder_mode == "avg":
        features[:, -1] = packed.num_points[places.pillars]
    return features


def preprocess(points: Any, spec: ModelSpec) -> EncoderInput:
    """`voxelize` and `decorate` in one step, or rows of dynamic pillars; arguments and errors as there."""
    if spec.dynamic_pillars:
        if isinstance(points, np.ndarray):
            return _rows(points, spec)
        import torch

        rows = _rows(points.cpu().numpy(), spec)
        features, coords = (torch.from_numpy(value).to(points.device) for value in (rows.features, rows.coords))
        return EncoderInput(features, coords, rows.counts)
    voxels = voxelize(points, spec)
    return EncoderInput(decorate(voxels, spec), voxels.coords, voxels.counts)


def _rows(points: NDArray[np.float32], spec: ModelSpec) -> EncoderInput:
    """Dynamic pillars as rows of P points; the last row of a pillar is filled with its first point.

    Rows of a pillar stand behind each other. Pillars whose rows have no room are left out whole.
    """
    packed, limit = pack(points, spec), spec.max_points_per_voxel
    chunks = -(-packed.num_points // limit)
    ends = np.cumsum(chunks)
    kept = int(np.searchsorted(ends, spec.max_voxels, side="right"))
    is_kept = packed.places.pillars < kept
    features = decorate_packed(packed, spec)[is_kept]
    pillars, slots = packed.places.pillars[is_kept], packed.places.slots[is_kept]
    rows, slots = (ends - chunks)[pillars] + slots // limit, slots % limit
    heads = np.empty((int(chunks[:kept].sum()), features.shape[1]), np.float32)
    heads[rows[slots == 0]] = features[slots == 0]
    filled = np.repeat(heads[:, None], limit, axis=1)
    if spec.encoder_mode == "avg":
        filled[:, :, -1] = 0
    filled[rows, slots] = features
    counts = dataclasses.replace(
        packed.counts,
        voxels=kept,
        dropped_voxels=len(packed) - kept,
        dropped_points=int(packed.num_points[kept:].sum()),
    )
    return EncoderInput(filled, np.repeat(packed.coords[:kept], chunks[:kept], axis=0), counts)


def _length(xyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K,) lengths of (K, 3) with torch's roundings: each square but the first is added before it is rounded."""
    total = np.square(xyz[:, 0]).astype(np.float64)
    for axis in (1, 2):
        # In double precision a product of two float32 is exact.
        total = (np.square(xyz[:, axis].astype(np.float64)) + total).astype(np.float32).astype(np.float64)
    return np.sqrt(total.astype(np.float32))


def _means(packed: PackedVoxels) -> NDArray[np.float32]:
    """(3, M) mean of xyz over the points of each pillar, added up in torch's order; pillars as in `places.order`."""
    lanes = np.zeros((SUM_LANES, 3, len(packed)), np.float32)
    xyz = packed.points.T[:3]
    for slot, (begin, end) in enumerate(packed.places.spans):
        lanes[slot % SUM_LANES, :, : end - begin] += xyz[:, begin:end]
    total = ((lanes[0] + lanes[1]) + lanes[2]) + lanes[3]
    means: NDArray[np.float32] = total / packed.num_points[packed.places.order].astype(np.float32)
    return means


def _coords(cell: NDArray[np.int64], grid: tuple[int, int, int]) -> NDArray[np.int32]:
    nx, ny, _ = grid
    return np.stack([cell // (nx * ny), cell // nx % ny, cell % nx], axis=1).astype(np.int32)


def _check_points(points: Any, spec: ModelSpec) -> None:
    shape = tuple(points.shape)
    if len(shape) != 2 or shape[1] != spec.point_features:
        raise DataError(
            f"Point cloud has shape {shape}; model '{spec.name}' needs (N, {spec.point_features}): "
            f"{', '.join(spec.point_columns)}. Select the columns as the model config's test pipeline does (use_dim)."
        )
    dtype = str(points.dtype).removeprefix("torch.")
    if dtype != "float32":
        raise DataError(f"Point cloud is {dtype}; it must be float32, since cells are computed in float32.")
