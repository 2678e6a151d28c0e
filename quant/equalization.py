"""Channel equalization: the channels of an activation are brought to one range before they share one scale.

A factor on a channel passes through a ReLU unchanged, so it can move from a layer's output to the weights of the
layers that read
it, and the float network stays the same function (Nagel et al., Data-Free Quantization through Weight Equalization
and Bias Correction, 2019, section 4.1). Output channels of a weight have scales of their own and do not mind; an
activation has
one scale for all channels, and in the sparse bird's-eye view the quiet channels, which carry the empty background, are
those that a
loud one drowns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import nn

from base.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ChannelRanges", "EqualizationSite", "equalization_sites"]

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
# A factor moves so much of a channel's range out of the activation, and takes so much account of the weights that
# it moves to: they have one scale for all input channels, and a quiet channel's weights must not drown in its loud
# neighbours'. Between leveling the activation (1, 0) and sharing the ranges equally (1/2, 1/2); found on single layers
# of the demo model, where it leaves the least error of activation and weight together.
_ACTIVATION_POWER = 0.75
_WEIGHT_POWER = 0.25
# A channel quieter than this share of the loudest is taken to be as loud as that: it may be dead in the calibration
# frames only.
_QUIETEST = 1e-3


@dataclass(frozen=True, eq=False)
class EqualizationSite:
    """A tensor between convolutions, with a ReLU before it.

    Attributes:
        path: Of the module that makes it.
        producer: Its convolution.
        activation: The ReLU behind it, whose output the consumers read.
        consumers: Convolutions that read it, each with the first of its input channels that this tensor is.
    """

    path: str
    producer: nn.Module
    activation: nn.Module
    consumers: tuple[tuple[nn.Module, int], ...]


def equalization_sites(model: nn.Module) -> tuple[EqualizationSite, ...]:
    """Where a CenterPoint of SECOND, SECONDFPN and CenterHead can be equalized, in the order in which it runs.

    A place with something else than folded BatchNorm and ReLU between two convolutions is left out.
    """
    parts = cast(Any, model)
    stages = [_chain(stage) for stage in parts.pts_backbone.blocks]
    decks = [_chain(deblock) for deblock in parts.pts_neck.deblocks]
    shared = _chain(_children_of_conv_module(parts.pts_bbox_head.shared_conv))
    tasks = list(parts.pts_bbox_head.task_heads)
    branches = [
        _chain(_children_of_conv_module(branch[0])) if not isinstance(branch[0], nn.Conv2d) else [(branch[0], None)]
        for task in tasks
        for branch in (getattr(task, name) for name in getattr(task, "heads", ()))
    ]
    found: list[tuple[nn.Module, nn.Module | None, list[tuple[nn.Module, int]]]] = []
    for index, stage in enumerate(stages):
        found += [(conv, relu, [(following, 0)]) for (conv, relu), (following, _) in itertools.pairwise(stage)]
        readers = [(chain[0][0], 0) for chain in (*stages[index + 1 : index + 2], *decks[index : index + 1])]
        found.append((*stage[-1], readers))
    first = 0
    for deck in decks:
        conv, relu = deck[-1]
        found.append((conv, relu, [(shared[0][0], first)]))
        first += cast(Any, conv).out_channels
    # A deformable convolution reads where another layer says, which reads the same tensor.
    if all(hasattr(task, "heads") for task in tasks):
        found.append((*shared[-1], [(branch[0][0], 0) for branch in branches]))
    names = {id(module): path for path, module in model.named_modules()}
    return tuple(
        EqualizationSite(names[id(conv)], conv, relu, tuple(readers))
        for conv, relu, readers in found
        if relu is not None
    )


class ChannelRanges:
    """Largest magnitude of every channel at the sites of a model, over what the model runs while this is entered.

    with ChannelRanges(model) as ranges:
        for canvas in canvases:
            network(canvas)
    ranges.equalize()
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepares for a float CenterPoint with BatchNorm folded."""
        self.sites = equalization_sites(model)
        self._peaks: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._handles = [site.activation.register_forward_hook(self._watcher(site)) for site in self.sites]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def equalize(self) -> None:
        """Moves a factor of every channel from its layer's output to the weights that read it, in place.

        Raises:
            DataError: nothing was run, or an activation is NaN or infinite.
        """
        for site in self.sites:
            peak = self._peaks.get(id(site))
            if peak is None:
                raise DataError("Zero calibration frames: nothing was run to equalize channels on.")
            if not bool(peak.isfinite().all()):
                raise DataError(
                    f"Activations behind '{site.path}' are NaN or infinite. Check the calibration frames and the "
                    "checkpoint."
                )
        for group in _sharing_a_scale(self.sites):
            peaks = [self._peaks[id(site)] for site in group]
            quietest = _QUIETEST * float(torch.cat(peaks).max().clamp_min(1e-12))
            wanted = [_factors(site, peak.clamp_min(quietest)) for site, peak in zip(group, peaks, strict=True)]
            largest = torch.cat(wanted).max()
            for site, factors in zip(group, wanted, strict=True):
                # Powers of two: products and quotients are exact, and the float model's outputs stay what they were.
                _move(site, torch.exp2((factors / largest).log2().round()))

    def _watcher(self, site: EqualizationSite) -> Any:
        def watch(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            largest = output.detach().abs().amax(dim=(0, 2, 3)).cpu()
            before = self._peaks.get(id(site))
            self._peaks[id(site)] = largest if before is None else torch.maximum(before, largest)

        return watch


def _sharing_a_scale(sites: Sequence[EqualizationSite]) -> list[list[EqualizationSite]]:
    """Sites by the tensor that their consumers read: the parts of a concatenation lie on one scale."""
    groups: dict[int, list[EqualizationSite]] = {}
    for site in sites:
        groups.setdefault(id(site.consumers[0][0]), []).append(site)
    return list(groups.values())


def _factors(site: EqualizationSite, peak: Tensor) -> Tensor:
    """What each channel would like to be divided by."""
    columns = []
    for consumer, first in site.consumers:
        weight = cast(Any, consumer).weight.detach().cpu()
        axis = _input_axis(consumer)
        others = [dim for dim in range(weight.dim()) if dim != axis]
        columns.append(weight.narrow(axis, first, len(peak)).abs().amax(dim=others))
    strength = torch.stack(columns).amax(dim=0)
    strength = strength.clamp_min(_QUIETEST * float(strength.max().clamp_min(1e-12)))
    return peak.pow(_ACTIVATION_POWER) / strength.pow(_WEIGHT_POWER)


@torch.no_grad()
def _move(site: EqualizationSite, factors: Tensor) -> None:
    """Divides the producer's outputs by `factors` and multiplies the consumers' weights with them."""
    producer = cast(Any, site.producer)
    factors = factors.to(producer.weight.device)
    producer.weight.div_(_along(factors, producer, output=True))
    if producer.bias is not None:
        producer.bias.div_(factors)
    for consumer, first in site.consumers:
        weight = cast(Any, consumer).weight
        weight.narrow(_input_axis(consumer), first, len(factors)).mul_(_along(factors, consumer, output=False))


def _input_axis(layer: nn.Module) -> int:
    return 0 if isinstance(layer, nn.ConvTranspose2d) else 1


def _along(factors: Tensor, layer: nn.Module, *, output: bool) -> Tensor:
    """Factors shaped to multiply a weight along its output or its input channels."""
    shape = [1] * 4
    shape[1 - _input_axis(layer) if output else _input_axis(layer)] = -1
    return factors.reshape(shape)


def _children_of_conv_module(module: nn.Module) -> Iterable[nn.Module]:
    """Of mmcv's ConvModule in the order in which they run."""
    parts = cast(Any, module)
    norm = [parts.norm] if parts.with_norm else []
    return [parts.conv, *norm, *([parts.activate] if parts.with_activation else [])]


def _chain(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, nn.Module | None]]:
    """Convolutions in order, each with the ReLU behind it; None where a factor cannot pass to the next one."""
    chain: list[tuple[nn.Module, nn.Module | None]] = []
    blocked = False
    for module in modules:
        if isinstance(module, _CONVOLUTIONS):
            chain.append((module, None))
            blocked = cast(Any, module).groups != 1
        elif isinstance(module, nn.ReLU) and chain and not blocked:
            chain[-1] = (chain[-1][0], module)
        elif not isinstance(module, nn.Identity):
            blocked = True
            if chain:
                chain[-1] = (chain[-1][0], None)
    return chain
