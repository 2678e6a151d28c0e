"""One interface over PyTorch, ONNX Runtime, OpenVINO and TensorRT: a network from pillars to raw outputs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError
from base.wholeness import require_whole
from runtime.backends.base import Backend, BackendOutput

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = ["BACKENDS", "Backend", "BackendOutput", "open_backend"]

# Name -> module, class and the option that says where the network comes from.
BACKENDS: dict[str, tuple[str, str, str]] = {
    "pytorch": ("runtime.backends.pytorch", "PyTorchBackend", "components"),
    "onnx": ("runtime.backends.onnx", "OnnxBackend", "onnx_dir"),
    "openvino": ("runtime.backends.openvino", "OpenVinoBackend", "onnx_dir"),
    "tensorrt": ("runtime.backends.tensorrt", "TensorRTBackend", "engine_dir"),
}


def open_backend(name: str, *, spec: ModelSpec, device: str = "cpu", **options: Any) -> Backend:
    """Opens a backend; close it, or use it as a context manager.

    Args:
        name: "pytorch", "onnx", "openvino" or "tensorrt". What goes from points to boxes opens by
            `runtime.open_detector`.
        device: "cpu", "cuda" or "cuda:N"; tensorrt needs "cuda…".
        options: `components=` (name -> module) for pytorch, `onnx_dir=` for onnx and openvino, `engine_dir=` for
            tensorrt, and what else that backend's class takes.

    Raises:
        ConfigError: there is no backend of that name, the option that says where the network is, is missing, or its
            folder may hold files of two runs.
        BackendUnavailable: this machine cannot run it; the message is the reason.
        MissingDependencyError: its Python package is not installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f"Unknown backend '{name}'. Choose one of: {', '.join(BACKENDS)}.")
    module, class_name, source = BACKENDS[name]
    if options.get(source) is None:
        raise ConfigError(f"Backend '{name}' needs {source}=…; got {sorted(options) or 'no option'}.")
    if source != "components":
        require_whole(options[source], "Make its files again.")
    backend: Backend = getattr(importlib.import_module(module), class_name)(spec=spec, device=device, **options)
    return backend
