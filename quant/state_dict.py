"""What a quantized model's state dict says by its keys alone.

`torch.save({'state_dict': model.state_dict()}, …)` keeps no structure beside the weights. It need not: a quantizer's
scale is a buffer of the layer that it belongs to, a layer in floating point has none, and a BatchNorm that was folded
has no statistics. Which layers share a quantizer follows from the network. A concat whose consumers were all switched
to floating point keeps its scale; as in `quant_model`, it is no quantized layer then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from base.errors import CheckpointError
from quant.quantizer import DEFAULT_ENGINE
from quant.quantizer.base import SCALE
from quant.structure import (
    SECOND_OPERAND,
    LayerPlan,
    QuantizationStructure,
    model_fingerprint,
    without_lone_concats,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["structure_of_state", "without_scales_of_others"]

_QUANTIZER = re.compile(rf"(?P<layer>.+)\.(?P<slot>input_quantizer|weight_quantizer|second_quantizer)\.{SCALE}")
_LISTED = 3


def structure_of_state(model: nn.Module, state: Mapping[str, Any]) -> QuantizationStructure:
    """What is quantized in the model whose state dict this is.

    Args:
        model: The float model; it is left as it was.
        state: State dict of that model after `quant_model` or `quantize_ptq`. The engine of its quantizers leaves no
            trace in it and is taken to be the default one; both compute the same.

    Raises:
        CheckpointError: it holds scales of layers that `model` does not have, some of its BatchNorms are folded and
            some are not, or layers that read one tensor have different scales for it.
    """
    from quant.fusion.bn_fusion import foldable_pairs
    from quant.modules.quant_concat import expose_concats, hide_concats
    from quant.replace import quantizable_layers
    from quant.shared_inputs import find_shared_inputs

    quantized = {found["layer"] for key in state if (found := _QUANTIZER.fullmatch(str(key)))}
    norms = [f"{pair.path.rpartition('.')[0]}.{pair.norm_name}" for pair in foldable_pairs(model)]
    kept = [name for name in norms if f"{name}.running_mean" in state]
    if kept and len(kept) < len(norms):
        raise CheckpointError(
            f"its BatchNorms are folded but for {len(kept)} of {len(norms)} ({_listed(kept)}): fold all of them "
            "(quant.fuse_model_bn) or none before quantizing."
        )
    expose_concats(model)
    try:
        kinds = quantizable_layers(model)
        strangers = sorted(quantized - set(kinds))
        if strangers:
            raise CheckpointError(
                f"it quantizes {len(strangers)} layers that the model does not have ({_listed(strangers)}). Use the "
                "model config that it was quantized with."
            )
        shared = find_shared_inputs(model, [path for path in kinds if path in quantized])
    finally:
        hide_concats(model)
    for group in shared:
        _check_equal(group, state)
    return without_lone_concats(
        QuantizationStructure(
            engine=DEFAULT_ENGINE,
            fuse_bn=not kept,
            layers=tuple(LayerPlan(path, kind, path in quantized) for path, kind in kinds.items()),
            shared=shared,
            model_fingerprint=model_fingerprint(model),
        )
    )


def without_scales_of_others(state: Mapping[str, Any], structure: QuantizationStructure) -> dict[str, Any]:
    """The state dict without scales of layers that are in floating point by `structure`."""
    quantized = set(structure.quantized_paths())
    found = ((key, value, _QUANTIZER.fullmatch(str(key))) for key, value in state.items())
    return {key: value for key, value, scale in found if scale is None or scale["layer"] in quantized}


def _check_equal(group: tuple[str, ...], state: Mapping[str, Any]) -> None:
    keys = [f"{name}.{SCALE}" if name.endswith(SECOND_OPERAND) else f"{name}.input_quantizer.{SCALE}" for name in group]
    # What is missing, or no tensor, is found when the weights are loaded.
    scales = {key: state[key].tolist() for key in keys if hasattr(state.get(key), "tolist")}
    if len({str(scale) for scale in scales.values()}) > 1:
        raise CheckpointError(
            f"{', '.join(group)} read one tensor, but have different scales for it: "
            f"{', '.join(f'{scale}' for scale in scales.values())}."
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
