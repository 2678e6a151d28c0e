"""Points sorted into pillars, and the numbers of the grid that they are sorted by: what every implementation shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.counts import VoxelCounts

__all__ = ["SUM_LANES", "EncoderInput", "PackedVoxels", "Voxels", "grid_float32", "pillar_centers_float32"]

# torch adds up a strided axis on a CPU in four interleaved partial sums; the cluster mean keeps that order.
SUM_LANES = 4


@dataclass(frozen=True, eq=False)
class Voxels:
    """Points sorted into pillars; numpy arrays, or torch tensors on the device of the points.

    Attributes:
        points: (M, P, C) float32, rows beyond `num_points` are zero.
        num_points: (M,) int32 points kept in each pillar, 1 to P.
        coords: (M, 3) int32 cell of each pillar as [z, y, x]; pillars are in the order of their first points.
        counts: M, and what was left out.
    """

    points: Any
    num_points: Any
    coords: Any
    counts: VoxelCounts

    def __len__(self) -> int:
        return len(self.coords)


@dataclass(frozen=True, eq=False)
class PackedVoxels:
    """Points sorted into pillars without padding, numpy arrays: pillar after pillar, points in input order.

    Attributes:
        points: (K, C) float32.
        num_points: (M,) int64 points of each pillar, 1 to P, whose sum is K.
        coords: (M, 3) int32 cell of each pillar as [z, y, x]; pillars are in the order of their first points.
        counts: M, and what was left out.
    """

    points: NDArray[np.float32]
    num_points: NDArray[np.int64]
    coords: NDArray[np.int32]
    counts: VoxelCounts

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def starts(self) -> NDArray[np.int64]:
        """(M,) index of each pillar's first point."""
        return np.cumsum(self.num_points) - self.num_points

    @property
    def pillars(self) -> NDArray[np.int64]:
        """(K,) pillar of each point."""
        return np.repeat(np.arange(len(self)), self.num_points)

    def by_slot(self) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
        """Points slot by slot, for sums and maxima over the points of each pillar in their order.

        Returns:
            (M,) pillars by descending size, and for each slot the points there: of the first pillars of that order.
        """
        order = np.argsort(-self.num_points, kind="stable")
        sizes, first = self.num_points[order], self.starts[order]
        have = np.searchsorted(-sizes, -np.arange(sizes[0] if len(sizes) else 0))
        return order, [first[:count] + slot for slot, count in enumerate(have)]


@dataclass(frozen=True, eq=False)
class EncoderInput:
    """What a backend needs of one frame, and what was left out of it.

    Attributes:
        features: (M, P, F) float32, the encoder's input.
        coords: (M, 3) int32 [z, y, x].
        counts: M, and what was left out.
    """

    features: Any
    coords: Any
    counts: VoxelCounts

    def __len__(self) -> int:
        return len(self.coords)


def grid_float32(spec: ModelSpec) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int, int]]:
    """Lower limits, cell sizes (float32, x y z) and cells along x, y, z as mmcv derives them."""
    limits = np.asarray(spec.point_cloud_range, np.float32)
    size = np.asarray(spec.voxel_size, np.float32)
    nx, ny, nz = (int(n) for n in np.round((limits[3:] - limits[:3]) / size))
    return limits[:3], size, (nx, ny, nz)


def pillar_centers_float32(spec: ModelSpec) -> list[tuple[np.float32, np.float32]]:
    """For x, y, (z): scale and offset from a cell index to the cell's centre, rounded to float32 where torch does."""
    # mmdet3d computes the offset in double precision; each is rounded when it meets a float32 tensor.
    return [
        (np.float32(spec.voxel_size[axis]), np.float32(spec.voxel_size[axis] / 2 + spec.point_cloud_range[axis]))
        for axis in range(spec.voxel_center_dims)
    ]
