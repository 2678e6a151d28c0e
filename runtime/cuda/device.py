"""One CUDA device: memory, copies, streams, events, kernels.

Every CUDA call that the project itself makes is in this file.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import BackendUnavailable
from base.lazy import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CudaDevice", "CudaError", "pointers"]


class CudaError(RuntimeError):
    """A CUDA call failed on a device that was usable before: out of memory, an illegal access, a lost device."""


class CudaDevice:
    """The primary context of a device, which it shares with ONNX Runtime, TensorRT and torch.

    Owns what it allocates: `close` frees all of it. Addresses are plain integers.
    """

    def __init__(self, index: int, runtime: Any, driver: Any) -> None:
        """Use `open`."""
        self.index = index
        self._runtime = runtime
        self._driver = driver
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._streams: list[Any] = []
        self._events: list[Any] = []
        self._modules: list[Any] = []
        self._graphs: list[Any] = []
        self._registered: list[NDArray[Any]] = []

    @classmethod
    def open(cls, index: int = 0) -> CudaDevice:
        """Makes device `index` current.

        Raises:
            BackendUnavailable: no driver, no device, or no device of that index.
            MissingDependencyError: cuda-python is not installed.
        """
        runtime = require("cuda.bindings.runtime", "to use a CUDA device")
        driver = require("cuda.bindings.driver", "to use a CUDA device")
        try:
            status, count = runtime.cudaGetDeviceCount()
        except RuntimeError as error:  # the bindings found no driver library to load
            raise BackendUnavailable(f"No CUDA driver on this machine: {error}") from error
        if status != runtime.cudaError_t.cudaSuccess:
            name = getattr(status, "name", status)
            raise BackendUnavailable(
                f"No usable CUDA device: cudaGetDeviceCount says {name}. Install an NVIDIA driver, or make a GPU "
                "visible to this process."
            )
        if index >= count:
            raise BackendUnavailable(f"There is no device 'cuda:{index}': this machine has {count} CUDA device(s).")
        device = cls(index, runtime, driver)
        device._call("cudaSetDevice", index)
        device._call("cudaFree", 0)  # creates the primary context
        return device

    @property
    def compute_capability(self) -> tuple[int, int]:
        """Major and minor."""
        attribute = self._runtime.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, self.index)
        minor = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, self.index)
        return int(major), int(minor)

    @property
    def num_multiprocessors(self) -> int:
        """Streaming multiprocessors of the device."""
        attribute = self._runtime.cudaDeviceAttr.cudaDevAttrMultiProcessorCount
        return int(self._call("cudaDeviceGetAttribute", attribute, self.index))

    @property
    def name(self) -> str:
        """Product name."""
        return bytes(self._call("cudaGetDeviceProperties", self.index).name).split(b"\0")[0].decode()

    def allocate(self, num_bytes: int) -> int:
        """Device memory, zeroed when the call returns."""
        address = int(self._call("cudaMalloc", num_bytes))
        self._memory.append(address)
        self._call("cudaMemset", address, 0, num_bytes)
        self._settle()
        return address

    def allocate_pinned(self, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
        """Page-locked host memory as an array, for copies that do not block."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape))
        address = int(self._call("cudaMallocHost", max(count * kind.itemsize, 1)))
        self._pinned.append(address)
        buffer = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(address)
        return np.frombuffer(buffer, kind, count).reshape(shape)

    def register(self, memory: NDArray[Any]) -> int:
        """Page-locks memory of the host's own until `close`, and gives the address by which kernels read it.

        The device keeps the array alive as long; it stays ordinary memory of the process after that.

        Args:
            memory: Contiguous; no page of it may be page-locked already.

        Raises:
            CudaError: the system has no more page-locked memory, or some of this is page-locked already.
        """
        flags = self._runtime.cudaHostRegisterMapped | self._runtime.cudaHostRegisterPortable
        self._call("cudaHostRegister", memory.ctypes.data, memory.nbytes, flags)
        self._registered.append(memory)
        return int(self._call("cudaHostGetDevicePointer", memory.ctypes.data, 0))

    def upload(self, address: int, source: NDArray[Any], stream: int) -> None:
        """Host array to device, in stream order; pinned sources do not block."""
        self._copy(address, source.ctypes.data, source.nbytes, "cudaMemcpyHostToDevice", stream)

    def upload_new(self, source: NDArray[Any]) -> int:
        """Device memory with the array's bytes; the call blocks."""
        data = np.ascontiguousarray(source)
        address = self.allocate(data.nbytes)
        to_device = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpy", address, data.ctypes.data, data.nbytes, to_device)
        self._settle()
        return address

    def download(self, target: NDArray[Any], address: int, stream: int) -> None:
        """Device to host array, in stream order; the array is filled once the stream has come so far."""
        self._copy(target.ctypes.data, address, target.nbytes, "cudaMemcpyDeviceToHost", stream)

    def device_copy(self, target: int, source: int, num_bytes: int, stream: int) -> None:
        """Device memory to device memory, in stream order."""
        self._copy(target, source, num_bytes, "cudaMemcpyDeviceToDevice", stream)

    def zero(self, address: int, num_bytes: int, stream: int) -> None:
        """Clears device memory, in stream order."""
        self._call("cudaMemsetAsync", address, 0, num_bytes, stream)

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        stream = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        self._streams.append(stream)
        return int(stream)

    def create_event(self) -> Any:
        """An event that keeps its time."""
        event = self._call("cudaEventCreate")
        self._events.append(event)
        return event

    def record(self, event: Any, stream: int, *, in_graph: bool = False) -> None:
        """Marks the present end of the stream.

        Args:
            in_graph: While the stream is captured: every launch of the graph records the event, for all to see.
        """
        if in_graph:
            self._call("cudaEventRecordWithFlags", event, stream, self._runtime.cudaEventRecordExternal)
        else:
            self._call("cudaEventRecord", event, stream)

    def wait(self, event: Any) -> None:
        """Blocks until the stream has come to the event."""
        self._call("cudaEventSynchronize", event)

    def wait_in_stream(self, stream: int, event: Any) -> None:
        """Later work of the stream starts once another stream has come to the event; the host does not block."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def elapsed_ms(self, before: Any, after: Any) -> float:
        """Milliseconds between two recorded events that have passed."""
        return float(self._call("cudaEventElapsedTime", before, after))

    def synchronize(self, stream: int) -> None:
        """Blocks until the stream is empty."""
        self._call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        """From here on the stream's work is written down instead of run, until `end_capture`.

        Other streams join by `wait_in_stream` for an event of this one, and must be joined back in the same way.
        """
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:
        """What was captured, ready for `launch_graph`; the addresses in it are those of the capture."""
        graph = self._call("cudaStreamEndCapture", stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._graphs.append(executable)
        self._call("cudaGraphDestroy", graph)
        return executable

    def abandon_capture(self, stream: int) -> None:
        """Ends a capture that failed and forgets it; the stream runs its work again."""
        status, graph = self._runtime.cudaStreamEndCapture(stream)
        if status == self._runtime.cudaError_t.cudaSuccess:
            self._call("cudaGraphDestroy", graph)
        # What failed stays readable until it is read: a library would take it for an error of its own next call.
        self._runtime.cudaGetLastError()

    def launch_graph(self, graph: Any, stream: int) -> None:
        """Puts one execution of a captured graph on the stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def compile(
        self, source: str, function: str, *, architecture: str | None = None, options: Sequence[str] = ()
    ) -> Any:
        """One kernel of `compile_all`."""
        return self.compile_all(source, [function], architecture=architecture, options=options)[function]

    def compile_all(
        self, source: str, functions: Sequence[str], *, architecture: str | None = None, options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Compiles and loads several kernels of one source; see `compile_image`.

        Returns:
            Name -> kernel, for `launch`.
        """
        image = self.compile_image(source, functions[0], architecture=architecture, options=options)
        return self.load(image, functions)

    def compile_image(
        self, source: str, title: str, *, architecture: str | None = None, options: Sequence[str] = ()
    ) -> bytes:
        """Compiles CUDA C++ for this device by NVRTC; several threads may do so at a time.

        Args:
            source: The text; its kernels are `extern "C"`.
            title: What messages call it.
            architecture: For example "sm_90a"; None for the device's own, without its architecture-specific features.
            options: More options of NVRTC. Products and sums are not fused into one rounding unless "--fmad=true" is
                among them.

        Raises:
            BackendUnavailable: the NVRTC library is not installed.
            CudaError: the source does not compile; the message has the compiler's log.
        """
        nvrtc = require("cuda.bindings.nvrtc", "to compile CUDA kernels")
        try:
            status, program = nvrtc.nvrtcCreateProgram(source.encode(), f"{title}.cu".encode(), 0, [], [])
        except RuntimeError as error:
            raise BackendUnavailable(
                f"NVRTC, which compiles CUDA kernels, is not installed ('pip install nvidia-cuda-nvrtc'): {error}"
            ) from error
        _expect(status, nvrtc.nvrtcResult.NVRTC_SUCCESS, "nvrtcCreateProgram")
        major, minor = self.compute_capability
        target = architecture or f"sm_{major}{minor}"
        rounding = [] if any(option.startswith(("--fmad", "-fmad")) for option in options) else ["--fmad=false"]
        arguments = [option.encode() for option in (f"--gpu-architecture={target}", *rounding, *options)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            log = bytearray(size)
            nvrtc.nvrtcGetProgramLog(program, log)
            text = bytes(log).rstrip(b"\0").decode(errors="replace").strip()
            raise CudaError(f"Kernel '{title}' does not compile for {target}: {text}")
        status, size = nvrtc.nvrtcGetCUBINSize(program)
        _expect(status, nvrtc.nvrtcResult.NVRTC_SUCCESS, "nvrtcGetCUBINSize")
        image = bytearray(size)
        (status,) = nvrtc.nvrtcGetCUBIN(program, image)
        _expect(status, nvrtc.nvrtcResult.NVRTC_SUCCESS, "nvrtcGetCUBIN")
        nvrtc.nvrtcDestroyProgram(program)
        return bytes(image)

    def tensor_map(
        self, address: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int]
    ) -> ctypes.Array[ctypes.c_uint64]:
        """What the copy engine needs to know of a tensor of 8-byte elements, as an argument of a launch. Needs 9.0.

        Args:
            address: Of its first element, a multiple of 16.
            sizes: In elements, the fastest running first.
            strides: Bytes, from the second dimension on; multiples of 16.
            box: In elements, at most 256 of each dimension: what one instruction loads.
        """
        driver = self._driver
        tensor_map = self._driver_call(
            "cuTensorMapEncodeTiled",
            driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_INT64,
            len(sizes),
            address,
            [driver.cuuint64_t(size) for size in sizes],
            [driver.cuuint64_t(stride) for stride in strides],
            [driver.cuuint32_t(size) for size in box],
            [driver.cuuint32_t(1)] * len(sizes),
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_NONE,
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        return (ctypes.c_uint64 * 16)(*(int(word) for word in tensor_map.opaque))

    def load(self, image: bytes, functions: Sequence[str]) -> dict[str, Any]:
        """Name -> kernel of an image that `compile_image` made."""
        module = self._driver_call("cuModuleLoadData", image)
        self._modules.append(module)
        return {name: self._driver_call("cuModuleGetFunction", module, name.encode()) for name in functions}

    def allow_shared(self, kernel: Any, num_bytes: int) -> None:
        """Lets launches of the kernel have so much dynamic shared memory; needed above 48 KB.

        Raises:
            CudaError: the device has less for a block.
        """
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._driver_call("cuFuncSetAttribute", kernel, attribute, num_bytes)

    def launch(
        self,
        kernel: Any,
        grid: int | tuple[int, int, int],
        threads: int,
        arguments: Sequence[Any],
        stream: int,
        *,
        shared_bytes: int = 0,
        overlap: bool = False,
    ) -> None:
        """Launches a kernel.

        Args:
            kernel: From `compile`.
            grid: Blocks along x, or along x, y and z.
            threads: Threads of a block, along x.
            arguments: ctypes objects: `c_void_p` for addresses, `c_int`, `c_float`, structures, ...
            stream: Where it runs.
            shared_bytes: Dynamic shared memory of a block; `allow_shared` first where it is more than 48 KB.
            overlap: Let blocks start before the kernel in front of this one has ended (programmatic dependent
                launch); the kernel itself waits for it. Compute capability 9.0 and newer.
        """
        config = self._driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid if isinstance(grid, tuple) else (grid, 1, 1)
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes, config.hStream = shared_bytes, self._driver.CUstream(stream)
        if overlap:
            kinds = self._driver.CUlaunchAttributeID
            attribute = self._driver.CUlaunchAttribute()
            attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            value = self._driver.CUlaunchAttributeValue()
            value.programmaticStreamSerializationAllowed = 1
            attribute.value = value
            config.attrs, config.numAttrs = [attribute], 1
        # The driver reads the values behind these addresses during the call, also while it captures.
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        self._driver_call("cuLaunchKernelEx", config, kernel, ctypes.addressof(addresses), 0)

    def close(self) -> None:
        """Frees graphs, events, streams, modules and memory; calling it again does nothing."""
        for graph in self._graphs:
            self._call("cudaGraphExecDestroy", graph)
        for event in self._events:
            self._call("cudaEventDestroy", event)
        for stream in self._streams:
            self._call("cudaStreamDestroy", stream)
        for module in self._modules:
            self._driver_call("cuModuleUnload", module)
        for address in self._memory:
            self._call("cudaFree", address)
        for address in self._pinned:
            self._call("cudaFreeHost", address)
        for memory in self._registered:
            self._call("cudaHostUnregister", memory.ctypes.data)
        for owned in (self._graphs, self._events, self._streams, self._modules, self._memory, self._pinned):
            owned.clear()
        self._registered.clear()

    def _settle(self) -> None:
        """Waits for what the default stream was given: `cudaMemset` and the end of `cudaMemcpy` do not wait themselves.

        The streams of `create_stream` do not wait for that one. Where other processes keep the device busy, zeros would
        come after what was uploaded by such a stream, and wipe it out.
        """
        self._call("cudaStreamSynchronize", 0)

    def _copy(self, target: int, source: int, num_bytes: int, kind: str, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, num_bytes, getattr(self._runtime.cudaMemcpyKind, kind), stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        status, *values = getattr(self._runtime, function)(*arguments)
        # Both codes of success are 0; several calls a frame come through here.
        if status:
            raise _failure(status, f"{function} on cuda:{self.index}")
        return values[0] if values else None

    def _driver_call(self, function: str, *arguments: Any) -> Any:
        status, *values = getattr(self._driver, function)(*arguments)
        if status:
            raise _failure(status, f"{function} on cuda:{self.index}")
        return values[0] if values else None


def pointers(*addresses: int) -> list[ctypes.c_void_p]:
    """Addresses as arguments of a launch."""
    return [ctypes.c_void_p(address) for address in addresses]


def _failure(status: Any, what: str) -> CudaError:
    return CudaError(f"{what} failed: {getattr(status, 'name', status)}.")


def _expect(status: Any, success: Any, what: str) -> None:
    if status != success:
        raise _failure(status, what)
