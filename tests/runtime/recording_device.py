"""A CUDA device on the CPU: kernels run by the emulator, graphs are captured, what is put on streams is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.cuda.device import CudaError
from tests.runtime.emulated_device import EmulatedDevice


class RecordingDevice(EmulatedDevice):
    """Work is done at once, or at each launch of the graph that it was captured in; only then it is in `calls`.

    Attributes:
        calls: What was put on streams, and what the host waited for, in order: (kind, ...). A graph's work follows its
            launch.
        compiled: Every source that was compiled, with its functions.
    """

    name = "Emulated GPU"
    compute_capability = (8, 9)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.compiled: list[tuple[str, tuple[str, ...]]] = []
        self.closed = False
        self._captured: list[tuple[tuple[Any, ...], Callable[[], None]]] | None = None
        self._is_invalid = False
        self._streams = self._events = 0

    def kinds(self) -> list[str]:
        """What was done: the kernel's name of a launch, the kind of anything else."""
        return [call[1] if call[0] == "launch" else call[0] for call in self.calls]

    def put(self, call: tuple[Any, ...], action: Callable[[], None]) -> None:
        """Does it now, or writes it down for the graph."""
        if self._is_invalid:
            raise CudaError("cudaErrorStreamCaptureInvalidated")
        if self._captured is not None:
            self._captured.append((call, action))
            return
        self.calls.append(call)
        action()

    def allocate(self, num_bytes: int) -> int:
        self._refuse_in_capture("cudaMalloc")
        self.calls.append(("allocate", num_bytes))
        return super().allocate(num_bytes)

    def allocate_pinned(self, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
        self.calls.append(("allocate_pinned", tuple(shape)))
        return super().allocate_pinned(shape, dtype)

    def register(self, memory: NDArray[Any]) -> int:
        self.calls.append(("register", memory.nbytes))
        return super().register(memory)

    def view(self, address: int, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
        """The device memory itself."""
        for block in self._memory:
            start = address - block.ctypes.data
            if 0 <= start < len(block):
                size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                values: NDArray[Any] = block[start : start + size].view(dtype).reshape(shape)
                return values
        raise AssertionError(f"{address:#x} is no device memory")

    def upload(self, address: int, source: NDArray[Any], stream: int) -> None:
        do = super().upload
        self.put(("upload", address, source.nbytes, stream), lambda: do(address, source, stream))

    def download(self, target: NDArray[Any], address: int, stream: int) -> None:
        do = super().download
        self.put(("download", address, target.nbytes, stream), lambda: do(target, address, stream))

    def device_copy(self, target: int, source: int, num_bytes: int, stream: int) -> None:
        def do() -> None:
            self.view(target, (num_bytes,), np.uint8)[:] = self.view(source, (num_bytes,), np.uint8)

        self.put(("device_copy", target, source, num_bytes, stream), do)

    def zero(self, address: int, num_bytes: int, stream: int) -> None:
        do = super().zero
        self.put(("zero", address, num_bytes, stream), lambda: do(address, num_bytes, stream))

    def create_stream(self) -> int:
        self._streams += 1
        return self._streams

    def create_event(self) -> int:
        self._events += 1
        return self._events

    def record(self, event: int, stream: int, *, in_graph: bool = False) -> None:
        # The driver takes the flag of a graph only while it captures; without, the event would be none of the graph's.
        assert in_graph == (self._captured is not None)
        self.put(("record", event, stream), lambda: None)

    def wait(self, event: int) -> None:
        self._refuse_in_capture("cudaEventSynchronize")
        self.calls.append(("wait", event))

    def wait_in_stream(self, stream: int, event: int) -> None:
        self.calls.append(("wait_in_stream", stream, event))

    def elapsed_ms(self, before: int, after: int) -> float:
        recorded = [call[1] for call in self.calls if call[0] == "record"]
        assert before in recorded
        assert after in recorded
        return float(after - before)

    def synchronize(self, stream: int) -> None:
        self._refuse_in_capture("cudaStreamSynchronize")
        self.calls.append(("synchronize", stream))
        super().synchronize(stream)

    def begin_capture(self, stream: int) -> None:
        assert self._captured is None
        self.calls.append(("begin_capture", stream))
        self._captured = []

    def end_capture(self, stream: int) -> Any:
        graph, self._captured = self._captured, None
        assert graph is not None
        self.calls.append(("end_capture", stream))
        if self._is_invalid:
            self._is_invalid = False
            raise CudaError("cudaStreamEndCapture failed: cudaErrorStreamCaptureInvalidated.")
        return graph

    def abandon_capture(self, stream: int) -> None:
        self.calls.append(("abandon_capture", stream))
        self._captured, self._is_invalid = None, False

    def launch_graph(self, graph: Any, stream: int) -> None:
        self.calls.append(("launch_graph", stream))
        for call, action in graph:
            self.calls.append(call)
            action()

    def compile(self, source: str, function: str, **options: Any) -> Any:
        return self.compile_all(source, [function], **options)[function]

    def compile_all(self, source: str, functions: Sequence[str], **options: Any) -> dict[str, Any]:
        self.compiled.append((source, tuple(functions)))
        return super().compile_all(source, functions, **options)

    def launch(
        self,
        kernel: Any,
        grid: int | tuple[int, int, int],
        threads: int,
        arguments: Sequence[Any],
        stream: int,
        *,
        overlap: bool = False,
        **options: Any,
    ) -> None:
        # Programmatic dependent launch came with compute capability 9.0.
        assert not overlap or self.compute_capability >= (9, 0)
        do = super().launch
        self.put(("launch", kernel[0], stream), lambda: do(kernel, grid, threads, arguments, stream, **options))

    def close(self) -> None:
        self.check_guards()
        self.closed = True

    def _refuse_in_capture(self, call: str) -> None:
        if self._captured is not None:
            self._is_invalid = True
            raise CudaError(f"{call} failed: cudaErrorStreamCaptureUnsupported.")
