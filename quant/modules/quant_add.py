"""Addition as a module, in floating point and quantized: the skip connections of a residual network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from torch import nn

from quant.modules.layer import QuantizedLayer
from quant.quantizer import DEFAULT_ENGINE, new_quantizer
from quant.quantizer.base import Quantizer, QuantizerSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Add", "QuantAdd"]


class Add(nn.Module):
    """`first + second`; a network that adds through this module can have the addition quantized."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two tensors that broadcast -> their sum."""
        return first + second


class QuantAdd(QuantizedLayer):
    """Sum of two quantized tensors, each on a scale of its own: the integer kernels rescale while they add.

    Attributes:
        input_quantizer: Of the first operand.
        second_quantizer: Of the second.
    """

    second_quantizer: Quantizer

    def __init__(self, engine: str = DEFAULT_ENGINE) -> None:
        super().__init__()
        self.quantized = True
        self.input_quantizer = new_quantizer(QuantizerSpec(), engine)
        self.second_quantizer = new_quantizer(QuantizerSpec(), engine)

    @classmethod
    def from_float(cls, module: nn.Module, engine: str = DEFAULT_ENGINE) -> Self:
        """The quantized addition of an `Add`."""
        return cls(engine).train(module.training)

    def to_float(self) -> nn.Module:
        """An `Add` again."""
        return Add().train(self.training)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two tensors that broadcast -> their sum."""
        if not self.quantized:
            return first + second
        result: Tensor = self.input_quantizer(first) + self.second_quantizer(second)
        return result
