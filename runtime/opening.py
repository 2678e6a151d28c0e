"""The one way to open a detector: a network backend with a host pipeline, or a CUDA graph from points to boxes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError, DataError
from runtime.decoders import TRAINING_DECODER, Decoder

if TYPE_CHECKING:
    from models.spec import ModelSpec
    from runtime.detector import InspectableDetector

__all__ = ["DETECTORS", "open_detector"]

_log = logging.getLogger(__name__)

DETECTORS = ("pytorch", "onnx", "openvino", "tensorrt", "cuda")


def open_detector(
    name: str, *, spec: ModelSpec, device: str = "cpu", decoder: Decoder = TRAINING_DECODER, **options: Any
) -> InspectableDetector:
    """Opens a detector; close it, or use it as a context manager.

    `cuda` is one CUDA graph from points to boxes. So is `tensorrt` where `encoder_onnx=` names the ONNX file that its
    encoder's engine was built from and the kernels take it; the log says where they do not. All others preprocess and
    decode on the host; `openvino` without padded points where its encoder's file is a chain of PFN layers.

    Args:
        name: Of `DETECTORS`.
        spec: The model.
        device: "cpu", "cuda" or "cuda:N"; tensorrt and cuda need "cuda…".
        decoder: What makes boxes of the raw outputs.
        options: `components=` (name -> module) for pytorch, `onnx_dir=` for onnx, openvino and cuda, `engine_dir=` for
            tensorrt, and what else they take; `capacity=`, the most points of a cloud, for graphs.

    Raises:
        ConfigError: there is no detector of that name, the option that says where its network is, is missing, or the
            files do not fit the model.
        BackendUnavailable: this machine cannot run it; the message is the reason.
        MissingDependencyError: its Python package is not installed.
    """
    from runtime.backends import open_backend
    from runtime.pipeline import Pipeline

    if name not in DETECTORS:
        raise ConfigError(f"Unknown backend '{name}'. Choose one of: {', '.join(DETECTORS)}.")
    if name == "cuda":
        from runtime.graphs.cuda import open_cuda_graph

        if options.get("onnx_dir") is None:
            raise ConfigError(f"Backend 'cuda' needs onnx_dir=…; got {sorted(options) or 'no option'}.")
        return open_cuda_graph(spec=spec, device=device, decoder=decoder, **options)
    if options.get("encoder_onnx") is not None:
        from runtime.graphs.tensorrt import KernelsRefuseError, open_tensorrt_graph

        try:
            return open_tensorrt_graph(spec=spec, device=device, decoder=decoder, **options)
        except KernelsRefuseError as reason:
            _log.warning("Backend 'tensorrt' starts from pillars, not from points: %s", reason)
    kept = {key: value for key, value in options.items() if key not in ("encoder_onnx", "capacity")}
    backend = open_backend(name, spec=spec, device=device, **kept)
    if name == "openvino":
        return _open_packed(spec, backend, decoder, kept)
    return Pipeline(spec, backend, decoder)


def _open_packed(spec: ModelSpec, backend: Any, decoder: Decoder, options: dict[str, Any]) -> InspectableDetector:
    """Points without padding where the encoder is a chain of PFN layers, which the file says."""
    from models.spec import VOXEL_ENCODER
    from runtime.backends.base import component_paths
    from runtime.packed_pipeline import PackedPipeline
    from runtime.pillar_weights import PillarWeights
    from runtime.pipeline import Pipeline

    if spec.dynamic_pillars:
        return Pipeline(spec, backend, decoder)
    path = component_paths(spec, options["onnx_dir"], ".onnx", options.get("files"), "")[VOXEL_ENCODER]
    try:
        encoder = PillarWeights.from_onnx(path)
    except DataError as reason:
        _log.warning("Backend 'openvino' pads pillars and runs the encoder's graph: %s", reason)
        return Pipeline(spec, backend, decoder)
    return PackedPipeline(spec, backend, encoder, decoder)
