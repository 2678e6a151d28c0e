"""A device that runs a whole engine on the CPU: convolutions by their kernels' model, all else by the emulator."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from runtime.cuda_engine.checks.skip_checks import SkippingPair
from runtime.cuda_engine.network import DeviceNetwork
from runtime.cuda_engine.plan import NetworkPlan
from tests.runtime.kernel_model import run_kernel, tiling_of
from tests.runtime.recording_device import RecordingDevice


class EngineDevice(RecordingDevice):
    """Runs the tensor cores' kernels by their model in numpy, all others by the emulator."""

    compute_capability = (9, 0)

    def bytes_from(self, address: int) -> NDArray[np.uint8]:
        for block in self._memory:
            start = address - block.ctypes.data
            if 0 <= start < len(block):
                return block[start:-64]
        raise AssertionError(f"{address:#x} is no device memory")

    def compile_image(self, source: str, title: str, **_: Any) -> bytes:
        return source.encode()

    def load(self, image: bytes, functions: Any) -> dict[str, Any]:
        return {function: (function, tiling_of(image.decode())) for function in functions}

    def compile(self, source: str, function: str, **_: Any) -> Any:
        return self.compile_all(source, [function])[function]

    def upload_new(self, source: NDArray[Any]) -> int:
        address = self.allocate(source.nbytes)
        self.bytes_from(address)[: source.nbytes] = np.frombuffer(source.tobytes(), np.uint8)
        return address

    def tensor_map(
        self, address: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]
    ) -> ctypes.Array[ctypes.c_uint64]:
        """The description itself, for `kernel_model`: address, sizes, strides, and sizes of the box."""
        return (ctypes.c_uint64 * 16)(address, *sizes, *strides, *box)

    def allow_shared(self, kernel: Any, num_bytes: int) -> None:
        assert num_bytes <= 227 * 1024

    def launch(self, kernel: Any, grid: Any, threads: int, arguments: Any, stream: int, **options: Any) -> None:
        name, work = kernel
        if name not in ("conv", "heads"):
            super().launch(kernel, grid, threads, arguments, stream, **options)
            return
        self.put(("launch", name, stream), lambda: run_kernel(self, work, grid, arguments))


def smallest_tiles(device: EngineDevice, plan: NetworkPlan, stream: int) -> SkippingPair:
    """A network with and without skipping, cut into the smallest tiles, so that a small map has some to skip."""
    network = DeviceNetwork(cast(Any, device), plan)
    small = {
        launch.label: min(network.tilings(launch.label), key=lambda item: (item.tile_columns, item.tile_rows))
        for launch in network.launches
    }
    return SkippingPair(cast(Any, device), plan, stream, small)
