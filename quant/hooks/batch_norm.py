"""BatchNorm that stays in the network while it is fine-tuned, and what becomes of it afterwards."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from quant.fusion.bn_fusion import foldable_pairs, fuse_model_bn
from quant.modules.layer import WeightedLayer
from quant.quantizer.base import INT8_MAX, INT8_MIN

if TYPE_CHECKING:
    from torch import Tensor

    from quant.structure import QuantizationStructure

__all__ = ["BN_MODES", "fold_trained_bn", "freeze_bn_"]

BN_MODES = ("fold", "freeze", "train")


def freeze_bn_(model: nn.Module) -> None:
    """Fixes the statistics and the parameters of every BatchNorm, in place."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)


@torch.no_grad()
def fold_trained_bn(model: nn.Module, structure: QuantizationStructure) -> QuantizationStructure:
    """Folds BatchNorm behind quantized layers, in place, and keeps the integers of their weights.

    Folding multiplies an output channel by a factor k, and with it the channel's scale by |k|: the codes that training
    ended with stay as they are, up to the sign of k. Only the rounding of the new scale to eight bits changes a value,
    by at most 0.4 %.

    Returns:
        The structure of the folded model, which is left in evaluation mode.
    """
    model.eval()
    layers = [pair.layer for pair in foldable_pairs(model) if isinstance(pair.layer, WeightedLayer)]
    calibrated = [layer for layer in layers if layer.weight_quantizer.is_calibrated]
    codes = [_codes(layer.weight / _along(layer.weight_quantizer.scale, layer)) for layer in calibrated]
    fuse_model_bn(model)
    for layer, code in zip(calibrated, codes, strict=True):
        # The rounding of a scale must not push a weight onto its neighbour's code.
        layer.weight.copy_(torch.sign(layer.weight) * code.abs() * _along(layer.weight_quantizer.scale, layer))
    return dataclasses.replace(structure, fuse_bn=True)


def _codes(weight_in_steps: Tensor) -> Tensor:
    return torch.round(weight_in_steps).clamp(INT8_MIN, INT8_MAX)


def _along(scale: Tensor, layer: WeightedLayer) -> Tensor:
    return scale.double().reshape(
        [-1 if dim == layer.weight_axis else 1 for dim in range(cast(nn.Parameter, layer.weight).dim())]
    )
