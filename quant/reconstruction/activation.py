"""An activation quantizer whose scale is learned, by the straight-through estimate of the rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from quant.quantizer.base import INT8_MAX, INT8_MIN

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LearnedScale"]


class _FakeQuantize(torch.autograd.Function):
    """s * clamp(round(x / s)): within the range its derivative by x is taken as 1, by s as (y - x) / s; beyond, 0 and
    y / s.

    Esser et al., Learned Step Size Quantization, 2020, equation 3.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        y = torch.fake_quantize_per_tensor_affine(x, float(scale), 0, INT8_MIN, INT8_MAX)
        ctx.save_for_backward(x, y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, y, scale = ctx.saved_tensors
        inside = (x >= INT8_MIN * scale) & (x <= INT8_MAX * scale)
        passed = gradient * inside
        by_scale = ((gradient * y).sum() - (passed * x).sum()) / scale if ctx.needs_input_grad[1] else None
        return passed, by_scale


class LearnedScale(nn.Module):
    """Takes the place of a per-tensor quantizer while its scale is learned.

    Attributes:
        start: Buffer, the scale it starts with.
        log_ratio: Parameter, scalar: logarithm of the present scale over `start`.
    """

    start: Tensor

    def __init__(self, scale: Tensor, *, trainable: bool = True) -> None:
        super().__init__()
        self.register_buffer("start", scale.detach().clone())
        self.log_ratio = nn.Parameter(torch.zeros_like(self.start), requires_grad=trainable)

    @property
    def scale(self) -> Tensor:
        """The present scale."""
        return self.start * self.log_ratio.exp()

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid of the present scale."""
        y: Tensor = _FakeQuantize.apply(x, self.scale)  # type: ignore[no-untyped-call]
        return y
