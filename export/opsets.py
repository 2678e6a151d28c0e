"""ONNX operator sets that this project writes."""

from __future__ import annotations

__all__ = ["DEFAULT_OPSET", "GRID_SAMPLE_OPSET", "INT8_OPSET", "MAX_OPSET", "MIN_OPSET"]

MIN_OPSET = 13
"""The first in which QuantizeLinear has an axis."""
MAX_OPSET = 20
"""The last that torch's TorchScript exporter writes."""
DEFAULT_OPSET = 17
GRID_SAMPLE_OPSET = 16
"""The first with GridSample, of which deformable convolutions are made."""
INT8_OPSET = 19
"""The first in which scales may be FP16, as the rest of a quantized graph is."""
