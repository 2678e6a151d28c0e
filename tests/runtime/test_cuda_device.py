"""The order of work on a busy device: what the default stream was given comes last, unless someone waits for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.cuda.device import CudaDevice


class BusyRuntime:
    """Runtime calls on memory of the host. Work of a non-blocking stream is done at once, as on a device of its own;
    that of the default stream waits until it is asked for, as CUDA allows: `cudaMemset` returns before it is done, and
    `cudaMemcpy` from pageable memory as soon as it has its own copy.
    """

    cudaStreamNonBlocking = 1  # noqa: N815 - CUDA's names
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._waiting: list[Callable[[], object]] = []

    def cudaMalloc(self, size: int) -> tuple[int, int]:  # noqa: N802 - CUDA's names
        self._kept.append(ctypes.create_string_buffer(b"\xaa" * size, size))
        return 0, ctypes.addressof(self._kept[-1])

    def cudaMemset(self, address: int, value: int, size: int) -> tuple[int]:  # noqa: N802
        self._waiting.append(lambda: ctypes.memset(address, value, size))
        return (0,)

    def cudaMemcpy(self, target: int, source: int, size: int, kind: int) -> tuple[int]:  # noqa: N802
        staged = ctypes.string_at(source, size)
        self._waiting.append(lambda: ctypes.memmove(target, staged, size))
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:  # noqa: N802
        assert stream != 0
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        return 0, 7

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        if stream == 0:
            self.catch_up()
        return (0,)

    def catch_up(self) -> None:
        """Does what the default stream still has to do."""
        for work in self._waiting:
            work()
        self._waiting.clear()


@pytest.fixture
def runtime() -> BusyRuntime:
    return BusyRuntime()


@pytest.fixture
def device(runtime: BusyRuntime) -> CudaDevice:
    return CudaDevice(0, runtime, None)


def test_zeros_do_not_wipe_out_what_a_stream_uploaded(device: CudaDevice, runtime: BusyRuntime) -> None:
    """Weights of the pillar encoder are uploaded so: wiped out, a model finds nothing in any frame."""
    stream, weights = device.create_stream(), np.arange(1, 9, dtype=np.float32)
    address = device.allocate(weights.nbytes)
    device.upload(address, weights, stream)
    runtime.catch_up()
    found = np.zeros_like(weights)
    device.download(found, address, stream)
    np.testing.assert_array_equal(found, weights)


def test_memory_is_zero_for_every_stream(device: CudaDevice) -> None:
    found = np.ones(8, np.float32)
    device.download(found, device.allocate(found.nbytes), device.create_stream())
    assert not found.any()


def test_what_was_uploaded_is_there_for_every_stream(device: CudaDevice) -> None:
    values, found = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    device.download(found, device.upload_new(values), device.create_stream())
    np.testing.assert_array_equal(found, values)
