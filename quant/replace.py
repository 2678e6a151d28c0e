"""Replacement of float layers by quantized ones, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from base.errors import CheckpointError, ConfigError
from quant.fusion.bn_fusion import foldable_pairs
from quant.layer_names import named_by, select
from quant.modules.layer import LEFT_IN_FLOAT, QuantizedLayer
from quant.modules.quant_add import Add, QuantAdd
from quant.modules.quant_concat import Concat, QuantConcat, expose_concats, hide_concats
from quant.modules.quant_conv import QuantConv2d, QuantConvTranspose2d
from quant.modules.quant_linear import QuantLinear
from quant.quantizer import DEFAULT_ENGINE
from quant.shared_inputs import find_shared_inputs
from quant.structure import (
    SECOND_OPERAND,
    Kind,
    LayerPlan,
    QuantizationStructure,
    model_fingerprint,
    without_lone_concats,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DEFAULT_SCOPE",
    "apply_structure",
    "check_structure",
    "quant_conv_module",
    "quant_linear_module",
    "quant_model",
    "quantizable_layers",
    "unquant_model",
]

# All convolutions but the last one of each head branch, which is a plain convolution and no ConvModule: it is a
# fraction of a percent of the work, and its outputs are logits and metres.
DEFAULT_SCOPE = (
    "pts_backbone",
    "pts_neck",
    "pts_bbox_head.shared_conv",
    "pts_bbox_head.task_heads.*.*.*.conv",
)

_KIND_OF: dict[type[nn.Module], Kind] = {
    nn.Conv2d: "conv2d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.Linear: "linear",
    Concat: "concat",
    Add: "add",
}
_QUANTIZED: dict[Kind, type[QuantizedLayer]] = {
    "conv2d": QuantConv2d,
    "conv_transpose2d": QuantConvTranspose2d,
    "linear": QuantLinear,
    "concat": QuantConcat,
    "add": QuantAdd,
}
# mmcv's own Conv2d, ConvTranspose2d and Linear differ from torch's in what they do with empty tensors only.
_SAME_COMPUTATION = "mmcv.cnn.bricks.wrappers"


def quant_model(
    model: nn.Module,
    skip_names: Iterable[str] = (),
    *,
    include: Iterable[str] = DEFAULT_SCOPE,
    engine: str = DEFAULT_ENGINE,
    example_inputs: tuple[Tensor, ...] | None = None,
) -> QuantizationStructure:
    """Replaces layers of `model` by quantized ones, in place; their quantizers have no scale yet.

    A layer is quantized when `include` names it and `skip_names` does not. A concat also needs a quantized consumer:
    without one its integers would be turned back at once.

    Args:
        model: An mmdet3d CenterPoint, its `BackboneNeckHead`, or any model when `example_inputs` is given. Fold its
            BatchNorm first (`fuse_model_bn`), unless it is to be trained.
        skip_names: Layers to leave in floating point: module paths and patterns, see `quant.layer_names`.
        include: Layers to quantize, in the same way.
        engine: One of `quant.quantizer.ENGINES`.
        example_inputs: Arguments of `model`, to find out which layers share a tensor; None for a CenterPoint.

    Returns:
        What was done; also kept as `model.quantization_structure`.

    Raises:
        ConfigError: the model is quantized already, or a name fits no layer; the nearest are suggested.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise ConfigError("The model is quantized already; call unquant_model first.")
    skip_names, include = _listed(skip_names), _listed(include)
    done = False
    expose_concats(model)
    try:
        kinds = quantizable_layers(model)
        chosen = _chosen(kinds, include) - select(skip_names, kinds, "skip_names")
        if not chosen:
            raise ConfigError(
                f"Nothing of {type(model).__name__} is left to quantize: include={include}, skip_names={skip_names}."
            )
        groups = find_shared_inputs(model, [path for path in kinds if path in chosen], example_inputs)
        structure = without_lone_concats(
            QuantizationStructure(
                engine=engine,
                fuse_bn=not foldable_pairs(model),
                layers=tuple(LayerPlan(path, kind, path in chosen) for path, kind in kinds.items()),
                shared=groups,
                model_fingerprint=model_fingerprint(model),
            )
        )
        _replace(model, structure)
        done = True
    finally:
        if not done:
            unquant_model(model)
    return structure


def apply_structure(model: nn.Module, structure: QuantizationStructure) -> None:
    """Makes a float model quantized as `structure` says, in place; the quantizers have no scale yet.

    Raises:
        CheckpointError: the structure belongs to another model.
        ConfigError: the model is quantized already.
    """
    check_structure(model, structure)
    expose_concats(model)
    _replace(model, structure)


def check_structure(model: nn.Module, structure: QuantizationStructure) -> None:
    """Raises what `apply_structure` would; changes nothing.

    Raises:
        CheckpointError: the structure belongs to another model.
        ConfigError: the model is quantized already.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise ConfigError("The model is quantized already; call unquant_model first.")
    expose_concats(model)
    kinds = quantizable_layers(model)
    hide_concats(model)
    wrong = [layer.path for layer in structure.layers if kinds.get(layer.path) != layer.kind]
    if model_fingerprint(model) != structure.model_fingerprint or wrong:
        missing = f"; it lacks {', '.join(wrong[:3])}" if wrong else ""
        raise CheckpointError(
            f"The quantization belongs to another model than this {type(model).__name__}: the fingerprints of their "
            f"layers differ{missing}. Use the model config that it was quantized with."
        )


def unquant_model(model: nn.Module) -> None:
    """Puts float layers back in place of the quantized ones; parameters stay the same objects. In place."""
    for path, module in list(model.named_modules()):
        vars(module).pop(LEFT_IN_FLOAT, None)
        if isinstance(module, QuantizedLayer):
            _put(model, path, module.to_float())
    hide_concats(model)
    vars(model).pop("quantization_structure", None)


def quant_conv_module(module: nn.Module, engine: str = DEFAULT_ENGINE) -> QuantConv2d | QuantConvTranspose2d:
    """The quantized convolution of a float one, which stays as it is; they share their parameters.

    Raises:
        ConfigError: `module` is neither a Conv2d nor a ConvTranspose2d, or a grouped one of the latter.
    """
    if isinstance(module, nn.Conv2d):
        return QuantConv2d.from_float(module, engine)
    if isinstance(module, nn.ConvTranspose2d):
        return QuantConvTranspose2d.from_float(module, engine)
    raise ConfigError(f"A {type(module).__name__} is no convolution that can be quantized (Conv2d, ConvTranspose2d).")


def quant_linear_module(module: nn.Module, engine: str = DEFAULT_ENGINE) -> QuantLinear:
    """The quantized linear layer of a float one, which stays as it is; they share their parameters.

    Raises:
        ConfigError: `module` is no `nn.Linear`.
    """
    if not isinstance(module, nn.Linear):
        raise ConfigError(f"A {type(module).__name__} is no linear layer.")
    return QuantLinear.from_float(module, engine)


def quantizable_layers(model: nn.Module) -> dict[str, Kind]:
    """Path and kind of every layer that can be quantized, in the order of the modules.

    Raises:
        ConfigError: a layer occurs at more than one path: it would need the scales of several tensors.
    """
    kinds: dict[str, Kind] = {}
    occurrences: Counter[int] = Counter()
    for path, module in model.named_modules(remove_duplicate=False):
        kind = _kind(module)
        if kind is not None:
            kinds[path] = kind
            occurrences[id(module)] += 1
            if occurrences[id(module)] > 1:
                raise ConfigError(f"'{path}' is also at another path of the model; such layers cannot be quantized.")
    return kinds


def _kind(module: nn.Module) -> Kind | None:
    for layer_type, kind in _KIND_OF.items():
        if isinstance(module, layer_type):
            # A subclass with a forward of its own computes something else, which replacement would lose.
            same = type(module).forward is layer_type.forward or type(module).__module__ == _SAME_COMPUTATION
            return kind if same else None
    return None


def _listed(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise ConfigError(f"Layer names must be a list, got the string '{names}'. Write ['{names}'].")
    return sorted(names)


def _chosen(kinds: dict[str, Kind], include: list[str]) -> set[str]:
    """Layers that `include` names. The default scope also fits models without some of its parts."""
    chosen = select([pattern for pattern in include if pattern not in DEFAULT_SCOPE], kinds, "include")
    for pattern in include:
        chosen |= named_by(pattern, kinds)
    return chosen


def _replace(model: nn.Module, structure: QuantizationStructure) -> None:
    for layer in structure.layers:
        float_layer = model.get_submodule(layer.path)
        if not layer.quantized:
            setattr(float_layer, LEFT_IN_FLOAT, True)
        else:
            _put(model, layer.path, _QUANTIZED[layer.kind].from_float(float_layer, structure.engine))
    for first, *others in structure.shared:
        owner, slot = _slot(model, first)
        for other in others:
            other_owner, other_slot = _slot(model, other)
            setattr(other_owner, other_slot, getattr(owner, slot))
    device = next(model.parameters()).device
    for module in model.modules():
        if isinstance(module, (QuantConcat, QuantAdd)):
            module.to(device)
    cast(Any, model).quantization_structure = structure


def _slot(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The layer and the attribute in which a member of a shared group keeps its quantizer."""
    if name.endswith(SECOND_OPERAND):
        return model.get_submodule(name.removesuffix(SECOND_OPERAND)), SECOND_OPERAND[1:]
    return model.get_submodule(name), "input_quantizer"


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)
