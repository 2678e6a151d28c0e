"""A dense canvas from the host through the network: what verification feeds a component with."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda.device import pointers
from runtime.cuda_engine.macros import kernel_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.network import DeviceNetwork

__all__ = ["DenseCanvas"]

_THREADS = 256


class DenseCanvas:
    """Packs (C, H, W) float32 into the network's canvas map, runs the network, and clears the map again."""

    def __init__(self, device: CudaDevice, network: DeviceNetwork) -> None:
        self._device, self._network = device, network
        canvas = network.canvas.map
        self._shape = (canvas.channels, canvas.height, canvas.width)
        macros = {"OUT_INT8": canvas.type == "int8", "CHANNELS": canvas.channels}
        self._kernel = device.compile(kernel_source(macros, "intrinsics.cuh", "canvas.cu"), "pack_map")
        self._dense = 0

    def run(self, dense: NDArray[np.float32], stream: int) -> None:
        """Puts one run of the network on the stream.

        Args:
            dense: (1, C, H, W) or (C, H, W) float32.
        """
        device, canvas = self._device, self._network.canvas
        values = np.ascontiguousarray(dense, np.float32).reshape(self._shape)
        # On first use: a backend that only detects never needs it.
        self._dense = self._dense or device.allocate(values.nbytes)
        device.upload(self._dense, values, stream)
        _, height, width = self._shape
        arguments = [
            *pointers(self._dense, canvas.address),
            ctypes.c_longlong(canvas.plane),
            *(ctypes.c_int(value) for value in (canvas.pitch, height, width)),
            ctypes.c_float(canvas.map.scale or 1.0),
        ]
        device.launch(self._kernel, (-(-height * width // _THREADS), canvas.chunks, 1), _THREADS, arguments, stream)
        self._network.enqueue(stream)
        # The pillar kernels clear only what they wrote themselves.
        device.zero(canvas.address, canvas.chunks * canvas.plane, stream)
        device.synchronize(stream)
