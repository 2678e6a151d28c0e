"""Points on the device to the canvas on the device: voxelization, decoration, PFN, quantization and scatter."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ConfigError
from runtime.counts import VoxelCounts
from runtime.cuda.device import pointers
from runtime.cuda_engine.macros import kernel_source
from runtime.voxels import grid_float32, pillar_centers_float32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.cloud_memory import CloudMemory
    from runtime.cuda_engine.pillar_weights import PillarWeights

__all__ = ["CanvasMemory", "PillarEncoderKernels"]

_FILES = ("intrinsics.cuh", "overlap.cuh", "pillars.cu", "pfn.cu")
_KERNELS = ("pillars_assign", "pillars_rank", "pillars_group", "pillars_encode")
# As in kernels/pillars.cu.
_ASSIGN_THREADS, _RANK_THREADS, _GROUP_THREADS, _ENCODE_THREADS = 256, 512, 256, 128
_RANK_ITEMS = 2
_NUM_TOTALS = 5


@dataclass(frozen=True)
class CanvasMemory:
    """Where the canvas lies: [chunk][H + 2][W + 2][16 bytes], pixel (y, x) at row y + 1 and column x + 1.

    Attributes:
        address: Of the first byte; zeroed before the first frame.
        plane: Bytes from one chunk (16 int8 or 8 float16 channels, or one channel of a dense canvas) to the next.
        scale: Step of its INT8 codes, or None for float16.
        is_dense: (C, H, W) float32 instead, without a border: what an engine of TensorRT takes.
    """

    address: int
    plane: int
    scale: float | None
    is_dense: bool = False

    @classmethod
    def dense(cls, address: int, spec: ModelSpec) -> CanvasMemory:
        """The model's canvas, (1, C, H, W) float32, at an address."""
        _, _, height, width = spec.canvas_shape
        return cls(address, height * width * 4, None, is_dense=True)


class PillarEncoderKernels:
    """`runtime.preprocess.preprocess`, the pillar encoder and the scatter as four kernels.

    The number of points is read on the device, so that one captured graph serves any cloud up to `capacity`. The
    canvas is cleared where the last frame wrote; nothing else may write to it.

    Attributes:
        counters: Address of int32, the fields of `VoxelCounts` in order.
        pillars: Address of (max_voxels, 4) int32 [cell, ., points before the limit, y << 16 | x]; a cell is y * W + x.
        features: Address of (max_voxels, C) float32 pillar features before quantization, or 0.
    """

    def __init__(
        self,
        device: CudaDevice,
        spec: ModelSpec,
        weights: PillarWeights,
        canvas: CanvasMemory,
        *,
        capacity: int = 1 << 18,
        keep_features: bool = False,
    ) -> None:
        """Compiles and allocates.

        Args:
            device: Where it runs.
            spec: Of the model.
            weights: Of its pillar encoder.
            canvas: What it writes.
            capacity: Most points of a frame.
            keep_features: Also write `features`, for checks.

        Raises:
            ConfigError: the model's sizes are beyond the kernels'.
        """
        macros = _macros(spec, weights, canvas, capacity)
        self._device, self._spec, self._canvas, self.capacity = device, spec, canvas, capacity
        kernels = device.compile_all(kernel_source(macros, *_FILES), _KERNELS)
        self._assign, self._rank, self._group, self._encode = (kernels[name] for name in _KERNELS)
        nx, ny = spec.grid_size
        tiles = -(-capacity // (_RANK_THREADS * _RANK_ITEMS))
        self.counters = device.allocate(len(VoxelCounts.names()) * 4)
        self.pillars = device.allocate(spec.max_voxels * 16)
        self.features = device.allocate(spec.max_voxels * spec.encoder_channels * 4) if keep_features else 0
        self._state = device.allocate(nx * ny * 8)
        self._cell_base = device.allocate(nx * ny * 4)
        self._cells, self._arrival, self._order = (device.allocate(capacity * 4) for _ in range(3))
        self._tile_sums = device.allocate(tiles * 8)
        self._totals = device.allocate(_NUM_TOTALS * 4)
        packed = weights.packed
        self._weights = device.allocate(packed.nbytes)
        stream = device.create_stream()
        device.upload(self._weights, packed, stream)
        device.synchronize(stream)
        self._tiles = tiles

    def enqueue(self, cloud: CloudMemory, stream: int) -> None:
        """Puts the four kernels on the stream; may be captured.

        Args:
            cloud: What they read; of the same capacity.
        """
        device, blocks = self._device, self._device.num_multiprocessors
        points, count, canvas = cloud.points, cloud.num_points, self._canvas.address
        plane = ctypes.c_longlong(self._canvas.plane)
        wide = min(-(-self.capacity // _ASSIGN_THREADS), 8 * blocks)
        assigned = (points, count, self._state, self._cells, self._arrival, self._totals, self.pillars, self.counters)
        ranked = (count, self._state, self._cells, self._cell_base, self.pillars, self._tile_sums, self._totals)
        grouped = (count, self._state, self._cells, self._arrival, self._cell_base, self._order, self._tile_sums)
        encoded = (points, self._order, self.pillars, self.counters, self._weights, canvas)
        warps = min(-(-self._spec.max_voxels // 4), _encode_blocks(self._spec) * blocks * _ENCODE_THREADS // 32)
        device.launch(self._assign, wide, _ASSIGN_THREADS, [*pointers(*assigned, canvas), plane], stream)
        # Each waits for the one before it by itself, after whatever it can do ahead.
        overlap = device.compute_capability >= (9, 0)
        device.launch(self._rank, self._tiles, _RANK_THREADS, pointers(*ranked), stream, overlap=overlap)
        arguments = pointers(*grouped, self._totals, self.counters)
        device.launch(self._group, wide, _GROUP_THREADS, arguments, stream, overlap=overlap)
        blocks = -(-warps * 32 // _ENCODE_THREADS)
        ends = [*pointers(*encoded), plane, ctypes.c_void_p(self.features)]
        device.launch(self._encode, blocks, _ENCODE_THREADS, ends, stream, overlap=overlap)

    def new_host_counts(self) -> NDArray[np.int32]:
        """Page-locked memory for the counters of one frame."""
        return self._device.allocate_pinned((len(VoxelCounts.names()),), np.int32)

    def enqueue_counts(self, host: NDArray[np.int32], stream: int) -> None:
        """Puts the copy of the counters to `new_host_counts`' memory on the stream; may be captured."""
        self._device.download(host, self.counters, stream)

    @staticmethod
    def counts(host: NDArray[np.int32]) -> VoxelCounts:
        """What `enqueue_counts` brought; the stream must have come past it."""
        return VoxelCounts(**dict(zip(VoxelCounts.names(), map(int, host), strict=True)))

    def download_counts(self, stream: int) -> VoxelCounts:
        """The counters of the last frame; waits for the stream."""
        values: NDArray[np.int32] = np.zeros(len(VoxelCounts.names()), np.int32)
        self.enqueue_counts(values, stream)
        self._device.synchronize(stream)
        return self.counts(values)


def _encode_blocks(spec: ModelSpec) -> int:
    # Resident blocks for each multiprocessor: what a thread's weights leave of the registers.
    return 5 if spec.encoder_channels <= 32 else 3


def _macros(spec: ModelSpec, weights: PillarWeights, canvas: CanvasMemory, capacity: int) -> dict[str, object]:
    scale = canvas.scale
    lower, size, (nx, ny, nz) = grid_float32(spec)
    features, hidden = weights.first.shape
    channels = weights.second.shape[1]
    found = (features, channels)
    if found != (spec.encoder_in_features, spec.encoder_channels):
        raise ConfigError(
            f"The pillar encoder takes {found[0]} features and gives {found[1]} channels; model '{spec.name}' has "
            f"{spec.encoder_in_features} and {spec.encoder_channels}."
        )
    limits = {
        "layers of cells along z": (nz, 1),
        "max_points_per_voxel": (spec.max_points_per_voxel, 32),
        "features of a point": (features, 16),
        "channels of the first encoder layer": (hidden, 32),
        "encoder channels": (channels, 64),
        "points": (capacity, 1 << 24),
        "cells along x": (nx, 8192),
        "cells along y": (ny, 8192),
    }
    for what, (value, most) in limits.items():
        if not 1 <= value <= most:
            raise ConfigError(f"Model '{spec.name}': {what}: {value}; this engine's kernels take 1 to {most}.")
    centers = [*pillar_centers_float32(spec), (np.float32(0), np.float32(0))][:3]
    macros: dict[str, object] = {
        "CAPACITY": capacity,
        "COLUMNS": spec.point_features,
        "FEATURES": features,
        "CENTER_DIMS": spec.voxel_center_dims,
        "GRID_X": nx,
        "GRID_Y": ny,
        "MAX_POINTS": spec.max_points_per_voxel,
        "MAX_VOXELS": spec.max_voxels,
        "RANK_ITEMS": _RANK_ITEMS,
        "HIDDEN": hidden,
        "CHANNELS": channels,
        "ROUND_HALF": weights.float16,
        "OUT_DENSE": canvas.is_dense,
        "OUT_INT8": scale is not None,
        "OUT_SCALE": np.float32(1 if scale is None else scale),
        "ENCODE_BLOCKS": _encode_blocks(spec),
    }
    for axis, name in enumerate("XYZ"):
        macros[f"LOWER_{name}"], macros[f"SIZE_{name}"] = lower[axis], size[axis]
        macros[f"CENTER_SCALE_{name}"], macros[f"CENTER_OFFSET_{name}"] = centers[axis]
    return macros
