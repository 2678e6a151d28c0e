"""A CUDA device that runs kernels as plain C++ on the CPU, by g++ and tests/runtime/cuda_emulator.h."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = Path(__file__).parent / "cuda_emulator.h"
INTRINSICS = Path(__file__).parents[2] / "runtime" / "cuda_engine" / "kernels" / "intrinsics.cuh"


@cache
def _compiled() -> Path:
    """Where this process keeps what it compiled: each source once, however many tests run it."""
    folder = tempfile.mkdtemp(prefix="emulated-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class EmulatedDevice:
    """The interface of `runtime.cuda.device.CudaDevice`; everything runs at once, addresses are the host's."""

    compute_capability = (9, 0)
    num_multiprocessors = 3

    def __init__(self) -> None:
        self.launches: list[str] = []
        self._memory: list[NDArray[np.uint8]] = []

    @staticmethod
    def compiler() -> str | None:
        return shutil.which("g++")

    def allocate(self, num_bytes: int) -> int:
        # Odd memory behind the end shows writes beyond it; 256-byte alignment as cudaMalloc's.
        block = np.full(num_bytes + 512, 0xA5, np.uint8)
        start = -block.ctypes.data % 256
        block[start : start + num_bytes] = 0
        self._memory.append(block[: start + num_bytes + 64])
        return block.ctypes.data + start

    def check_guards(self) -> None:
        for block in self._memory:
            assert (block[-64:] == 0xA5).all(), "a kernel wrote beyond its memory"

    def allocate_pinned(self, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
        return np.zeros(tuple(shape), dtype)

    def register(self, memory: NDArray[Any]) -> int:
        return memory.ctypes.data

    def upload(self, address: int, source: NDArray[Any], stream: int) -> None:
        ctypes.memmove(address, np.ascontiguousarray(source).ctypes.data, source.nbytes)

    def download(self, target: NDArray[Any], address: int, stream: int) -> None:
        ctypes.memmove(target.ctypes.data, address, target.nbytes)

    def zero(self, address: int, num_bytes: int, stream: int) -> None:
        ctypes.memset(address, 0, num_bytes)

    def create_stream(self) -> int:
        return 1

    def synchronize(self, stream: int) -> None:
        self.check_guards()

    def compile_all(self, source: str, functions: Sequence[str], **_: Any) -> dict[str, Any]:
        source = source.replace(INTRINSICS.read_text(encoding="utf-8"), "")
        exports = "".join(f"EMULATED_KERNEL({function})\n" for function in functions)
        text = f'#include "{HEADER}"\n{source}\n{exports}'
        stem = hashlib.sha256((text + HEADER.read_text(encoding="utf-8")).encode()).hexdigest()[:16]
        path, library = _compiled() / f"{stem}.cpp", _compiled() / f"{stem}.so"
        if not library.exists():
            path.write_text(text, encoding="utf-8")
            flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-w", "-fPIC", "-shared"]
            subprocess.run(["g++", *flags, str(path), "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))
        return {function: (function, loaded[f"launch_{function}"]) for function in functions}

    def launch(
        self,
        kernel: Any,
        grid: int | tuple[int, int, int],
        threads: int,
        arguments: Sequence[Any],
        stream: int,
        **_: Any,
    ) -> None:
        name, function = kernel
        self.launches.append(name)
        x, y, z = grid if isinstance(grid, tuple) else (grid, 1, 1)
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        function(x, y, z, threads, pointers)
