"""Points sorted into pillars, and the numbers of the grid that they are sorted by: what every implementation shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.counts import VoxelCounts

__all__ = ["SUM_LANES", "EncoderInput", "PackedVoxels", "Slots", "Voxels", "grid_float32", "pillar_centers_float32"]

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
class Slots:
    """The order of points without padding: the first ones of all pillars, then the second ones, and so on.

    In a slot the pillars come by descending size, so that the pillars of a slot are the first ones of every slot
    before it: sums and maxima over the points of each pillar are sums and maxima of slices.

    Attributes:
        num_points: (M,) int64 points of each pillar, 1 or more, whose sum is K.
    """

    num_points: NDArray[np.int64]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(M,) pillars by descending size, equal ones by their number."""
        return np.argsort(-self.num_points, kind="stable")

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First and last-but-one point of each slot; its points are of the first pillars of `order`."""
        ends = np.cumsum(self._widths).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """(K,) slot of each point: how many points of its pillar came before it."""
        return np.repeat(np.arange(len(self._widths)), self._widths)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """(K,) place of each point's pillar in `order`."""
        ends = np.cumsum(self._widths)
        return np.arange(int(self.num_points.sum())) - np.repeat(ends - self._widths, self._widths)

    @cached_property
    def pillars(self) -> NDArray[np.int64]:
        """(K,) pillar of each point."""
        return self.order[self.ranks]

    @cached_property
    def _widths(self) -> NDArray[np.int64]:
        """Points of each slot."""
        largest = int(self.num_points.max(initial=0))
        return len(self.num_points) - np.cumsum(np.bincount(self.num_points, minlength=largest + 1))[:largest]


@dataclass(frozen=True, eq=False)
class PackedVoxels:
    """Points sorted into pillars without padding, numpy arrays, in the order of `places`.

    Attributes:
        points: (K, C) float32; each column lies in one piece.
        places: Pillar and slot of each point.
        coords: (M, 3) int32 cell of each pillar as [z, y, x]; pillars are in the order of their first points.
        counts: M, and what was left out.
    """

    points: NDArray[np.float32]
    places: Slots
    coords: NDArray[np.int32]
    counts: VoxelCounts

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def num_points(self) -> NDArray[np.int64]:
        """(M,) points of each pillar."""
        return self.places.num_points


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
