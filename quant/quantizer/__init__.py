"""Quantizers: one interface, two engines that give the same numbers and the same graph."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

from base.errors import ConfigError
from base.lazy import require
from quant.settings import DEFAULT_ENGINE, ENGINES

if TYPE_CHECKING:
    from torch import nn

    from quant.quantizer.base import Quantizer, QuantizerSpec

__all__ = ["DEFAULT_ENGINE", "ENGINES", "load_engine", "named_quantizers", "new_quantizer"]

# Engine -> the package it stands on.
_PACKAGES: dict[str, str] = {
    "pytorch_quantization": "pytorch_quantization.nn",
    "modelopt": "modelopt.torch.quantization.nn",
}


def new_quantizer(spec: QuantizerSpec, engine: str = DEFAULT_ENGINE, channels: int | None = None) -> Quantizer:
    """A quantizer without a scale.

    Args:
        spec: What it does.
        engine: One of `ENGINES`.
        channels: Length of `spec.axis`; None for one scale.

    Raises:
        ConfigError: there is no such engine.
        MissingDependencyError: its package is not installed.
    """
    load_engine(engine)
    if engine == "modelopt":
        from quant.quantizer.modelopt import ModeloptQuantizer

        return ModeloptQuantizer(spec, channels)
    from quant.quantizer.pytorch_quantization import PytorchQuantizationQuantizer

    return PytorchQuantizationQuantizer(spec, channels)


def load_engine(engine: str) -> None:
    """Imports an engine's package, whose import must change nothing of the process.

    Raises:
        ConfigError: there is no such engine.
        MissingDependencyError: its package is not installed.
    """
    if engine not in _PACKAGES:
        raise ConfigError(f"Unknown quantization engine '{engine}'; engines: {', '.join(ENGINES)}.")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        # Both packages script functions with torch.jit when imported, which torch 2.13 calls deprecated.
        warnings.simplefilter("ignore")
        require(_PACKAGES[engine], f"for the quantization engine '{engine}'")
    # pytorch_quantization puts absl's log handler in place of all others.
    root.handlers[:] = handlers
    root.setLevel(level)
    # It also announces every quantizer that it makes.
    logging.getLogger("absl").setLevel(logging.WARNING)


def named_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Every quantizer of `model` once, by the first path that leads to it, in the order of the modules."""
    from quant.quantizer.base import Quantizer

    return {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
