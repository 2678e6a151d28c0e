"""Quantized layers."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = ["QuantAdd", "QuantConcat", "QuantConv2d", "QuantConvTranspose2d", "QuantLinear"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "QuantAdd": "quant_add",
        "QuantConcat": "quant_concat",
        "QuantConv2d": "quant_conv",
        "QuantConvTranspose2d": "quant_conv",
        "QuantLinear": "quant_linear",
    },
)
