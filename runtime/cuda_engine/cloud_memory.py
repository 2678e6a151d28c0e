"""Where a cloud lies on its way to the kernels: page-locked memory of the host, and the device's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.errors import DataError
from runtime.capacity import check_cloud

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["CloudMemory"]


class CloudMemory:
    """Room for one cloud of at most `capacity` points.

    Attributes:
        capacity: Most points.
        points: Address of (capacity, C) float32.
        num_points: Address of one int32, 0 to `capacity`.
        staging: (capacity, C) float32, page-locked.
        request: Page-locked words of `CloudIntake`, which kernels read.
    """

    def __init__(
        self, device: CudaDevice, spec: ModelSpec, capacity: int, *, points: int = 0, num_points: int = 0
    ) -> None:
        """Args:
        points, num_points: Device memory that is there already; its own where left out. Points begin at a multiple of
            16 bytes: kernels take them by sixteen.
        """
        assert points % 16 == 0
        self._device, self._spec, self.capacity = device, spec, capacity
        columns = spec.point_features
        self.staging: NDArray[np.float32] = device.allocate_pinned((capacity, columns), np.float32)
        self.request: NDArray[np.int64] = device.allocate_pinned((3,), np.int64)
        self.request[:] = 0
        self._host_count = device.allocate_pinned((1,), np.int32)
        self.points = points or device.allocate(capacity * columns * 4)
        self.num_points = num_points or device.allocate(4)

    def check(self, points: NDArray[np.float32]) -> None:
        """Raises `DataError` for a cloud of another shape or type, or of too many points."""
        columns = self._spec.point_features
        if points.ndim != 2 or points.shape[1] != columns or points.dtype != np.float32:
            raise DataError(
                f"Point cloud is {points.dtype} of shape {points.shape}; model '{self._spec.name}' needs float32 "
                f"(N, {columns})."
            )
        check_cloud(f"Point cloud has {len(points)} points", len(points), self.capacity, self._spec)

    @property
    def staged(self) -> int:
        """Where kernels read `staging`: page-locked memory has one address on both sides."""
        return self.staging.ctypes.data

    def stage(self, points: NDArray[np.float32]) -> None:
        """Copies a checked cloud into `staging`."""
        self.staging[: len(points)] = points

    def fill(self, points: NDArray[np.float32]) -> None:
        """Takes a cloud into page-locked memory; the last copy to the device must have ended.

        Args:
            points: (N, C) float32 as for `runtime.preprocess.voxelize`.

        Raises:
            DataError: as `check`.
        """
        self.check(points)
        self.stage(points)
        self._host_count[0] = len(points)

    def enqueue_copy(self, stream: int) -> None:
        """Puts the copies of the cloud and its size to the device on the stream; do not capture this."""
        count = int(self._host_count[0])
        if count:
            self._device.upload(self.points, self.staging[:count], stream)
        self._device.upload(self.num_points, self._host_count, stream)
