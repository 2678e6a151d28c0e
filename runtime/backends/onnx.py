"""The network as ONNX files, run by ONNX Runtime on the CPU or through its CUDA provider."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import BackendUnavailable, ConfigError, DataError
from base.lazy import require
from base.onnx_files import read_onnx, session_errors
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER
from runtime.backends.base import Backend, BackendOutput, component_paths, default_threads, device_index
from runtime.scatter import Canvas

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.spec import ComponentSpec, ModelSpec, TensorSpec

__all__ = ["OnnxBackend"]


class OnnxBackend(Backend):
    """Runs `<component>.onnx` of a folder. All graph optimizations are on; the thread count is fixed.

    Outputs are bound to memory that is allocated once. On CUDA the encoder's output, the canvas and the head's input
    are device memory, and everything runs on one stream.
    """

    name = "onnx"

    def __init__(
        self,
        *,
        spec: ModelSpec,
        onnx_dir: Path,
        device: str = "cpu",
        threads: int | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
            onnx_dir: Folder of the files.
            threads: Intra-op threads of ONNX Runtime on the CPU; None for `default_threads()`.
            files: Component name -> file name in the folder; `<component>.onnx` by default.

        Raises:
            ConfigError: a file is missing or its tensors are not those of the model.
            DataError: a file is no ONNX model that ONNX Runtime can load.
            BackendUnavailable: CUDA was asked for and this ONNX Runtime or machine has none.
        """
        index = device_index(device)
        super().__init__(spec, "cpu" if index is None else f"cuda:{index}")
        ort = require("onnxruntime", "to run the onnx backend")
        if index is not None and "CUDAExecutionProvider" not in ort.get_available_providers():
            raise BackendUnavailable(
                f"onnxruntime {ort.__version__} has no CUDA provider, only {ort.get_available_providers()}. "
                "Install onnxruntime-gpu in its place."
            )
        paths = component_paths(spec, onnx_dir, ".onnx", files, "Export it with --mode=onnx.")
        threads = threads or default_threads()
        self._chain: Any = None
        self._gpu: Any = None
        if index is not None:
            self._open_on_gpu(ort, paths, threads, index)
            return
        self._sessions = {
            name: _open_session(ort, path, self._components[name], threads) for name, path in paths.items()
        }
        self._pillars = np.empty((spec.max_voxels, 1, spec.encoder_channels), np.float32)
        self._canvas = Canvas(spec)
        self._outputs = {head.name: np.empty(spec.head_shape(head), np.float32) for head in spec.heads}

    def _open_on_gpu(self, ort: Any, paths: Mapping[str, Path], threads: int, index: int) -> None:
        from runtime.cuda.chain import DeviceChain
        from runtime.cuda.device import CudaDevice

        self._gpu = gpu = CudaDevice.open(index)
        try:
            stream = gpu.create_stream()
            self._sessions = {
                name: _open_session(ort, path, self._components[name], threads, (index, stream))
                for name, path in paths.items()
            }
            sessions = [_CudaSession(ort, session, index) for session in self._sessions.values()]
            self._chain = DeviceChain(gpu, stream, self.spec, *sessions)
        except BaseException:
            gpu.close()
            raise

    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        if self._chain is not None:
            result: dict[str, NDArray[np.float32]] = self._chain.run(component, inputs)
            return result
        names = [tensor.name for tensor in self._components[component].outputs]
        try:
            values = self._sessions[component].run(names, inputs)
        except session_errors() as error:
            raise DataError(f"ONNX Runtime cannot run {component}: {error}. Export it again.") from error
        return dict(zip(names, values, strict=True))

    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        if self._chain is not None:
            return BackendOutput(*self._chain.infer(features, coords))
        encoder, head = self._components[VOXEL_ENCODER], self._components[BACKBONE_NECK_HEAD]
        pillars = self._pillars[: len(features)]
        times = [time.perf_counter()]
        _run_bound(
            self._sessions[VOXEL_ENCODER], {encoder.inputs[0].name: features}, {encoder.outputs[0].name: pillars}
        )
        times.append(time.perf_counter())
        canvas = self._canvas.fill(pillars, coords)
        times.append(time.perf_counter())
        _run_bound(self._sessions[BACKBONE_NECK_HEAD], {head.inputs[0].name: canvas}, self._outputs)
        times.append(time.perf_counter())
        names = ("voxel_encoder", "scatter", "backbone_neck_head")
        stages = {name: (after - before) * 1e3 for name, before, after in zip(names, times, times[1:], strict=False)}
        return BackendOutput(dict(self._outputs), stages)

    def _release(self) -> None:
        self._sessions = {}
        self._chain = None
        if self._gpu is not None:
            self._gpu.close()


class _CudaSession:
    """A session whose tensors are device memory, for `runtime.cuda.chain`."""

    row_capacity = 0

    def __init__(self, ort: Any, session: Any, index: int) -> None:
        self._session = session
        self._index = index
        self._addresses: Mapping[str, int] = {}
        self._options = ort.RunOptions()
        # The chain's events and its one synchronization at the end order the work.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        del stream  # set when the session was opened
        self._addresses = addresses

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        binding = self._session.io_binding()
        for tensor in self._session.get_inputs():
            address, shape = self._addresses[tensor.name], shapes[tensor.name]
            binding.bind_input(tensor.name, "cuda", self._index, np.float32, shape, address)
        for tensor in self._session.get_outputs():
            address, shape = self._addresses[tensor.name], shapes[tensor.name]
            binding.bind_output(tensor.name, "cuda", self._index, np.float32, shape, address)
        self._session.run_with_iobinding(binding, self._options)


def _run_bound(
    session: Any, inputs: Mapping[str, NDArray[np.float32]], outputs: Mapping[str, NDArray[np.float32]]
) -> None:
    """Runs a session from and into the given host arrays, without a copy.

    Raises:
        DataError: the graph fails on these values, or makes tensors of other shapes than it declares.
    """
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    try:
        session.run_with_iobinding(binding)
    except session_errors() as error:
        raise DataError(f"ONNX Runtime cannot run the network: {error}. Export it again.") from error


def _open_session(
    ort: Any, path: Path, component: ComponentSpec, threads: int, cuda: tuple[int, int] | None = None
) -> Any:
    """A session on the CPU, or on the CUDA device and stream given."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what it has to say is in what it raises
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda is not None:
        index, stream = cuda
        settings = {"device_id": str(index), "use_tf32": "0", "user_compute_stream": str(stream)}
        providers.insert(0, ("CUDAExecutionProvider", settings))
    errors: tuple[type[Exception], ...] = (DataError, *session_errors())
    try:
        read_onnx(path, error=DataError)
        session = ort.InferenceSession(str(path), options, providers=providers)
    except errors as error:
        raise DataError(f"ONNX Runtime cannot load {path}: {error}. Export it again.") from error
    if cuda is not None and "CUDAExecutionProvider" not in session.get_providers():
        raise BackendUnavailable(
            "onnxruntime's CUDA provider did not start (its libraries or the driver do not fit); "
            f"it offered {session.get_providers()} for {path.name}."
        )
    _check_tensors(session.get_inputs(), component.inputs, "input", path)
    _check_tensors(session.get_outputs(), component.outputs, "output", path)
    return session


def _check_tensors(found: list[Any], expected: tuple[TensorSpec, ...], kind: str, path: Path) -> None:
    """Names in order, float32, and every fixed axis; a dynamic axis of the file fits any size."""
    names, wanted = [tensor.name for tensor in found], [tensor.name for tensor in expected]
    if names != wanted:
        raise ConfigError(f"{path}: {kind}s are {names}; the model has {wanted}. The file belongs to another model.")
    for tensor, want in zip(found, expected, strict=True):
        fits = len(tensor.shape) == len(want.shape) and all(
            not isinstance(got, int) or got == size for got, size in zip(tensor.shape, want.shape, strict=True)
        )
        if not fits or tensor.type != "tensor(float)":
            shape = tuple("dynamic" if size is None else size for size in want.shape)
            raise ConfigError(
                f"{path}: {kind} '{tensor.name}' is {tensor.type} {tuple(tensor.shape)}; the model needs "
                f"tensor(float) {shape}. The file belongs to another model config; export it again."
            )
