"""What all quantized layers share: their switch, and how a float layer becomes one and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from torch import nn

from quant.quantizer import DEFAULT_ENGINE, new_quantizer
from quant.quantizer.base import SCALE, Quantizer, QuantizerSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LEFT_IN_FLOAT", "QuantizedLayer", "WeightedLayer", "recast"]

LEFT_IN_FLOAT = "left_in_float"
"""Attribute of a float layer in a quantized model that could be a quantized one."""

M = TypeVar("M", bound=nn.Module)


class QuantizedLayer(nn.Module):
    """A layer whose operands pass quantizers.

    Attributes:
        quantized: False: the layer computes as its float original does, whatever its quantizers' state; a quantizer
            that it shares with other layers goes on working for them. A state dict then holds none of its scales.
        input_quantizer: Of its input; one object for all layers that read the same tensor.
    """

    quantized: bool
    input_quantizer: Quantizer

    @classmethod
    def from_float(cls, module: nn.Module, engine: str = DEFAULT_ENGINE) -> Self:
        """The quantized layer of a float one."""
        raise NotImplementedError

    def to_float(self) -> nn.Module:
        """The float layer again."""
        raise NotImplementedError

    def _quantized_input(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.input_quantizer(x)) if self.quantized else x

    def quantizer_slots(self) -> dict[str, Quantizer]:
        """Attribute -> quantizer."""
        return {name: child for name, child in self._modules.items() if isinstance(child, Quantizer)}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's, but that the scales of a layer in floating point are left out: the keys say what is quantized."""
        state = super().state_dict(*args, **kwargs)
        if not self.quantized:
            for slot in self.quantizer_slots():
                state.pop(f"{kwargs.get('prefix', '')}{slot}.{SCALE}", None)
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        if not self.quantized:
            for slot, quantizer in self.quantizer_slots().items():
                state_dict.setdefault(f"{prefix}{slot}.{SCALE}", quantizer.scale)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"{super().extra_repr()}{'' if self.quantized else ', in floating point'}"


class WeightedLayer(QuantizedLayer):
    """A quantized layer with a weight: the float layer's class, parameters and state-dict keys, and two quantizers.

    Attributes:
        weight_quantizer: One scale for each output channel, along `weight_axis`.
        float_type: Class of the layer that it was made from.
    """

    weight_axis = 0
    weight_quantizer: Quantizer
    float_type: type[nn.Module]

    @classmethod
    def from_float(cls, module: nn.Module, engine: str = DEFAULT_ENGINE) -> Self:
        """The quantized layer of a float one; parameters and hooks are the same objects, `module` stays as it is."""
        layer = recast(module, cls)
        layer.float_type = type(module)
        layer.quantized = True
        layer.input_quantizer = new_quantizer(QuantizerSpec(), engine)
        weight = cast(nn.Parameter, layer.weight)
        layer.weight_quantizer = new_quantizer(
            QuantizerSpec(axis=cls.weight_axis), engine, weight.shape[cls.weight_axis]
        )
        layer.input_quantizer.to(weight.device)
        layer.weight_quantizer.to(weight.device)
        return layer.train(module.training)

    def to_float(self) -> nn.Module:
        """The float layer again, of the class it was made from; parameters and hooks are the same objects."""
        module = recast(self, self.float_type)
        for name in ("input_quantizer", "weight_quantizer"):
            del module._modules[name]
        for name in ("float_type", "quantized"):
            del module.__dict__[name]
        return module

    def _quantized_weight(self) -> Tensor:
        weight = cast("Tensor", self.weight)
        return cast("Tensor", self.weight_quantizer(weight)) if self.quantized else weight


def recast(module: nn.Module, new_type: type[M]) -> M:
    """A module of another class with the same parameters, buffers, children, hooks and attributes."""
    twin = new_type.__new__(new_type)
    for key, value in module.__dict__.items():
        # The registries are this module's own; what they hold is shared.
        twin.__dict__[key] = cast(Any, value).copy() if key.startswith("_") and isinstance(value, dict) else value
    return twin
