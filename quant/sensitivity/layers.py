"""Which layers of a network are quantized, and switching each of them on and off by itself.

A layer is its weight and its input. The quantizer of a tensor with several consumers is one object, but each consumer
has a switch of its own (`QuantizedLayer.quantized`): with only one of them on, the others see the tensor as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ConfigError
from quant.modules.layer import QuantizedLayer, WeightedLayer
from quant.quantizer.base import Quantizer

if TYPE_CHECKING:
    from torch import nn

__all__ = ["QuantizedLayers", "Unit", "stages", "units_of"]


@dataclass(frozen=True)
class Unit:
    """Layers that the analysis switches together.

    Attributes:
        name: The layer's module path, or the path of the stage that its layers make up.
        layers: Module paths.
    """

    name: str
    layers: tuple[str, ...]


class QuantizedLayers:
    """The quantized layers of a network, by module path, in the order in which they are registered.

    A concat or an addition belongs to the layers that share its quantizer: it is on where one of them is. Without any
    such layer it counts as one itself. What is switched off when this is made stays off and is not listed.
    """

    def __init__(self, network: nn.Module) -> None:
        """Reads the network.

        Raises:
            ConfigError: nothing in it is quantized, or a quantizer has no scale.
        """
        self._modules = {
            path: module
            for path, module in network.named_modules()
            if isinstance(module, QuantizedLayer) and module.quantized
        }
        if not self._modules:
            raise ConfigError(
                "The network has no quantized layer that is switched on. Quantize and calibrate it first "
                "(quant.quantize_ptq), or load a quantized checkpoint."
            )
        for path, module in self._modules.items():
            for name, child in module.named_children():
                if isinstance(child, Quantizer) and child.enabled and not child.is_calibrated:
                    raise ConfigError(f"Layer '{path}': its {name} has no scale; calibrate the model first.")
        weighted = {path: layer for path, layer in self._modules.items() if isinstance(layer, WeightedLayer)}
        self._owners: dict[str, tuple[str, ...]] = {}
        for path, module in self._modules.items():
            sharing = (name for name, layer in weighted.items() if layer.input_quantizer is module.input_quantizer)
            self._owners[path] = (path,) if path in weighted else tuple(sharing) or (path,)

    @property
    def paths(self) -> tuple[str, ...]:
        """The layers."""
        return tuple(path for path, owners in self._owners.items() if owners == (path,))

    @property
    def modules(self) -> frozenset[str]:
        """Paths of all modules that quantize: the layers and what belongs to them."""
        return frozenset(self._owners)

    def is_on(self, module: str, enabled: Collection[str]) -> bool:
        """Whether the module quantizes when exactly the layers `enabled` are quantized."""
        return any(owner in enabled for owner in self._owners[module])

    def switch(self, enabled: Collection[str]) -> None:
        """Quantizes exactly the layers `enabled`."""
        for path, module in self._modules.items():
            module.quantized = self.is_on(path, enabled)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Switches everything on again at the end, whatever happens inside."""
        try:
            yield
        finally:
            self.switch(self.paths)


def stages(paths: Collection[str]) -> tuple[Unit, ...]:
    """Groups layers into the network's stages: a backbone block, a deblock, the shared convolution, a head branch.

    A stage's name is the layers' path without its last index: `pts_backbone.blocks.1.3` lies in
    `pts_backbone.blocks.1`.
    """
    grouped: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split(".")
        if parts[-1] == "conv" and len(parts) > 1:
            parts.pop()
        if parts[-1].isdigit() and len(parts) > 1:
            parts.pop()
        grouped.setdefault(".".join(parts), []).append(path)
    return tuple(Unit(name, tuple(layers)) for name, layers in grouped.items())


def units_of(paths: Collection[str], granularity: str) -> tuple[Unit, ...]:
    """What the analysis switches: every layer by itself ("layer"), or whole stages ("stage")."""
    if granularity == "layer":
        return tuple(Unit(path, (path,)) for path in paths)
    if granularity == "stage":
        return stages(paths)
    raise ConfigError(f"granularity is '{granularity}'; it is 'layer' or 'stage'.")
