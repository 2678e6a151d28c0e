"""Engines of TensorRT-RTX or TensorRT 10/11 on a device, behind one code path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from base.errors import BackendUnavailable, ConfigError, MissingDependencyError
from base.lazy import require

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.spec import ComponentSpec, ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["LIBRARIES", "EngineComponent", "EngineLoader", "Engines", "open_engines"]

# Name -> Python module. Both have the same runtime classes.
LIBRARIES = {"tensorrt_rtx": "tensorrt_rtx_bindings", "tensorrt": "tensorrt"}


class Engines:
    """Loaded engines of a model, by component.

    Attributes:
        components: Component name -> its execution context.
    """

    def __init__(self, loader: EngineLoader, components: dict[str, EngineComponent]) -> None:
        self._loader: EngineLoader | None = loader
        self.components = components

    def release(self) -> None:
        """Frees contexts and engines; before the memory that they are bound to."""
        self.components = {}
        self._loader = None


def open_engines(spec: ModelSpec, paths: Mapping[str, Path], library: str, gpu: CudaDevice) -> Engines:
    """Loads engines by one library.

    Engines are tied to the library and version that built them and to kinds of GPU.

    Args:
        spec: The model.
        paths: Component name -> file.
        library: "tensorrt_rtx", "tensorrt", or "auto" for the first installed one that accepts the engines.
        gpu: Where they run.

    Raises:
        ConfigError: there is no such library, or an engine's tensors or profile are not those of the model.
        BackendUnavailable: no installed library accepts the engines; the message has TensorRT's own words.
    """
    if library not in ("auto", *LIBRARIES):
        raise ConfigError(f"Unknown TensorRT library '{library}'. Choose one of: auto, {', '.join(LIBRARIES)}.")
    trt, loader, engines = _load(paths, list(LIBRARIES) if library == "auto" else [library], gpu)
    specs = {component.name: component for component in spec.components}
    return Engines(
        loader,
        {name: EngineComponent(trt, engines[name], specs[name], path, spec.max_voxels) for name, path in paths.items()},
    )


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


def _load(paths: Mapping[str, Path], libraries: list[str], gpu: CudaDevice) -> tuple[Any, EngineLoader, dict[str, Any]]:
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
