"""Concatenation as a module, in floating point and quantized, and the stock neck that uses it.

An integer concat only copies codes, so its inputs and its output must share one scale; with scales of their own an
engine inserts a conversion of every input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import nn

from base.lazy import require
from quant.modules.layer import QuantizedLayer
from quant.quantizer import DEFAULT_ENGINE, new_quantizer
from quant.quantizer.base import QuantizerSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Concat", "QuantConcat", "expose_concats", "hide_concats"]

_CHANNELS = 1


class Concat(nn.Module):
    """Concatenation along the channels; a network that concatenates through this module can have it quantized."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """[(N, C_i, H, W)] -> (N, sum of C_i, H, W)."""
        return torch.cat(list(inputs), dim=_CHANNELS)


class QuantConcat(QuantizedLayer):
    """Concatenation of tensors on one scale.

    Attributes:
        input_quantizer: Of all inputs; the result lies on its grid. It is its consumers' input quantizer.
    """

    def __init__(self, engine: str = DEFAULT_ENGINE) -> None:
        super().__init__()
        self.quantized = True
        self.input_quantizer = new_quantizer(QuantizerSpec(), engine)

    @classmethod
    def from_float(cls, module: nn.Module, engine: str = DEFAULT_ENGINE) -> Self:
        """The quantized concatenation of a `Concat`."""
        return cls(engine).train(module.training)

    def to_float(self) -> nn.Module:
        """A `Concat` again."""
        return Concat().train(self.training)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """[(N, C_i, H, W)] -> (N, sum of C_i, H, W)."""
        return torch.cat([self._quantized_input(x) for x in inputs], dim=_CHANNELS)


class _ConcatThroughModule(nn.Module):
    """mmdet3d's SECONDFPN, with its `torch.cat` replaced by the child `concat`."""

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps of the backbone -> [(N, C, H, W)]."""
        stock = cast(Any, self)
        assert len(x) == len(stock.in_channels)
        return [stock.concat([deblock(level) for deblock, level in zip(stock.deblocks, x, strict=True)])]


# Stock class -> its subclass; one of each, so that isinstance and copies work.
_SUBCLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def expose_concats(model: nn.Module) -> None:
    """Gives every stock neck of `model` that concatenates a child `concat` which does it; in place, idempotent."""
    for neck in list(_stock_necks(model)):
        if isinstance(neck, _ConcatThroughModule) or len(cast(Any, neck).deblocks) < 2:
            continue
        neck.__class__ = _subclass(type(neck))
        neck.concat = Concat().train(neck.training)


def _subclass(stock: type[nn.Module]) -> type[nn.Module]:
    if stock not in _SUBCLASSES:
        _SUBCLASSES[stock] = type(f"Quant{stock.__name__}", (_ConcatThroughModule, stock), {"__module__": __name__})
    return _SUBCLASSES[stock]


def __getattr__(name: str) -> type[nn.Module]:
    """`QuantSECONDFPN`, made when it is asked for: unpickling looks its class up here."""
    if name != "QuantSECONDFPN":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    necks = require("mmdet3d.models.necks", "to unpickle a quantized model")
    return _subclass(necks.SECONDFPN)


def hide_concats(model: nn.Module) -> None:
    """Undoes `expose_concats`."""
    for neck in list(_stock_necks(model)):
        if isinstance(neck, _ConcatThroughModule):
            del neck.concat
            neck.__class__ = type(neck).__bases__[1]


def _stock_necks(model: nn.Module) -> Iterator[nn.Module]:
    # A model that holds such a neck has imported its module.
    necks = sys.modules.get("mmdet3d.models.necks")
    if necks is not None:
        yield from (module for module in model.modules() if isinstance(module, necks.SECONDFPN))
