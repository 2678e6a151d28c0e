"""Quantized convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

import torch.nn.functional as F
from torch import nn

from base.errors import ConfigError
from quant.modules.layer import WeightedLayer
from quant.quantizer import DEFAULT_ENGINE

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["QuantConv2d", "QuantConvTranspose2d"]


class QuantConv2d(WeightedLayer, nn.Conv2d):
    """`nn.Conv2d` on quantized input and weight; any groups, padding and dilation."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        result: Tensor = self._conv_forward(self._quantized_input(input), self._quantized_weight(), self.bias)
        return result


class QuantConvTranspose2d(WeightedLayer, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` on quantized input and weight. Its weight is (in, out, h, w): output channels are axis 1."""

    weight_axis = 1

    @classmethod
    def from_float(cls, module: nn.Module, engine: str = DEFAULT_ENGINE) -> Self:
        """The quantized layer of a float one.

        Raises:
            ConfigError: the convolution is grouped.
        """
        groups = getattr(module, "groups", 1)
        if groups != 1:
            raise ConfigError(
                f"A transposed convolution with {groups} groups cannot be quantized by output channel: axis 1 of its "
                "weight is shared by the groups. Leave the layer out (skip_names, --skip-layers)."
            )
        return super().from_float(module, engine)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        x, weight = self._quantized_input(input), self._quantized_weight()
        # torch annotates its own tuples of ints as lists and strings.
        stock = cast(Any, self)
        padding = self._output_padding(
            x, output_size, stock.stride, stock.padding, stock.kernel_size, 2, stock.dilation
        )
        return F.conv_transpose2d(
            x, weight, self.bias, stock.stride, stock.padding, padding, self.groups, stock.dilation
        )
