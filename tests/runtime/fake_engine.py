"""Stand-ins for a CUDA device and for TensorRT's runtime that keep host memory and record what is asked of them.

The fake device executes copies, clears and the scatter kernel on host buffers found by address; the fake engines
execute a numpy function on theirs. So a test can check numbers, order, sizes, and that no copy runs in between.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.spec import ComponentSpec, ModelSpec
from runtime.cuda.device import CudaError
from runtime.scatter import scatter


class FakeDevice:
    """The interface of `runtime.cuda.device.CudaDevice` on host memory."""

    name = "Fake GPU"
    compute_capability = (8, 9)
    num_multiprocessors = 24

    def __init__(self, spec: ModelSpec, index: int = 0) -> None:
        self.index = index
        self.calls: list[tuple[Any, ...]] = []
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.closed = False
        self._spec = spec
        self._next = 0x7F00_0000_0000
        self._events = 0

    def allocate(self, num_bytes: int) -> int:
        self.calls.append(("allocate", num_bytes))
        self._next += 1 << 32
        self.memory[self._next] = np.zeros(num_bytes, np.uint8)
        return self._next

    def allocate_pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        self.calls.append(("allocate_pinned", tuple(shape)))
        return np.zeros(shape, dtype)

    def view(self, address: int, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self.bytes_from(address)
        assert count <= len(memory), f"{count} bytes wanted of {len(memory)}"
        values: NDArray[Any] = memory[:count].view(dtype).reshape(shape)
        return values

    def put(self, call: tuple[Any, ...], action: Callable[[], None]) -> None:
        """Records the call and does it."""
        self.calls.append(call)
        action()

    def bytes_from(self, address: int) -> NDArray[np.uint8]:
        start = max(base for base in self.memory if base <= address)
        return self.memory[start][address - start :]

    def upload(self, address: int, source: NDArray[Any], stream: int) -> None:
        self.calls.append(("upload", address, source.nbytes, stream))
        memory = self.bytes_from(address)
        assert source.nbytes <= len(memory)
        memory[: source.nbytes] = np.frombuffer(source.tobytes(), np.uint8)

    def download(self, target: NDArray[Any], address: int, stream: int) -> None:
        self.calls.append(("download", address, target.nbytes, stream))
        target[...] = self.view(address, target.shape, target.dtype)

    def zero(self, address: int, num_bytes: int, stream: int) -> None:
        self.calls.append(("zero", address, num_bytes, stream))
        self.bytes_from(address)[:num_bytes] = 0

    def create_stream(self) -> int:
        self.calls.append(("create_stream",))
        return 17

    def create_event(self) -> int:
        self._events += 1
        return self._events

    def record(self, event: int, stream: int, *, in_graph: bool = False) -> None:
        self.calls.append(("record", event, stream))

    def wait(self, event: int) -> None:
        self.calls.append(("wait", event))

    def synchronize(self, stream: int) -> None:
        self.calls.append(("synchronize", stream))

    def elapsed_ms(self, before: int, after: int) -> float:
        return float(after * 10 - before * 10)

    def wait_in_stream(self, stream: int, event: int) -> None:
        self.calls.append(("wait_in_stream", stream, event))

    def device_copy(self, target: int, source: int, num_bytes: int, stream: int) -> None:
        self.calls.append(("device_copy", target, source, num_bytes, stream))
        self.bytes_from(target)[:num_bytes] = self.bytes_from(source)[:num_bytes]

    def begin_capture(self, stream: int) -> None:
        self.calls.append(("begin_capture", stream))

    def end_capture(self, stream: int) -> int:
        self.calls.append(("end_capture", stream))
        return len(self.calls)

    def launch_graph(self, graph: int, stream: int) -> None:
        self.calls.append(("launch_graph", graph, stream))

    def compile(
        self, source: str, function: str, *, architecture: str | None = None, options: Sequence[str] = ()
    ) -> str:
        return self.compile_all(source, [function], architecture=architecture, options=options)[function]

    def compile_all(
        self, source: str, functions: Sequence[str], *, architecture: str | None = None, options: Sequence[str] = ()
    ) -> dict[str, str]:
        assert all(function in source for function in functions)
        return {function: function for function in functions}

    def compile_image(
        self, source: str, title: str, *, architecture: str | None = None, options: Sequence[str] = ()
    ) -> bytes:
        assert title in source
        return source.encode()

    def load(self, image: bytes, functions: Sequence[str]) -> dict[str, str]:
        return {function: function for function in functions}

    def upload_new(self, source: NDArray[Any]) -> int:
        address = self.allocate(source.nbytes)
        self.memory[address][:] = np.frombuffer(source.tobytes(), np.uint8)
        return address

    def tensor_map(
        self, address: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]
    ) -> ctypes.Array[ctypes.c_uint64]:
        """The description itself, for `kernel_model`: address, sizes, strides, and sizes of the box."""
        return (ctypes.c_uint64 * 16)(address, *sizes, *strides, *box)

    def allow_shared(self, kernel: str, num_bytes: int) -> None:
        self.calls.append(("allow_shared", kernel, num_bytes))

    def launch(
        self,
        kernel: str,
        grid: int | tuple[int, int, int],
        threads: int,
        arguments: Sequence[Any],
        stream: int,
        *,
        shared_bytes: int = 0,
        overlap: bool = False,
    ) -> None:
        if kernel != "scatter_pillars":
            # Kernels that the fake does not execute: a test looks at what was asked for.
            values = [getattr(argument, "value", argument) for argument in arguments]
            self.calls.append(("launch", kernel, grid, threads, values, stream, shared_bytes))
            return
        blocks = grid[0] if isinstance(grid, tuple) else grid
        pillars, coords, canvas, count, channels, width, cells = (argument.value for argument in arguments)
        self.calls.append(("launch", kernel, blocks * threads, stream))
        assert blocks * threads >= count * channels > (blocks - 1) * threads
        shape = self._spec.canvas_shape
        assert (channels, width, cells) == (shape[1], shape[3], shape[2] * shape[3])
        written = scatter(self.view(pillars, (count, channels)), self.view(coords, (count, 3), np.int32), self._spec)
        self.view(canvas, shape)[written != 0] = written[written != 0]

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeEngine:
    """An engine that computes a function; attributes can be bent to make it a wrong one."""

    component: ComponentSpec
    function: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]]
    profile: tuple[int, int, int] | None = (1, 100, 2000)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    device: Any = None
    synchronizes: bool = False
    contexts: list[FakeContext] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors = [*self.component.inputs, *self.component.outputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        # TensorRT promises no order.
        return self.tensors[-1 - index].name

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in [tensor.name for tensor in self.component.inputs] else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = next(tensor.shape for tensor in self.tensors if tensor.name == name)
        return self.shapes.get(name, tuple(-1 if size is None else size for size in shape))

    def get_tensor_dtype(self, name: str) -> str:
        return self.dtypes.get(name, "float32")

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert self.profile is not None
        return [(rows, *self.get_tensor_shape(name)[1:]) for rows in self.profile]

    def create_execution_context(self) -> FakeContext:
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.bindings: list[str] = []
        self.input_shape: tuple[int, ...] | None = None

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address
        self.bindings.append(name)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.input_shape = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        device = self.engine.device
        assert device is not None
        (tensor,) = self.engine.component.inputs
        shape = self.input_shape or self.engine.get_tensor_shape(tensor.name)
        if self.engine.synchronizes:
            try:
                device.synchronize(stream)
            except CudaError:  # the stream is captured: TensorRT logs it and returns
                return False

        def compute() -> None:
            results = self.engine.function(device.view(self.addresses[tensor.name], shape))
            for output, value in zip(self.engine.component.outputs, results, strict=True):
                device.view(self.addresses[output.name], value.shape)[...] = value

        device.put(("execute", self.engine.component.name, shape, stream), compute)
        return True


def make_tensorrt(engines: Mapping[bytes, FakeEngine], refusal: str = "", name: str = "tensorrt") -> Any:
    """A `tensorrt` module whose engines are looked up by the content of their files; others are refused."""
    trt: Any = types.ModuleType(name)
    trt.__version__ = "10.9.0"
    trt.float32 = "float32"
    trt.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")

    class ILogger:
        Severity = types.SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

        def __init__(self) -> None:
            pass

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
            self.log.log(2, "a warning that is not the reason")
            if content not in engines:
                self.log.log(1, refusal)
                return None
            return engines[content]

    trt.ILogger, trt.Runtime = ILogger, Runtime
    return trt
