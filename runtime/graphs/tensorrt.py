"""The backbone's TensorRT engine between kernels of our own for both ends, from points to boxes in one CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.arguments import DEFAULT_POINTS
from base.errors import ConfigError, DataError, MissingDependencyError, UserError
from models.spec import BACKBONE_NECK_HEAD, SPATIAL_FEATURES
from runtime.backends.base import component_paths, device_index
from runtime.decoders import TRAINING_DECODER, Decoder
from runtime.graphs.detector import GraphDetector

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.spec import ModelSpec
    from runtime.backends.engines import Engines
    from runtime.cuda.chain import DeviceComponent
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.canvas import DenseCanvas
    from runtime.cuda_engine.points_frame import PointsFrame

__all__ = ["EngineNetwork", "KernelsRefuseError", "open_tensorrt_graph"]


class KernelsRefuseError(UserError):
    """The kernels of both ends do not take the model or its encoder; TensorRT runs it from pillars."""


class EngineNetwork:
    """A backbone on a stream, from a canvas to outputs of its own: the network of a `PointsFrame`.

    Attributes:
        outputs: Head name -> address of (C, h, w) float32.
    """

    def __init__(
        self, device: CudaDevice, spec: ModelSpec, backbone: DeviceComponent, canvas: DenseCanvas, stream: int
    ) -> None:
        self._backbone, self._stream = backbone, stream
        shapes = {head.name: spec.head_shape(head) for head in spec.heads}
        self.outputs = {name: device.allocate(int(np.prod(shape)) * 4) for name, shape in shapes.items()}
        self._shapes: dict[str, tuple[int, ...]] = {SPATIAL_FEATURES: spec.canvas_shape, **shapes}
        backbone.bind({SPATIAL_FEATURES: canvas.address, **self.outputs}, stream)

    def enqueue(self, stream: int) -> None:
        """Puts one execution on the stream that it was bound to.

        Raises:
            ValueError: it is another one.
            RuntimeError: the backbone refuses, for example while the stream is captured.
        """
        if stream != self._stream:
            raise ValueError(f"The backbone is bound to stream {self._stream}, not to {stream}.")
        self._backbone.enqueue(self._shapes)


def open_tensorrt_graph(
    *,
    spec: ModelSpec,
    engine_dir: Path,
    encoder_onnx: Path,
    device: str = "cuda:0",
    library: str = "auto",
    files: Mapping[str, str] | None = None,
    capacity: int = DEFAULT_POINTS,
    decoder: Decoder = TRAINING_DECODER,
) -> GraphDetector:
    """Opens the engine of backbone, neck and head; kernels of our own compute pillar features and boxes around it.

    Args:
        engine_dir: Folder of the engines; the encoder's is checked to be there, and is not run.
        encoder_onnx: The file that the encoder's engine was built from.
        library: "tensorrt_rtx", "tensorrt", or "auto" for the first installed one that accepts the engine.
        files: Component name -> file name in the folder; `<component>.engine` by default.
        capacity: Most points of a cloud.
        decoder: What makes boxes; the training framework's on the device.

    Raises:
        ConfigError: the device is no CUDA device, a file is missing, or the engine's tensors are not the model's.
        BackendUnavailable: no driver or device, or no installed library accepts the engine.
        KernelsRefuseError: the kernels do not take the encoder or the model.
    """
    index = device_index(device)
    if index is None:
        raise ConfigError("Backend 'tensorrt' runs on a GPU: its device is 'cpu', use 'cuda:0'.")
    paths = component_paths(spec, engine_dir, ".engine", files, "Build it with --mode=trt.")
    if not encoder_onnx.is_file():
        raise ConfigError(f"The encoder's ONNX file is missing: {encoder_onnx}. Export it with --mode=onnx.")
    from runtime.backends.engines import open_engines
    from runtime.cuda.device import CudaDevice

    engines: Engines | None = None

    def release() -> None:
        # Contexts go before the memory that they are bound to.
        if engines is not None:
            engines.release()
        gpu.close()

    gpu = CudaDevice.open(index)
    try:
        engines = open_engines(spec, {BACKBONE_NECK_HEAD: paths[BACKBONE_NECK_HEAD]}, library, gpu)
        try:
            frame = _open_frame(gpu, spec, engines.components[BACKBONE_NECK_HEAD], encoder_onnx, capacity)
        except (ConfigError, DataError, MissingDependencyError) as reason:
            raise KernelsRefuseError(str(reason)) from reason
    except BaseException:
        release()
        raise
    return GraphDetector(spec, "tensorrt", f"cuda:{index}", frame, release, decoder)


def _open_frame(
    gpu: CudaDevice, spec: ModelSpec, backbone: DeviceComponent, encoder_onnx: Path, capacity: int
) -> PointsFrame:
    from runtime.cuda_engine.canvas import DenseCanvas
    from runtime.cuda_engine.points_frame import PointsFrame
    from runtime.pillar_weights import PillarWeights

    weights = PillarWeights.from_onnx(encoder_onnx)
    canvas, stream = DenseCanvas(gpu, spec), gpu.create_stream()
    network = EngineNetwork(gpu, spec, backbone, canvas, stream)
    # TensorRT finishes its setup for the bound shapes in the first execution, which must not be a captured one.
    network.enqueue(stream)
    gpu.synchronize(stream)
    return PointsFrame(gpu, spec, network, canvas, weights, stream=stream, capacity=capacity, needs_graph=False)
