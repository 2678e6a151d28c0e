"""How clouds come to the device: read from page-locked memory where they lie, or copied there part by part."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.cuda.device import pointers
from runtime.cuda_engine.host_copy import PART_BYTES, HostCopy
from runtime.cuda_engine.macros import Words, kernel_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.cloud_memory import CloudMemory

__all__ = ["REQUEST", "CloudIntake"]

# What the host says of a cloud, 64 bits each.
REQUEST = Words("REQUEST", ("source", "points", "pitch"))

_THREADS, _BATCH, _BLOCKS_PER_MULTIPROCESSOR = 256, 4, 2


class CloudIntake:
    """Brings clouds into the `CloudMemory` of a frame.

    A cloud in memory that was page-locked here is read by a kernel from where it lies: the host writes three words. So
    is a small cloud, after a copy into page-locked memory. A large one in other memory is copied by several threads,
    and each part travels while the next one is copied.
    """

    def __init__(self, device: CudaDevice, spec: ModelSpec, capacity: int) -> None:
        """Compiles.

        Args:
            capacity: Most points of a cloud.
        """
        self._device, self._spec = device, spec
        macros = {
            "CAPACITY": capacity,
            "COLUMNS": spec.point_features,
            "TAKE_THREADS": _THREADS,
            "TAKE_BATCH": _BATCH,
            **REQUEST.definitions,
        }
        self._kernel = device.compile_all(kernel_source(macros, "take.cu"), ["cloud_take"])["cloud_take"]
        wanted = -(-capacity * spec.point_features // (4 * _THREADS * _BATCH))
        self._blocks = max(1, min(wanted, _BLOCKS_PER_MULTIPROCESSOR * device.num_multiprocessors))
        # First and last address of page-locked memory, and how far away the device sees it.
        self._regions: list[tuple[int, int, int]] = []
        self._copy = HostCopy()

    def new_cloud(self, count: int) -> NDArray[np.float32]:
        """(count, C) float32, zeroed, page-locked until the device is closed: filled again for each frame.

        Args:
            count: Most points that it is to hold; a frame takes a leading part of it, `cloud[:n]`.
        """
        columns = self._spec.point_features
        # Whole pages of its own: another array's page may not be locked twice.
        memory = np.frombuffer(mmap.mmap(-1, max(count, 1) * columns * 4), np.float32)
        self.lock(memory)
        return memory[: count * columns].reshape(count, columns)

    def lock(self, memory: NDArray[np.float32]) -> None:
        """Page-locks a caller's own memory until the device is closed; clouds in it are read from where they lie.

        Args:
            memory: Contiguous float32, of any shape; kept alive as long.

        Raises:
            ValueError: it is not contiguous, empty or of another type.
            CudaError: the system refuses.
        """
        if memory.dtype != np.float32 or not memory.flags.c_contiguous or not memory.size:
            raise ValueError(f"Memory to page-lock is contiguous float32, not {memory.dtype} {memory.shape}.")
        address = self._device.register(memory)
        first = memory.ctypes.data
        self._regions.append((first, first + memory.nbytes, address - first))

    def bring(self, cloud: CloudMemory, points: NDArray[np.float32], stream: int, begins: Any, copied: Any) -> bool:
        """Before the launch of the graph that `enqueue` is in: says where the points are, or brings them.

        Args:
            cloud: Where they go; no frame may be at work on it.
            points: (N, C) float32. In page-locked memory rows may lie further apart, `rows[:, :C]`, and must stay as
                they are until the frame is done.
            stream: Where the graph will be launched.
            begins: Event that is recorded before copies, if there are any.
            copied: The one after them.

        Returns:
            Whether copies were put on the stream.

        Raises:
            DataError: another shape or type, or more points than there is room for.
        """
        cloud.check(points)
        address, pitch = self._locked(points)
        if not address and points.nbytes > PART_BYTES:
            self._device.record(begins, stream)
            self._copy_parts(cloud, points, stream)
            self._device.record(copied, stream)
            return True
        if not address:
            cloud.stage(points)
            address, pitch = cloud.staged, points.shape[1]
        cloud.request[:] = address, len(points), pitch
        return False

    def send(self, cloud: CloudMemory, points: NDArray[np.float32], stream: int, begins: Any, copied: Any) -> None:
        """As `bring`, always by copies, on a stream that other frames do not wait for."""
        cloud.check(points)
        address, pitch = self._locked(points)
        self._device.record(begins, stream)
        if address and pitch == points.shape[1]:
            self._device.upload(cloud.points, points, stream)
            cloud.request[:] = 0, len(points), 0
        else:
            self._copy_parts(cloud, points, stream)
        self._device.record(copied, stream)

    def enqueue(self, cloud: CloudMemory, stream: int) -> None:
        """Puts the kernel on the stream that takes what `bring` or `send` said; may be captured."""
        arguments = pointers(cloud.request.ctypes.data, cloud.points, cloud.num_points)
        self._device.launch(self._kernel, self._blocks, _THREADS, arguments, stream)

    def close(self) -> None:
        """Ends the threads that copy."""
        self._copy.close()

    def _copy_parts(self, cloud: CloudMemory, points: NDArray[np.float32], stream: int) -> None:
        staging, row = cloud.staging[: len(points)], points.shape[1] * 4

        def upload(part: slice) -> None:
            self._device.upload(cloud.points + part.start * row, staging[part], stream)

        self._copy.copy(staging, points, upload)
        cloud.request[:] = 0, len(points), 0

    def _locked(self, points: NDArray[np.float32]) -> tuple[int, int]:
        """Where the device sees the points, and numbers from row to row; 0 where it does not."""
        if not self._regions or not len(points):
            return 0, 0
        row, number = points.strides
        width = points.shape[1] * 4
        if number != 4 or row < width or row % 4:
            return 0, 0
        first = points.ctypes.data
        last = first + (len(points) - 1) * row + width
        for begin, end, away in self._regions:
            if begin <= first and last <= end:
                return first + away, row // 4
        return 0, 0
