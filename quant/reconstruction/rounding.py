"""Adaptive rounding: which neighbour on the grid a weight takes is learned.

A weight w with scale s becomes s * (floor(w / s) + h) with h between 0 and 1. h is a sigmoid stretched beyond that
range and cut off,
so that it reaches both ends with a gradient that is not zero nearby, and a term that grows sharper with time drives
every h to an end (Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, 2020, equations 21 to
24).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quant.quantizer.base import INT8_MAX, INT8_MIN

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdaptiveRounding", "sharpness"]

# The stretched sigmoid runs from -0.1 to 1.1.
_STRETCH = 1.2
_SHIFT = -0.1
_SHARPNESS_START = 20.0
_SHARPNESS_END = 2.0
WARM_UP = 0.2


def sharpness(progress: float) -> float | None:
    """Exponent of the rounding term after a share `progress` of the steps; None during the warm-up, when there is none.

    It falls along a cosine from 20, at which only values near an end are drawn, to 2.
    """
    if progress < WARM_UP:
        return None
    share = (progress - WARM_UP) / (1.0 - WARM_UP)
    wave = 0.5 * (1.0 + float(torch.cos(torch.tensor(share * torch.pi, dtype=torch.float64))))
    return _SHARPNESS_END + (_SHARPNESS_START - _SHARPNESS_END) * wave


class AdaptiveRounding(nn.Module):
    """Takes the place of a weight quantizer while its rounding is learned.

    Attributes:
        logits: Parameter, shape of the weight; h is its stretched sigmoid.
    """

    lower: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, axis: int) -> None:
        """Starts at the weight itself: floor(w / s) + h is w / s.

        Args:
            weight: Float weight.
            scale: (channels,), of the grid; not changed.
            axis: Dimension of `weight` that `scale` runs along.
        """
        super().__init__()
        shape = [1] * weight.dim()
        shape[axis] = -1
        self.register_buffer("scale", scale.detach().clone().reshape(shape))
        # Beyond the grid's ends there is nothing to choose: the fraction of the nearest cell is kept.
        codes = (weight.detach() / self.scale).clamp(INT8_MIN, INT8_MAX)
        self.register_buffer("lower", codes.floor().clamp(max=INT8_MAX - 1))
        fraction = ((codes - self.lower - _SHIFT) / _STRETCH).clamp(1e-4, 1.0 - 1e-4)
        self.logits = nn.Parameter(torch.log(fraction / (1.0 - fraction)))

    def choice(self) -> Tensor:
        """h, between 0 (down) and 1 (up)."""
        return (torch.sigmoid(self.logits) * _STRETCH + _SHIFT).clamp(0.0, 1.0)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its present, soft rounding; `weight` itself is not used."""
        del weight
        return (self.lower + self.choice()) * self.scale

    def rounded(self) -> Tensor:
        """The weight with every choice made; on the grid."""
        with torch.no_grad():
            return (self.lower + (self.choice() >= 0.5)) * self.scale

    def undecided(self, exponent: float) -> Tensor:
        """Mean over the weights of 1 - |2h - 1| ** exponent: 0 where every choice is made, 1 where none is."""
        return (1.0 - (2.0 * self.choice() - 1.0).abs().pow(exponent)).mean()
