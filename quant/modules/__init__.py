"""Quantized layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from quant.modules.quant_add import QuantAdd
    from quant.modules.quant_concat import QuantConcat
    from quant.modules.quant_conv import QuantConv2d, QuantConvTranspose2d
    from quant.modules.quant_linear import QuantLinear

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
