"""Bias correction: the mean error that quantization adds to every output channel is taken out of the bias.

Rounding moves the mean of a channel, most of all in the empty parts of the bird's-eye view, where every cell has the
same value
and therefore the same error, and a layer behind it sees a constant that the float network does not have (Nagel et al.,
Data-Free Quantization through Weight Equalization and Bias Correction, 2019, section 4.2, the variant with data).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from base.errors import ConfigError
from base.progress import progress
from quant.fixed_threads import fixed_threads
from quant.reconstruction.blocks import CANVAS, Block, partition, quantized_layers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["correct_biases", "correct_block"]

_BATCH = 2


def correct_biases(model: nn.Module, reference: nn.Module, canvases: Tensor, *, threads: int = 1) -> dict[str, float]:
    """Adds to every quantized layer's bias the mean of the float layer's output minus the quantized one's, in place.

    Layer by layer from the input on: a layer's quantized input comes from layers that are corrected already. Outputs
    are
    summed as they come; what is kept are the activations at one depth of the network.

    Args:
        model: Quantized and calibrated.
        reference: The same model in floating point.
        canvases: (N, C, H, W): whole canvases or windows of them.
        threads: Of torch meanwhile; a fixed number, so that the result repeats.

    Returns:
        Layer path -> largest correction of a channel.

    Raises:
        ConfigError: a quantized layer has no bias; fold BatchNorm first.
    """
    paths = {id(layer): path for path, layer in quantized_layers(model)}
    missing = [path for path, layer in quantized_layers(model) if layer.bias is None]
    if missing:
        raise ConfigError(
            f"Bias correction needs a bias in every quantized layer; '{missing[0]}' has none. Fold BatchNorm "
            "(fuse_bn=True)."
        )
    corrections: dict[str, float] = {}
    pieces = list(zip(partition(model, layers_per_block=1), partition(reference, layers_per_block=1), strict=True))
    quantized: dict[str, Tensor] = {CANVAS: canvases}
    floating: dict[str, Tensor] = {CANVAS: canvases}
    with fixed_threads(threads), torch.no_grad():
        for index, (piece, twin) in enumerate(progress(pieces, "correcting biases", unit="layer")):
            shifts, outputs = correct_block(piece, twin, quantized, floating)
            by_name = dict(quantized_layers(piece.module))
            corrections.update({paths[id(by_name[name])]: value for name, value in shifts.items()})
            floating.update(outputs)
            quantized.update(_run(piece, quantized, {})[1])
            needed = {name for later, _ in pieces[index + 1 :] for name in later.inputs}
            for tensors in (floating, quantized):
                for name in set(tensors) - needed:
                    del tensors[name]
    return corrections


@torch.no_grad()
def correct_block(
    block: Block, twin: Block, quantized: Mapping[str, Tensor], floating: Mapping[str, Tensor]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Corrects the layers of one block, one after another, in place.

    Args:
        block: Of the quantized model; every quantized layer has a bias.
        twin: The same of the float model.
        quantized: The block's inputs as the quantized model makes them, all frames in one tensor each.
        floating: As the float model makes them.

    Returns:
        Path in the block -> largest correction of a channel; and the outputs of the float block.
    """
    expected, outputs = _run(twin, floating, _watched(twin, block))
    corrections: dict[str, float] = {}
    for name, layer in quantized_layers(block.module):
        means, _ = _run(block, quantized, {name: layer})
        shift = (expected[name] - means[name]).to(layer.bias)
        layer.bias.add_(shift)
        corrections[name] = float(shift.abs().max())
    return corrections, outputs


def _watched(twin: Block, piece: Block) -> dict[str, Any]:
    """The float layers at the places of the quantized ones."""
    return {name: twin.module.get_submodule(name) for name, _ in quantized_layers(piece.module)}


def _run(
    block: Block, tensors: Mapping[str, Tensor], layers: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Runs all canvases: the mean of the outputs of `layers` by channel, float64, and the outputs of the block."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watcher(name: str) -> Any:
        def watch(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            total = output.double().sum(dim=(0, 2, 3))
            sums[name] = sums[name] + total if name in sums else total
            counts[name] = counts.get(name, 0) + output.numel() // output.shape[1]

        return watch

    handles = [layer.register_forward_hook(watcher(name)) for name, layer in layers.items()]
    parts: dict[str, list[Tensor]] = {name: [] for name in block.outputs}
    device = next(block.module.parameters(), torch.empty(0)).device
    count = len(tensors[block.inputs[0]])
    try:
        for batch in torch.split(torch.arange(count), _BATCH):
            made = block.run({name: tensors[name][batch].to(device) for name in block.inputs})
            for name, items in parts.items():
                items.append(made[name].cpu())
    finally:
        for handle in handles:
            handle.remove()
    outputs = {name: torch.cat(items) for name, items in parts.items()}
    return {name: total / counts[name] for name, total in sums.items()}, outputs
