"""What of a model is quantized, and how: all that is needed to rebuild a quantized model from a float one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from base.errors import CheckpointError, ConfigError
from base.messages import shown
from base.parsing import parse
from quant.forms import StructureForm
from quant.quantizer import ENGINES

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "KINDS",
    "SECOND_OPERAND",
    "Kind",
    "LayerPlan",
    "QuantizationStructure",
    "as_switched",
    "model_fingerprint",
    "quantization_structure",
    "scales_fingerprint",
    "without_lone_concats",
]

Kind = Literal["conv2d", "conv_transpose2d", "linear", "concat", "add"]
KINDS: tuple[Kind, ...] = ("conv2d", "conv_transpose2d", "linear", "concat", "add")

# Ends the name of an addition's second operand in a shared group.
SECOND_OPERAND = ".second_quantizer"

_VERSION = 1
_REMEDY = "Quantize the float checkpoint again."


@dataclass(frozen=True)
class LayerPlan:
    """One layer that can be quantized.

    Attributes:
        path: Of the module in the model.
        kind: What it computes.
        quantized: Whether it is quantized; else it stays in floating point.
    """

    path: str
    kind: Kind
    quantized: bool


@dataclass(frozen=True)
class QuantizationStructure:
    """What of a model is quantized, and how.

    Attributes:
        engine: Of its quantizers.
        fuse_bn: Whether BatchNorm was folded first.
        layers: Every layer that can be quantized, in the order of the modules.
        shared: Groups of layers that read one tensor and use one quantizer. A concat stands in the group of its
            consumers: its inputs and its output are on their scale. `path.second_quantizer` is an addition's second
            operand.
        model_fingerprint: Of the float model; see `model_fingerprint`.
    """

    engine: str
    fuse_bn: bool
    layers: tuple[LayerPlan, ...]
    shared: tuple[tuple[str, ...], ...]
    model_fingerprint: str

    def quantized_paths(self) -> tuple[str, ...]:
        """Paths of the quantized layers."""
        return tuple(layer.path for layer in self.layers if layer.quantized)

    def to_json(self) -> str:
        """One line; equal structures give equal text."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str = "quantization structure") -> QuantizationStructure:
        """The structure that `to_json` wrote.

        Raises:
            CheckpointError: the text is no such structure, or of another version; the message names `source`.
        """
        try:
            values = json.loads(text)
            whole = dict(values)
            version = values.pop("version")
            if version != _VERSION:
                raise CheckpointError(
                    f"{source}: quantization structure of version {version}, this release reads {_VERSION}. {_REMEDY}"
                )
            layers = tuple(LayerPlan(**layer) for layer in values.pop("layers"))
            shared = tuple(tuple(group) for group in values.pop("shared"))
            structure = cls(layers=layers, shared=shared, **values)
        # ValueError and RecursionError: no JSON, numbers of thousands of digits, thousands of lists inside each other.
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{source}: broken quantization structure: {error!r}.") from error
        try:
            parse(StructureForm, whole, file="quantization", error=CheckpointError, remedy=_REMEDY)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: broken quantization structure: {error}") from error
        unknown = sorted({layer.kind for layer in layers} - set(KINDS))
        if unknown:
            raise CheckpointError(f"{source}: unknown kinds of layers {unknown}; known: {', '.join(KINDS)}.")
        if structure.engine not in ENGINES:
            raise CheckpointError(f"{source}: unknown engine '{structure.engine}'; known: {', '.join(ENGINES)}.")
        for twice in _repeated(layer.path for layer in layers):
            raise CheckpointError(f"{source}: layer {shown(twice)} stands twice in it. {_REMEDY}")
        for twice in _repeated(name for group in shared for name in group):
            raise CheckpointError(f"{source}: {shown(twice)} stands twice among what shares a quantizer. {_REMEDY}")
        if not all(shared):
            raise CheckpointError(f"{source}: a group of layers that share a quantizer is empty. {_REMEDY}")
        adds = {layer.path for layer in layers if layer.kind == "add"}
        seconds = {name for group in shared for name in group if name.endswith(SECOND_OPERAND)}
        for name in sorted(seconds - {path + SECOND_OPERAND for path in adds}):
            raise CheckpointError(
                f"{source}: {shown(name)} shares a quantizer, but is no second operand of an addition."
            )
        members = {name.removesuffix(SECOND_OPERAND) for group in shared for name in group}
        strangers = sorted(members - set(structure.quantized_paths()))
        if strangers:
            raise CheckpointError(f"{source}: {strangers} share a quantizer, but are no quantized layers of it.")
        return structure


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def scales_fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names and scales of all quantizers."""
    from quant.quantizer import named_quantizers

    scales = {name: quantizer.scale.flatten().tolist() for name, quantizer in named_quantizers(model).items()}
    return hashlib.sha256(json.dumps(scales, sort_keys=True).encode()).hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over path, kind and weight shape of every convolution and linear layer.

    The same for a float model, after folding of BatchNorm and after quantization.
    """
    from torch import nn

    rows: list[list[Any]] = []
    for path, module in model.named_modules():
        for kind, layer_type in (("conv", nn.Conv2d), ("conv_transpose", nn.ConvTranspose2d), ("linear", nn.Linear)):
            if isinstance(module, layer_type):
                rows.append([path, kind, list(cast(Any, module).weight.shape)])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def as_switched(structure: QuantizationStructure, model: nn.Module) -> QuantizationStructure:
    """The structure of `model` as it computes now: layers that `disable_quantization` switched off are float ones."""
    from quant.modules.layer import QuantizedLayer

    off = {path for path, layer in model.named_modules() if isinstance(layer, QuantizedLayer) and not layer.quantized}
    groups = (
        tuple(name for name in group if name.removesuffix(SECOND_OPERAND) not in off) for group in structure.shared
    )
    layers = (
        dataclasses.replace(layer, quantized=layer.quantized and layer.path not in off) for layer in structure.layers
    )
    return without_lone_concats(
        dataclasses.replace(structure, layers=tuple(layers), shared=tuple(group for group in groups if len(group) > 1))
    )


def without_lone_concats(structure: QuantizationStructure) -> QuantizationStructure:
    """The structure without concats that no quantized layer reads: their integers would be turned back at once."""
    kinds = {layer.path: layer.kind for layer in structure.layers}
    groups = tuple(group for group in structure.shared if any(kinds.get(name) != "concat" for name in group))
    read = {name for group in groups for name in group}
    layers = (
        dataclasses.replace(layer, quantized=layer.quantized and (layer.kind != "concat" or layer.path in read))
        for layer in structure.layers
    )
    return dataclasses.replace(structure, layers=tuple(layers), shared=groups)


def quantization_structure(model: nn.Module) -> QuantizationStructure:
    """What `quant_model` or `apply_structure` did to `model`.

    Raises:
        ConfigError: it is not quantized.
    """
    structure = getattr(model, "quantization_structure", None)
    if not isinstance(structure, QuantizationStructure):
        raise ConfigError(f"This {type(model).__name__} is not quantized; call quant_model or quantize_ptq.")
    return structure
