"""The quantized linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from quant.modules.layer import WeightedLayer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["QuantLinear"]


class QuantLinear(WeightedLayer, nn.Linear):
    """`nn.Linear` on quantized input and weight."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return F.linear(self._quantized_input(input), self._quantized_weight(), self.bias)
