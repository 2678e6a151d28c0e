"""The canvas between the pillar kernels and a network: whose memory it is, and how the host may write to it."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda.device import pointers
from runtime.cuda_engine.macros import kernel_source
from runtime.cuda_engine.pillars import CanvasMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.network import DeviceNetwork

__all__ = ["BlockedCanvas", "Canvas", "DenseCanvas"]

_THREADS = 256


class Canvas(ABC):
    """The canvas of one `PointsFrame`, which owns it: it belongs to the frame's pillar kernels.

    They clear what their last frame wrote and no more. Whoever else fills it does so inside `PointsFrame.run_network`,
    which hands it back cleared.

    Attributes:
        memory: Where it lies, for the kernels.
    """

    def __init__(self, device: CudaDevice, memory: CanvasMemory, num_bytes: int) -> None:
        self._device = device
        self.memory = memory
        self._num_bytes = num_bytes

    @abstractmethod
    def write(self, values: NDArray[np.float32], stream: int) -> None:
        """Replaces it by a dense canvas of the host, in stream order.

        Args:
            values: (1, C, H, W) float32, contiguous; must live until the stream has come past it.
        """

    @abstractmethod
    def enqueue_marks(self, pillars: int, counters: int, stream: int) -> None:
        """Tells the network where a frame's pillars lie, in stream order; may be captured.

        Args:
            pillars, counters: Addresses, as `PillarEncoderKernels` has them.
        """

    def clear(self, stream: int) -> None:
        """Zeroes all of it, in stream order."""
        self._device.zero(self.memory.address, self._num_bytes, stream)


class DenseCanvas(Canvas):
    """(1, C, H, W) float32, memory of its own: what an engine of TensorRT reads.

    Attributes:
        address: Of the first value.
    """

    def __init__(self, device: CudaDevice, spec: ModelSpec) -> None:
        num_bytes = int(np.prod(spec.canvas_shape)) * 4
        self.address = device.allocate(num_bytes)
        super().__init__(device, CanvasMemory.dense(self.address, spec), num_bytes)

    def write(self, values: NDArray[np.float32], stream: int) -> None:
        self._device.upload(self.address, values, stream)

    def enqueue_marks(self, pillars: int, counters: int, stream: int) -> None:
        """Nothing: the network computes the whole canvas."""


class BlockedCanvas(Canvas):
    """The first map of a `DeviceNetwork`, in INT8 codes or float16."""

    def __init__(self, device: CudaDevice, network: DeviceNetwork) -> None:
        canvas, self._activity = network.canvas, network.activity
        memory = CanvasMemory(canvas.address, canvas.plane, canvas.map.scale)
        super().__init__(device, memory, canvas.chunks * canvas.plane)
        self._canvas = canvas
        macros = {"OUT_INT8": canvas.map.type == "int8", "CHANNELS": canvas.map.channels}
        self._kernel = device.compile(kernel_source(macros, "intrinsics.cuh", "canvas.cu"), "pack_map")
        self._dense = 0

    def write(self, values: NDArray[np.float32], stream: int) -> None:
        device, canvas = self._device, self._canvas
        if self._activity is not None:
            self._activity.mark_all(stream)
        height, width = canvas.map.height, canvas.map.width
        # On first use: a detector that only detects never needs it.
        self._dense = self._dense or device.allocate(values.nbytes)
        device.upload(self._dense, values, stream)
        arguments = [
            *pointers(self._dense, canvas.address),
            ctypes.c_longlong(canvas.plane),
            *(ctypes.c_int(value) for value in (canvas.pitch, height, width)),
            ctypes.c_float(canvas.map.scale or 1.0),
        ]
        device.launch(self._kernel, (-(-height * width // _THREADS), canvas.chunks, 1), _THREADS, arguments, stream)

    def enqueue_marks(self, pillars: int, counters: int, stream: int) -> None:
        if self._activity is not None:
            self._activity.enqueue_marks(pillars, counters, stream)
