"""The yaw convention of Autoware's node, folded into the weights of the head.

mmdet3d's head gives `dim = [l, w, h]` and `rot = [sin t, cos t]`, with t counter-clockwise from +x. The node decodes
`[w, l, h] = exp(dim)` and `yaw = atan2(rot[0], rot[1])`, clockwise from +y, which is -t - pi/2. With
sin(-t - pi/2) = -cos t and cos(-t - pi/2) = -sin t the wanted channels are `[-cos t, -sin t]`: a permutation
and a change of sign of the last convolution's output channels. Applied to its weights the conversion costs
nothing at run time and is exact to the last bit. Where those layers are quantized, the scales of their output channels
move along; of a weight at the code -128, which has no negative, a step is lost.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, cast

from base.errors import ExportError

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec

__all__ = ["CONVERSION", "fold_rot_y_axis_reference", "last_convolution"]

# Head -> (source channel, factor) of each output channel.
CONVERSION: dict[str, tuple[tuple[int, float], ...]] = {
    "dim": ((1, 1.0), (0, 1.0), (2, 1.0)),
    "rot": ((1, -1.0), (0, -1.0)),
}


def fold_rot_y_axis_reference(model: nn.Module, spec: ModelSpec) -> tuple[nn.Module, ModelSpec]:
    """A copy of `model` whose `dim` is [w, l, h] and whose `rot` is [-cos, -sin], and the specification that says so.

    Raises:
        ExportError: the model is converted already, lacks a head, or a head does not end in a convolution of the
            expected width.
    """
    if spec.rot_y_axis_reference:
        raise ExportError(f"Model '{spec.name}' has the y-axis rotation reference already; folding it again undoes it.")
    converted = copy.deepcopy(model)
    for heads in cast(Any, converted).pts_bbox_head.task_heads:
        # A head with deformable convolutions has its branches one level below.
        _fold(getattr(heads, "task_head", heads))
    return converted, dataclasses.replace(spec, rot_y_axis_reference=True)


def _fold(heads: Any) -> None:
    """Of one task, in place."""
    import torch

    for name, rows in CONVERSION.items():
        convolution = last_convolution(heads, name, len(rows))
        sources = [source for source, _ in rows]
        factors = torch.tensor([factor for _, factor in rows], dtype=convolution.weight.dtype)
        with torch.no_grad():
            convolution.weight.copy_(convolution.weight[sources] * factors[:, None, None, None])
            if convolution.bias is not None:
                convolution.bias.copy_(convolution.bias[sources] * factors)
            quantizer = getattr(convolution, "weight_quantizer", None)
            if quantizer is not None:
                quantizer.set_scale(quantizer.scale[sources].clone())


def last_convolution(heads: Any, name: str, channels: int) -> Any:
    """The convolution that a branch ends in.

    Args:
        heads: A task's branches.
        name: Of the branch.
        channels: That it must give.

    Raises:
        ExportError: there is none, or it gives another number of channels.
    """
    from torch import nn

    branch = getattr(heads, name, None)
    convolutions = (
        [module for module in branch.modules() if isinstance(module, nn.Conv2d)] if branch is not None else []
    )
    if not convolutions or convolutions[-1].out_channels != channels:
        found = f"{convolutions[-1].out_channels} channels" if convolutions else "no convolution"
        raise ExportError(
            f"Cannot fold the y-axis rotation reference: head '{name}' ends in {found}, expected a convolution with "
            f"{channels}. Export without rot_y_axis_reference."
        )
    return convolutions[-1]
