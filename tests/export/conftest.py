"""The tiny CenterPoint, its files and how to run them."""

from __future__ import annotations

from tests.export.tiny_centerpoint import (
    run_onnx,
    tiny,
    tiny_canvases,
    tiny_config_path,
    tiny_int8,
    tiny_int8_onnx,
    tiny_onnx,
)

__all__ = [
    "run_onnx",
    "tiny",
    "tiny_canvases",
    "tiny_config_path",
    "tiny_int8",
    "tiny_int8_onnx",
    "tiny_onnx",
]
