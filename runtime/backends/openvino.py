"""The exported ONNX files on a CPU through OpenVINO, whose INT8 convolutions use AMX and VNNI where they are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import BackendUnavailable, ConfigError, DataError
from base.lazy import require
from base.onnx_files import read_onnx
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER
from runtime.backends.base import Backend, BackendOutput, component_paths, default_threads, device_index
from runtime.backends.openvino_graph import suit_openvino
from runtime.scatter import Canvas, CodeCanvas, quantized

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.spec import ComponentSpec, ModelSpec, TensorSpec

__all__ = ["OpenVinoBackend"]


class OpenVinoBackend(Backend):
    """Runs `<component>.onnx` of a folder on the CPU.

    One frame at a time as fast as possible (hint `LATENCY`, one stream). What is not INT8 in the files is computed in
    float32: on CPUs with AMX OpenVINO's own choice would be bfloat16, which the files do not ask for. Nothing is cached
    on disk. Sums of integers are exact and those of floats have an order of their own, so that two runs on one machine
    with one number of threads give the same bits.
    """

    name = "openvino"

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
            threads: Threads of a frame; None for OMP_NUM_THREADS or, without it, the cores of this process.
            files: Component name -> file name in the folder; `<component>.onnx` by default.

        Raises:
            ConfigError: a file is missing, its tensors are not those of the model, or the device is no CPU.
            DataError: a file is no ONNX model that OpenVINO can compile.
            BackendUnavailable: this OpenVINO has no CPU device.
            MissingDependencyError: OpenVINO is not installed.
        """
        if device_index(device) is not None:
            raise ConfigError(f"Backend 'openvino' runs on a CPU: its device is '{device}', use 'cpu'.")
        super().__init__(spec, "cpu")
        openvino = require("openvino", "to run the openvino backend")
        paths = component_paths(spec, onnx_dir, ".onnx", files, "Export it with --mode=onnx.")
        core = openvino.Core()
        if "CPU" not in core.available_devices:
            raise BackendUnavailable(
                f"OpenVINO {openvino.__version__} finds no CPU device, only {core.available_devices}. "
                "Use the onnx backend."
            )
        self._networks = {
            name: _Network(openvino, core, path, self._components[name], threads or default_threads())
            for name, path in paths.items()
        }
        self._scale = self._networks[BACKBONE_NECK_HEAD].scale
        self._canvas = Canvas(spec) if self._scale is None else CodeCanvas(spec, self._scale)

    @property
    def canvas(self) -> Canvas | CodeCanvas:
        """What `run_canvas` reads: codes where the network begins with their quantizer."""
        return self._canvas

    def run_canvas(self) -> dict[str, NDArray[np.float32]]:
        """Backbone, neck and head on `canvas`; the arrays are overwritten by the next call."""
        self._check_open()
        return self._networks[BACKBONE_NECK_HEAD](self._canvas.array)

    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        (value,) = inputs.values()
        if component == BACKBONE_NECK_HEAD and self._scale is not None:
            codes = np.ascontiguousarray(quantized(value, self._scale).transpose(0, 2, 3, 1))
            return {name: array.copy() for name, array in self._networks[component](codes).items()}
        return {name: array.copy() for name, array in self._networks[component](value).items()}

    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        times = [time.perf_counter()]
        (pillars,) = self._networks[VOXEL_ENCODER](features).values()
        times.append(time.perf_counter())
        self._canvas.fill(pillars, coords)
        times.append(time.perf_counter())
        outputs = self.run_canvas()
        times.append(time.perf_counter())
        names = ("voxel_encoder", "scatter", "backbone_neck_head")
        stages = {name: (after - before) * 1e3 for name, before, after in zip(names, times, times[1:], strict=False)}
        return BackendOutput(outputs, stages)

    def _release(self) -> None:
        self._networks = {}


class _Network:
    """One compiled component with one input.

    Attributes:
        scale: Where the input is INT8 codes, (1, H, W, C): of a step.
    """

    def __init__(self, openvino: Any, core: Any, path: Path, component: ComponentSpec, threads: int) -> None:
        read = read_onnx(path, error=DataError)
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "f32",
            # Pinned threads of two processes would share the same cores while others idle.
            "ENABLE_CPU_PINNING": "NO",
            "CACHE_DIR": "",
        }
        try:
            model = core.read_model(str(path))
            _check_tensors(model.inputs, component.inputs, "input", path)
            _check_tensors(model.outputs, component.outputs, "output", path)
            self.scale: np.float32 | None = None
            if any(node.op_type == "QuantizeLinear" for node in read.graph.node):
                suited = suit_openvino(read)
                self.scale = suited.scale
                model = core.read_model(suited.model.SerializeToString())
            self._request = core.compile_model(model, "CPU", properties).create_infer_request()
        except RuntimeError as error:  # all that OpenVINO raises
            raise DataError(f"OpenVINO cannot load {path}: {_first_line(error)}. Use the onnx backend.") from error
        self._tensor = openvino.Tensor
        self._path = path
        self._names = [tensor.name for tensor in component.outputs]

    def __call__(self, value: NDArray[np.float32] | NDArray[np.int8]) -> dict[str, NDArray[np.float32]]:
        """Output name -> array of the network's own, in graph order.

        Raises:
            DataError: the graph fails on these values.
        """
        try:
            self._request.set_input_tensor(self._tensor(value, shared_memory=True))
            self._request.infer()
            return {name: self._request.get_output_tensor(index).data for index, name in enumerate(self._names)}
        except RuntimeError as error:
            raise DataError(f"OpenVINO cannot run {self._path}: {_first_line(error)}. Export it again.") from error


def _first_line(error: Exception) -> str:
    """OpenVINO's messages go on with its source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (told or lines or ["no reason given"])[0]


def _check_tensors(found: list[Any], expected: tuple[TensorSpec, ...], kind: str, path: Path) -> None:
    """Names in order, float32, and every fixed axis; a dynamic axis of the file fits any size."""
    wanted = [tensor.name for tensor in expected]
    if len(found) != len(wanted) or any(
        name not in tensor.get_names() for tensor, name in zip(found, wanted, strict=True)
    ):
        names = [sorted(tensor.get_names()) for tensor in found]
        raise ConfigError(f"{path}: {kind}s are {names}; the model has {wanted}. The file belongs to another model.")
    for tensor, want in zip(found, expected, strict=True):
        shape = [None if axis.is_dynamic else axis.get_length() for axis in tensor.get_partial_shape()]
        fits = len(shape) == len(want.shape) and all(
            got is None or got == size for got, size in zip(shape, want.shape, strict=True)
        )
        if not fits or tensor.get_element_type().get_type_name() != "f32":
            axes = tuple("dynamic" if size is None else size for size in want.shape)
            raise ConfigError(
                f"{path}: {kind} '{want.name}' is {tensor.get_element_type().get_type_name()} "
                f"{tuple('dynamic' if size is None else size for size in shape)}; the model needs f32 {axes}. The file "
                "belongs to another model config; export it again."
            )
