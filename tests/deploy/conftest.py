"""The tiny CenterPoint and its files."""

from __future__ import annotations

from tests.export.tiny_centerpoint import (
    tiny,
    tiny_canvases,
    tiny_config_path,
    tiny_int8,
    tiny_int8_onnx,
    tiny_onnx,
)

__all__ = [
    "tiny",
    "tiny_canvases",
    "tiny_config_path",
    "tiny_int8",
    "tiny_int8_onnx",
    "tiny_onnx",
]
