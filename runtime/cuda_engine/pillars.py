"""Points on the device to the canvas on the device: voxelization, decoration, PFN, quantization and scatter."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.counts import VoxelCounts
from runtime.cuda.device import pointers
from runtime.cuda_engine.macros import definitions, kernel_source
from runtime.cuda_engine.pillar_parameters import COUNTERS, PILLAR_SIZES, TOTALS, PillarModel, PillarSizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.cloud_memory import CloudMemory
    from runtime.pillar_weights import PillarWeights

__all__ = ["CanvasMemory", "PillarEncoderKernels"]

_FILES = ("intrinsics.cuh", "overlap.cuh", "pillars.cu", "decoration.cu", "pfn.cu", "encode.cu")
_KERNELS = ("pillars_assign", "pillars_rank", "pillars_group", "pillars_encode")


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
        features: Address of (max_voxels, C) float32 pillar features before quantization.
    """

    def __init__(
        self,
        device: CudaDevice,
        spec: ModelSpec,
        weights: PillarWeights,
        canvas: CanvasMemory,
        *,
        capacity: int,
        sizes: PillarSizes = PILLAR_SIZES,
    ) -> None:
        """Compiles and allocates.

        Args:
            device: Where it runs.
            spec: Of the model.
            weights: Of its pillar encoder.
            canvas: What it writes.
            capacity: Most points of a frame.
            sizes: Of the kernels; no result depends on them.

        Raises:
            ConfigError: the model's sizes are beyond the kernels'.
        """
        self._model = PillarModel.from_spec(spec, weights, capacity, scale=canvas.scale, is_dense=canvas.is_dense)
        self._sizes = sizes
        macros = definitions(self._model, sizes, COUNTERS, TOTALS)
        self._device, self._spec, self._canvas, self.capacity = device, spec, canvas, capacity
        kernels = device.compile_all(kernel_source(macros, *_FILES), _KERNELS)
        self._assign, self._rank, self._group, self._encode = (kernels[name] for name in _KERNELS)
        nx, ny = spec.grid_size
        tiles = -(-capacity // sizes.rank_tile)
        self.counters = device.allocate(COUNTERS.num_bytes)
        self.pillars = device.allocate(spec.max_voxels * 16)
        self.features = device.allocate(spec.max_voxels * spec.encoder_channels * 4)
        self._state = device.allocate(nx * ny * 8)
        self._cell_base = device.allocate(nx * ny * 4)
        self._cells, self._arrival, self._order = (device.allocate(capacity * 4) for _ in range(3))
        self._tile_sums = device.allocate(tiles * 8)
        self._totals = device.allocate(TOTALS.num_bytes)
        packed = weights.packed
        self._weights = device.allocate(packed.nbytes)
        stream = device.create_stream()
        device.upload(self._weights, packed, stream)
        device.synchronize(stream)

    def enqueue(self, cloud: CloudMemory, stream: int) -> None:
        """Puts the four kernels on the stream; may be captured.

        Args:
            cloud: What they read; of the same capacity.
        """
        device, sizes, blocks = self._device, self._sizes, self._device.num_multiprocessors
        points, count, canvas = cloud.points, cloud.num_points, self._canvas.address
        plane = ctypes.c_longlong(self._canvas.plane)
        wide = min(-(-self.capacity // sizes.assign_threads), 8 * blocks)
        assigned = (points, count, self._state, self._cells, self._arrival, self._totals, self.pillars, self.counters)
        ranked = (count, self._state, self._cells, self._cell_base, self.pillars, self._tile_sums, self._totals)
        grouped = (count, self._state, self._cells, self._arrival, self._cell_base, self._order, self._tile_sums)
        device.launch(self._assign, wide, sizes.assign_threads, [*pointers(*assigned, canvas), plane], stream)
        # Each waits for the one before it by itself, after whatever it can do ahead.
        overlap = device.compute_capability >= (9, 0)
        ranks = sizes.rank_blocks(self.capacity, blocks)
        device.launch(self._rank, ranks, sizes.rank_threads, pointers(*ranked), stream, overlap=overlap)
        arguments = pointers(*grouped, self._totals, self.counters)
        device.launch(self._group, wide, sizes.group_threads, arguments, stream, overlap=overlap)
        self.enqueue_encoding(cloud, stream)

    def enqueue_encoding(self, cloud: CloudMemory, stream: int) -> None:
        """Puts the last kernel alone on the stream: the last frame's pillars, encoded again; for measurements."""
        device, sizes = self._device, self._sizes
        encoded = (cloud.points, self._order, self.pillars, self.counters, self._weights, self._canvas.address)
        arguments = [*pointers(*encoded), ctypes.c_longlong(self._canvas.plane), ctypes.c_void_p(self.features)]
        resident = self._model.encode_blocks * device.num_multiprocessors * sizes.encode_warps
        warps = min(-(-self._spec.max_voxels // sizes.encode_group), resident)
        blocks = -(-warps // sizes.encode_warps)
        overlap = device.compute_capability >= (9, 0)
        device.launch(self._encode, blocks, sizes.encode_threads, arguments, stream, overlap=overlap)

    def new_host_counts(self) -> NDArray[np.int32]:
        """Page-locked memory for the counters of one frame."""
        return self._device.allocate_pinned((len(COUNTERS.names),), np.int32)

    def enqueue_counts(self, host: NDArray[np.int32], stream: int) -> None:
        """Puts the copy of the counters to `new_host_counts`' memory on the stream; may be captured."""
        self._device.download(host, self.counters, stream)

    @staticmethod
    def counts(host: NDArray[np.int32]) -> VoxelCounts:
        """What `enqueue_counts` brought; the stream must have come past it."""
        return VoxelCounts(*host.tolist())

    def download_counts(self, stream: int) -> VoxelCounts:
        """The counters of the last frame; waits for the stream."""
        values: NDArray[np.int32] = np.zeros(len(COUNTERS.names), np.int32)
        self.enqueue_counts(values, stream)
        self._device.synchronize(stream)
        return self.counts(values)
