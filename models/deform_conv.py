"""Deformable convolution in torch's own operators, for mmcv's DCN layers where mmcv has none or none that exports.

mmcv's operator is compiled, and its ONNX form is an operator of mmcv's own. Here the image is sampled where the offsets
say, once for each cell of the kernel, and a convolution of one cell is applied to each sample. That is the same sum,
has gradients, and exports as GridSample, which ONNX Runtime, OpenVINO and TensorRT-RTX take. The standard's own
DeformConv (operator set 19) is taken by ONNX Runtime alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["deform_conv2d", "install", "modulated_deform_conv2d"]


def install() -> None:
    """Puts these functions where mmcv's layers look for theirs; calling it again changes nothing.

    A compiled mmcv keeps its own operators, except while a model is exported.
    """
    from mmcv import _ext
    from mmcv.ops import deform_conv, modulated_deform_conv

    for module, name, ours in (
        (deform_conv, "deform_conv2d", deform_conv2d),
        (modulated_deform_conv, "modulated_deform_conv2d", modulated_deform_conv2d),
    ):
        theirs = getattr(module, name)
        if theirs is not ours and not hasattr(theirs, "compiled"):
            setattr(module, name, ours if getattr(_ext, "IS_STAND_IN", False) else _unless_exported(theirs, ours))


def _unless_exported(theirs: Any, ours: Any) -> Any:
    def apply(*args: Any) -> Tensor:
        result: Tensor = (ours if torch.onnx.is_in_onnx_export() else theirs)(*args)
        return result

    apply.compiled = theirs  # type: ignore[attr-defined]
    return apply


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """mmcv's function of that name: no bias, and `im2col_step` changes nothing.

    Args:
        x: (N, C, H, W).
        offset: (N, deform_groups * kH * kW * 2, H', W'), in cells of x; y before x.
        weight: (O, C / groups, kH, kW).

    Returns:
        (N, O, H', W'); beyond its border x is zero.
    """
    del bias, im2col_step
    return _convolve(x, offset, None, weight, _pair(stride), _pair(padding), _pair(dilation), groups, deform_groups)


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """mmcv's function of that name: `deform_conv2d` with a factor for each sample.

    Args:
        mask: (N, deform_groups * kH * kW, H', W').
        bias: (O,), or None.
    """
    result = _convolve(x, offset, mask, weight, _pair(stride), _pair(padding), _pair(dilation), groups, deform_groups)
    return result if bias is None else result + bias.view(1, -1, 1, 1)


def _convolve(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    channels, height, width = (int(size) for size in x.shape[1:])
    rows, columns = (int(size) for size in weight.shape[2:])
    out_height, out_width = (int(size) for size in offset.shape[2:])
    # Where the kernel's first cell lies on x for each cell of the result.
    top = (torch.arange(out_height, device=x.device) * stride[0] - padding[0]).to(x.dtype).view(1, -1, 1)
    left = (torch.arange(out_width, device=x.device) * stride[1] - padding[1]).to(x.dtype).view(1, 1, -1)
    parts = torch.split(x, channels // deform_groups, dim=1)
    cells = rows * columns
    total: Tensor | None = None
    for cell in range(cells):
        row, column = divmod(cell, columns)
        samples = []
        for group, part in enumerate(parts):
            at = group * cells + cell
            y = offset[:, 2 * at] + (top + row * dilation[0])
            here = offset[:, 2 * at + 1] + (left + column * dilation[1])
            grid = torch.stack([_normalized(here, width), _normalized(y, height)], dim=-1)
            # With corners aligned, -1 and 1 are the centres of the first and the last cell.
            sample = F.grid_sample(part, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
            samples.append(sample if mask is None else sample * mask[:, at : at + 1])
        taken = samples[0] if len(samples) == 1 else torch.cat(samples, dim=1)
        term = F.conv2d(taken, weight[:, :, row : row + 1, column : column + 1], groups=groups)
        total = term if total is None else total + term
    assert total is not None
    return total


def _normalized(position: Tensor, size: int) -> Tensor:
    """Cells to grid_sample's -1 to 1."""
    if size == 1:
        raise ValueError("a deformable convolution needs at least two cells along each axis")
    return position * (2 / (size - 1)) - 1


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
