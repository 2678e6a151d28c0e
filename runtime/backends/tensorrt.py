"""The network as engines of TensorRT-RTX or TensorRT 10/11, behind one code path."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import BackendUnavailable, ConfigError, DataError, MissingDependencyError
from base.lazy import require
from models.spec import BACKBONE_NECK_HEAD
from runtime.backends.base import Backend, BackendOutput, PointDetections, device_index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.spec import ComponentSpec, ModelSpec
    from runtime.cuda.chain import DeviceChain
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.points_frame import PointsFrame

__all__ = ["LIBRARIES", "EngineComponent", "EngineLoader", "TensorRTBackend"]

_log = logging.getLogger(__name__)

# Name -> Python module. Both have the same runtime classes.
LIBRARIES = {"tensorrt_rtx": "tensorrt_rtx_bindings", "tensorrt": "tensorrt"}


class TensorRTBackend(Backend):
    """Runs `<component>.engine` of a folder on a CUDA device.

    Engines are tied to the library and version that built them and to kinds of GPU. One that does not fit this machine
    makes the backend unavailable, with TensorRT's own words as the reason.

    With the encoder's ONNX file, `detect` goes from points to boxes on the device: kernels of our own compute pillar
    features and boxes, and the backbone's engine runs between them. `infer` and `run` use both engines always.
    """

    name = "tensorrt"

    def __init__(
        self,
        *,
        spec: ModelSpec,
        engine_dir: Path,
        device: str = "cuda:0",
        library: str = "auto",
        files: Mapping[str, str] | None = None,
        encoder_onnx: Path | None = None,
        capacity: int = 1 << 18,
    ) -> None:
        """Args:
            engine_dir: Folder of the engines.
            library: "tensorrt_rtx", "tensorrt", or "auto" for the first installed one that accepts the engines.
            files: Component name -> file name in the folder; `<component>.engine` by default.
            encoder_onnx: The file that the encoder's engine was built from, for `detect`. Where the kernels do not take
                it or the model, the log says why, and the backend starts from pillars as without it.
            capacity: Most points of a cloud of `detect`.

        Raises:
            ConfigError: the device is no CUDA device, a file is missing, or an engine's tensors or profile are not
                those of the model.
            BackendUnavailable: no driver or device, or no installed library accepts the engines.
        """
        index = device_index(device)
        if index is None:
            raise ConfigError("Backend 'tensorrt' runs on a GPU: its device is 'cpu', use 'cuda:0'.")
        if library not in ("auto", *LIBRARIES):
            raise ConfigError(f"Unknown TensorRT library '{library}'. Choose one of: auto, {', '.join(LIBRARIES)}.")
        super().__init__(spec, f"cuda:{index}")
        self._frame: PointsFrame | None = None
        self._canvas_is_foreign = False
        paths = {name: engine_dir / (files or {}).get(name, f"{name}.engine") for name in self._components}
        for name, path in paths.items():
            if not path.is_file():
                raise ConfigError(f"Engine of component '{name}' is missing: {path}. Build it with --mode=trt.")
        if encoder_onnx is not None and not encoder_onnx.is_file():
            raise ConfigError(f"The encoder's ONNX file is missing: {encoder_onnx}. Export it with --mode=onnx.")
        from runtime.cuda.chain import DeviceChain
        from runtime.cuda.device import CudaDevice

        gpu = CudaDevice.open(index)
        self._gpu: CudaDevice | None = gpu
        try:
            trt, self._loader, engines = _load_engines(paths, list(LIBRARIES) if library == "auto" else [library], gpu)
            components = [
                EngineComponent(trt, engines[name], self._components[name], paths[name], spec.max_voxels)
                for name in paths
            ]
            self._chain: DeviceChain | None = DeviceChain(gpu, None, spec, *components)
            if encoder_onnx is not None:
                self._frame = self._open_frame(gpu, encoder_onnx, capacity)
                self.detects_points = self._frame is not None
        except BaseException:
            gpu.close()
            raise

    def detect(self, points: NDArray[np.float32]) -> PointDetections:
        """One frame from its cloud to its boxes; nothing in between passes through the host.

        Args:
            points: (N, C) float32, metres, ego frame; N up to the capacity.

        Raises:
            DataError: the points have another shape or type, or are too many.
        """
        self._check_open()
        if self._frame is None:
            return super().detect(points)
        assert self._chain is not None
        self._frame.check(points)
        if self._canvas_is_foreign:
            # The pillar kernels clear what they wrote themselves, no more.
            self._chain.clear_canvas()
            self._canvas_is_foreign = False
        result = self._frame.detect(points)
        return PointDetections(result.boxes, result.stages_ms, result.counts)

    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        assert self._chain is not None
        self._canvas_is_foreign |= component == BACKBONE_NECK_HEAD
        return self._chain.run(component, inputs)

    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        assert self._chain is not None
        self._canvas_is_foreign = True
        return BackendOutput(*self._chain.infer(features, coords))

    def _open_frame(self, gpu: CudaDevice, encoder_onnx: Path, capacity: int) -> PointsFrame | None:
        """Both ends around the chain's backbone, or None where the kernels do not take the model."""
        from runtime.cuda.chain import ChainBackbone
        from runtime.cuda_engine.pillar_weights import PillarWeights
        from runtime.cuda_engine.pillars import CanvasMemory
        from runtime.cuda_engine.points_frame import PointsFrame

        assert self._chain is not None
        spec, stream, network = self.spec, self._chain.stream, ChainBackbone(self._chain)
        try:
            weights = PillarWeights.from_onnx(encoder_onnx)
            # TensorRT finishes its setup for the bound shapes in the first execution, which must not be a captured one.
            network.enqueue(stream)
            gpu.synchronize(stream)
            canvas = CanvasMemory.dense(self._chain.canvas, spec)
            return PointsFrame(gpu, spec, network, canvas, weights, stream=stream, capacity=capacity, needs_graph=False)
        except (ConfigError, DataError, MissingDependencyError) as reason:
            _log.warning("Backend 'tensorrt' starts from pillars, not from points: %s", reason)
            return None

    def _release(self) -> None:
        # Contexts go before the memory that they are bound to.
        self._frame = None
        self._chain = None
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None


class EngineComponent:
    """An execution context of one engine, bound to device memory; see `runtime.cuda.chain.DeviceComponent`."""

    def __init__(self, trt: Any, engine: Any, component: ComponentSpec, path: Path, max_voxels: int) -> None:
        """Checks the engine's tensors against the model's.

        Raises:
            ConfigError: names, types, shapes or the profile differ.
        """
        self._engine = engine
        self._path = path
        self._stream = 0
        inputs = {tensor.name for tensor in component.inputs}
        expected = {tensor.name: tensor for tensor in (*component.inputs, *component.outputs)}
        found = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        if sorted(found) != sorted(expected):
            raise ConfigError(f"{path}: the engine's tensors are {found}; the model has {list(expected)}.")
        self._min_rows: dict[str, int] = {}
        for name, tensor in expected.items():
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            shape, dtype = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            fits = len(shape) == len(tensor.shape) and all(
                got == want or (want is None and (got == -1 or got >= max_voxels))
                for got, want in zip(shape, tensor.shape, strict=True)
            )
            if is_input != (name in inputs) or dtype != trt.float32 or not fits:
                wanted = tuple(-1 if size is None else size for size in tensor.shape)
                raise ConfigError(
                    f"{path}: tensor '{name}' is {'an input' if is_input else 'an output'} {dtype} {shape}; the model "
                    f"needs {'an input' if name in inputs else 'an output'} float32 {wanted}"
                    f"{f' of at least {max_voxels} rows' if None in tensor.shape else ''}. Build the engine again."
                )
            if is_input and None in tensor.shape:
                self._min_rows[name] = shape[0]
                if shape[0] == -1:
                    low, _, high = (tuple(size) for size in engine.get_tensor_profile_shape(name, 0))
                    if high[0] < max_voxels:
                        raise ConfigError(
                            f"{path}: the profile of '{name}' ends at {high[0]} pillars, the model has max_voxels = "
                            f"{max_voxels}. Build the engine with a max_shape of {max_voxels} or more."
                        )
                    self._min_rows[name] = low[0]
        self.row_capacity = max([max_voxels, *self._min_rows.values()])
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendUnavailable(f"{path}: TensorRT made no execution context (see its log; often GPU memory).")

    def bind(self, addresses: Mapping[str, int], stream: int) -> None:
        self._stream = stream
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, least in self._min_rows.items():
            # Below the profile's minimum (or in a static engine) rows of older frames fill up: pillars do not mix,
            # and only this frame's are scattered.
            self._context.set_input_shape(name, (max(shapes[name][0], least), *shapes[name][1:]))
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeError(f"{self._path}: TensorRT refused to enqueue shapes {dict(shapes)}.")


class EngineLoader:
    """One library's runtime; keep it as long as its engines."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._messages: list[str] = []
        messages, severity = self._messages, trt.ILogger.Severity

        class Log(trt.ILogger):
            """Keeps the errors: the reason of a refusal stands nowhere else."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                if level in (severity.INTERNAL_ERROR, severity.ERROR):
                    messages.append(message.strip())

        self._log = Log()
        self._runtime = trt.Runtime(self._log)

    def load(self, path: Path) -> Any:
        """Deserializes an engine.

        Raises:
            BackendUnavailable: the library does not accept it on this machine; the message has the library's reason.
        """
        self._messages.clear()
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            library = f"{self._trt.__name__} {self._trt.__version__}"
            reason = " ".join(self._messages) or "it gave no reason"
            raise BackendUnavailable(f"{library} does not accept engine {path}: {reason}")
        return engine


def _load_engines(
    paths: Mapping[str, Path], libraries: list[str], gpu: CudaDevice
) -> tuple[Any, EngineLoader, dict[str, Any]]:
    """The first library that accepts every engine, its loader and the engines."""
    reasons: list[str] = []
    for library in libraries:
        try:
            trt = require(LIBRARIES[library], "to run the tensorrt backend")
            loader = EngineLoader(trt)
            return trt, loader, {name: loader.load(path) for name, path in paths.items()}
        except MissingDependencyError:
            reasons.append(f"{LIBRARIES[library]} is not installed")
        except BackendUnavailable as refusal:
            reasons.append(str(refusal))
    major, minor = gpu.compute_capability
    raise BackendUnavailable(
        f"No TensorRT library runs these engines on {gpu.name} (compute capability {major}.{minor}): "
        f"{'; '.join(reasons)}"
    )
