"""The scatter as a CUDA kernel: one thread for each channel of each pillar."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError
from runtime.cuda.device import pointers

if TYPE_CHECKING:
    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["ScatterKernel"]

_THREADS = 256

# Consecutive threads take consecutive pillars of one channel. Each cell is written once, so no order matters.
_SOURCE = r"""
extern "C" __global__ void scatter_pillars(
    const float* pillars, const int* coords, float* canvas, int num_pillars, int channels, int width, int cells)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)num_pillars * channels) return;
    int pillar = (int)(i % num_pillars);
    int channel = (int)(i / num_pillars);
    int cell = coords[pillar * 3 + 1] * width + coords[pillar * 3 + 2];
    canvas[(long long)channel * cells + cell] = pillars[(long long)pillar * channels + channel];
}
"""


class ScatterKernel:
    """`runtime.scatter.scatter` on device memory, compiled for one model and device."""

    def __init__(self, device: CudaDevice, spec: ModelSpec) -> None:
        if spec.dynamic_pillars:
            raise ConfigError(
                f"Model '{spec.name}' has dynamic pillars, whose rows this scatter does not join. Use the pytorch, "
                "onnx or openvino backend on the CPU, or pytorch on a GPU."
            )
        self._device = device
        _, self._channels, self._height, self._width = spec.canvas_shape
        self._kernel: Any = device.compile(_SOURCE, "scatter_pillars")

    def enqueue(self, pillars: int, coords: int, canvas: int, num_pillars: int, stream: int) -> None:
        """Clears the canvas and writes the pillars to their cells, in stream order.

        Args:
            pillars: Address of (num_pillars, C) float32.
            coords: Address of (num_pillars, 3) int32 [z, y, x], inside the canvas.
            canvas: Address of (1, C, H, W) float32.
        """
        cells = self._height * self._width
        self._device.zero(canvas, self._channels * cells * 4, stream)
        numbers = (num_pillars, self._channels, self._width, cells)
        arguments = pointers(pillars, coords, canvas)
        blocks = -(-num_pillars * self._channels // _THREADS)
        self._device.launch(self._kernel, blocks, _THREADS, [*arguments, *map(ctypes.c_int, numbers)], stream)
