"""Words that a deploy configuration chooses from."""

from __future__ import annotations

from typing import Literal, get_args

from export.engine.request import PrecisionPolicy

__all__ = [
    "BACKENDS",
    "BOTH",
    "CPU_BACKENDS",
    "DECODES",
    "GPU_BACKENDS",
    "ONNX_BACKENDS",
    "Backend",
    "Builder",
    "Decode",
    "Mode",
    "PrecisionPolicy",
]

Mode = Literal["onnx", "trt", "both", "none"]
Builder = Literal["auto", "tensorrt_rtx", "tensorrt"]
Backend = Literal["pytorch", "onnx", "openvino", "tensorrt", "cuda"]
Decode = Literal["training", "autoware", "both"]

BACKENDS: tuple[str, ...] = get_args(Backend)
GPU_BACKENDS = ("tensorrt", "cuda")
"""Those that run on a GPU alone."""
CPU_BACKENDS = ("openvino",)
"""Those that run on a CPU alone."""
ONNX_BACKENDS = ("onnx", "openvino", "cuda")
"""Those that read the exported ONNX files."""
DECODES: tuple[str, ...] = get_args(Decode)
BOTH = "both"
