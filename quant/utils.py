"""Switching quantization off and on, and showing its state."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from base.errors import ConfigError
from base.tables import text_table

if TYPE_CHECKING:
    from torch import nn

    from quant.modules.layer import QuantizedLayer

__all__ = [
    "QuantizationSwitch",
    "disable_quantization",
    "enable_quantization",
    "idle_quantizers",
    "print_quantizer_status",
]


class QuantizationSwitch:
    """Sets every quantized layer inside a module to one state: for good with `apply()`, for a while as a context."""

    def __init__(self, module: nn.Module, quantized: bool) -> None:
        """Finds the layers; nothing changes yet. Layers that were left in floating point are off already.

        Raises:
            ConfigError: there is no quantized layer in `module` to switch on, or it is no part of a quantized model.
        """
        from quant.modules.layer import LEFT_IN_FLOAT, QuantizedLayer

        self._layers = [layer for layer in module.modules() if isinstance(layer, QuantizedLayer)]
        if not self._layers:
            what = f"There is no quantized layer in this {type(module).__name__}"
            if not any(hasattr(layer, LEFT_IN_FLOAT) for layer in module.modules()):
                raise ConfigError(f"{what}; call quant_model first.")
            if quantized:
                raise ConfigError(f"{what}: skip_names left it in floating point. Quantize the float model without.")
        self._quantized = quantized
        self._before: list[tuple[QuantizedLayer, bool]] = []

    def apply(self) -> None:
        """Sets the state and keeps it."""
        for layer in self._layers:
            layer.quantized = self._quantized

    def __enter__(self) -> Self:
        self._before = [(layer, layer.quantized) for layer in self._layers]
        self.apply()
        return self

    def __exit__(self, *_: object) -> None:
        for layer, quantized in self._before:
            layer.quantized = quantized


def disable_quantization(module: nn.Module) -> QuantizationSwitch:
    """The layers inside `module` (itself included) compute in floating point: `.apply()`, or `with …:`.

    A quantizer that they share with layers elsewhere goes on working there.
    """
    return QuantizationSwitch(module, False)


def enable_quantization(module: nn.Module) -> QuantizationSwitch:
    """The layers inside `module` (itself included) are quantized again: `.apply()`, or `with …:`."""
    return QuantizationSwitch(module, True)


def idle_quantizers(model: nn.Module) -> frozenset[str]:
    """Names, as `named_quantizers` gives them, of quantizers that only layers in floating point hold."""
    from quant.modules.layer import QuantizedLayer
    from quant.quantizer import named_quantizers

    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    held = {id(quantizer) for layer in layers for quantizer in layer.quantizer_slots().values()}
    busy = {id(q) for layer in layers if layer.quantized for q in layer.quantizer_slots().values()}
    return frozenset(name for name, q in named_quantizers(model).items() if id(q) in held - busy)


def print_quantizer_status(model: nn.Module) -> None:
    """Writes one line for each quantized layer to the standard output: its state, and the ranges of its quantizers."""
    from quant.modules.layer import QuantizedLayer
    from quant.quantizer.base import Quantizer

    first_seen: dict[int, str] = {}
    rows = []
    for path, layer in model.named_modules():
        if not isinstance(layer, QuantizedLayer):
            continue
        for slot, quantizer in layer.named_children():
            if isinstance(quantizer, Quantizer):
                shared = first_seen.get(id(quantizer))
                first_seen.setdefault(id(quantizer), path)
                range_text = _range(quantizer) + (f", that of {shared}" if shared else "")
                rows.append((path, "INT8" if layer.quantized else "float", slot, range_text))
    sys.stdout.write(text_table(("layer", "state", "quantizer", "range"), rows) + "\n")


def _range(quantizer: object) -> str:
    from quant.quantizer.base import Quantizer

    assert isinstance(quantizer, Quantizer)
    if not quantizer.is_calibrated:
        return "no scale"
    amax = quantizer.amax
    text = f"±{float(amax):.4g}" if amax.dim() == 0 else f"±{float(amax.min()):.4g} … ±{float(amax.max()):.4g}"
    return text if quantizer.enabled else f"{text}, disabled"
