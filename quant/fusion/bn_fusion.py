"""Folding of BatchNorm into the layer before it.

In evaluation mode BatchNorm is y = (x - mean) * gamma / sqrt(var + eps) + beta, channel by channel, and x = W u + b, so
y = (W * k) u + (b - mean) * k + beta with k = gamma / sqrt(var + eps). Computed in float64 and rounded once.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from base.errors import ConfigError
from quant.quantizer.base import Quantizer

__all__ = ["foldable_pairs", "fuse_model_bn"]

# What a BatchNorm can be folded into.
_Foldable = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


class _Pair(NamedTuple):
    """A layer and the BatchNorm that reads its output, each by the module that holds it and its name there."""

    path: str
    layer: _Foldable
    norm: _BatchNorm
    norm_owner: nn.Module
    norm_name: str


def fuse_model_bn(model: nn.Module) -> nn.Module:
    """Folds every BatchNorm that follows a convolution or a linear layer into it, in place; returns `model`.

    Found by structure: neighbours in an `nn.Sequential`, `conv` and `norm` of mmcv's ConvModule, `linear` and `norm` of
    mmdet3d's PFNLayer. The BatchNorm becomes an `nn.Identity`, so that paths and indices stay; the layer keeps the key
    of its weight and gets a bias. A second call finds nothing to do. Where the layer is quantized already, its weight's
    scales are multiplied along.

    Raises:
        ConfigError: `model` is in training mode, a BatchNorm has no running statistics, or a layer is used more than
            once (its uses would need different weights).
    """
    pairs = foldable_pairs(model)
    paths = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for path, layer, norm in ((pair.path, pair.layer, pair.norm) for pair in pairs):
        if layer.training or norm.training:
            raise ConfigError(
                f"BatchNorm after '{path}' is in training mode: its statistics still change. Call model.eval() first."
            )
        if norm.running_mean is None or norm.running_var is None:
            raise ConfigError(
                f"BatchNorm after '{path}' keeps no running statistics (track_running_stats=False): it depends on the "
                "batch and cannot be folded."
            )
        if paths[id(layer)] > 1 or paths[id(norm)] > 1:
            raise ConfigError(f"'{path}' or its BatchNorm occurs more than once in the model and cannot be folded.")
    for pair in pairs:
        _fold(pair.layer, pair.norm)
        setattr(pair.norm_owner, pair.norm_name, nn.Identity().train(pair.norm.training))
    return model


def foldable_pairs(model: nn.Module) -> list[_Pair]:
    """What `fuse_model_bn` would fold, in the order of the modules."""
    return [pair for path, module in model.named_modules() for pair in _pairs_in(path, module)]


def _pairs_in(path: str, module: Any) -> Iterator[_Pair]:
    prefix = f"{path}." if path else ""
    neighbours: list[tuple[str, str]] = []
    if isinstance(module, nn.Sequential):
        # named_children leaves out what occurs twice, and would make neighbours of what is none.
        neighbours = list(itertools.pairwise(module._modules))
    elif _is(module, "mmcv.cnn", "ConvModule"):
        if module.with_norm and module.order.index("norm") == module.order.index("conv") + 1:
            neighbours = [("conv", module.norm_name)]
    elif _is(module, "mmdet3d.models.voxel_encoders.utils", "PFNLayer"):
        neighbours = [("linear", "norm")]
    for name, norm_name in neighbours:
        layer, norm = getattr(module, name), getattr(module, norm_name)
        if isinstance(layer, _Foldable) and isinstance(norm, _BatchNorm) and norm.num_features == _outputs(layer):
            yield _Pair(prefix + name, layer, norm, module, norm_name)


def _is(module: nn.Module, package: str, name: str) -> bool:
    """Whether `module` is an instance of a class whose package is only imported where it is used."""
    imported = sys.modules.get(package)
    return imported is not None and isinstance(module, getattr(imported, name))


def _outputs(layer: _Foldable) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


@torch.no_grad()
def _fold(layer: _Foldable, norm: _BatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    shift = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean.double()
    bias = shift * gain
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    dtype = layer.weight.dtype
    layer.weight.copy_((layer.weight.double() * _over_outputs(gain, layer)).to(dtype))
    quantizer = getattr(layer, "weight_quantizer", None)
    if isinstance(quantizer, Quantizer) and quantizer.is_calibrated:
        quantizer.set_scale(quantizer.scale.double() * gain.abs())
    if layer.bias is None:
        layer.bias = nn.Parameter(bias.to(dtype), requires_grad=layer.weight.requires_grad)
    else:
        layer.bias.copy_(bias.to(dtype))


def _over_outputs(gain: Tensor, layer: _Foldable) -> Tensor:
    """One factor for each output channel, shaped to multiply the layer's weight."""
    if isinstance(layer, nn.ConvTranspose2d):
        # (in, out / groups, h, w): group g owns the g-th share of the inputs and of the outputs.
        by_group = gain.reshape(layer.groups, 1, -1)
        share = layer.in_channels // layer.groups
        return by_group.expand(-1, share, -1).reshape(layer.in_channels, -1, 1, 1)
    return gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
