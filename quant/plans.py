"""The fastest mixed-precision plan among those of a predicted accuracy, found exactly by branch and bound.

A plan leaves some layers in FP16 and quantizes the rest. Its loss of accuracy is taken to be a sum over its quantized
layers; its time is not quite one: a layer writes its output in the precision of whoever reads it, so neighbours matter.
The inputs of a concat are read by one convolution, and so are all written alike, on its one scale, whatever made them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from base.errors import ConfigError
from quant.roofline import PRECISIONS, ConvLayer, Device, LayerTimes, Precision, consumers_of, layer_time_s

__all__ = ["Item", "PlanTimes", "fastest_plan"]

_BYTES = {"int8": 1, "fp16": 2}
# Rounding in sums of a few dozen shares.
_SLACK = 1e-12


@dataclass(frozen=True)
class Item:
    """What a plan decides about as a whole.

    Attributes:
        name: Of the layer or stage.
        layers: Its module paths.
        loss: What quantizing it costs, at least 0; losses of items add up.
    """

    name: str
    layers: tuple[str, ...]
    loss: float


class PlanTimes:
    """Time of a network for any choice of precisions.

    Attributes:
        source: Where the layers' times come from.
    """

    def __init__(
        self,
        source: str,
        seconds: Mapping[str, Mapping[tuple[Precision, int], float]],
        consumers: Mapping[str, Sequence[str]],
    ) -> None:
        """Args:
        source: Where they come from.
        seconds: Layer -> (its precision, bytes per element of its output) -> seconds; 1 byte for INT8, 2 for FP16, 3
            for both.
        consumers: Layer -> the layers that read its output; of an output of the network, none.
        """
        self.source = source
        self.layers = tuple(seconds)
        self._seconds = seconds
        self._consumers = consumers

    @classmethod
    def from_roofline(cls, layers: Collection[ConvLayer], device: Device) -> PlanTimes:
        """Each layer's roofline, as `quant.roofline.plan_time_s` adds them up."""
        seconds = {
            layer.path: {
                (precision, size): layer_time_s(layer, device, precision, size)
                for precision in PRECISIONS
                for size in (1, 2, 3)
            }
            for layer in layers
        }
        return cls(f"the roofline of {device.name}", seconds, consumers_of(layers))

    @classmethod
    def from_layers(cls, times: LayerTimes) -> PlanTimes:
        """Measured times of single layers, which know nothing of their neighbours."""
        seconds = {
            layer: {(precision, size): of[precision] for precision in PRECISIONS for size in (1, 2, 3)}
            for layer, of in times.seconds.items()
        }
        return cls(times.source, seconds, dict.fromkeys(seconds, ()))

    def time_s(self, quantized: Collection[str]) -> float:
        """Of the plan in which exactly the layers `quantized` are in INT8 and all others in FP16."""
        return self.bound_s({layer: "int8" if layer in quantized else "fp16" for layer in self.layers})

    def bound_s(self, decided: Mapping[str, Precision]) -> float:
        """The least time of any plan that agrees with `decided`: a lower bound, exact where every layer is decided."""
        return sum(self._least_s(layer, decided) for layer in self.layers)

    def extra_s(self, layer: str) -> float:
        """At least so much slower than its faster precision is a layer in FP16, whatever its neighbours are."""
        times = self._seconds[layer]
        return min(times["fp16", size] - min(times["fp16", size], times["int8", size]) for size in (1, 2, 3))

    def _least_s(self, layer: str, decided: Mapping[str, Precision]) -> float:
        times = self._seconds[layer]
        own: Sequence[Precision] = (decided[layer],) if layer in decided else PRECISIONS
        readers = self._consumers[layer]
        if not readers:
            return min(times[precision, _BYTES[precision]] for precision in own)
        # Readers that are not decided yet may agree with those that are, or all be INT8.
        wanted = {_BYTES[decided[reader]] for reader in readers if reader in decided}
        return min(times[precision, sum(wanted) or 1] for precision in own)


def fastest_plan(items: Sequence[Item], times: PlanTimes, max_loss: float) -> frozenset[str]:
    """The items to leave in FP16 in the fastest plan whose quantized items lose at most `max_loss` together.

    Depth first, the item that saves most loss per added time first; a branch is cut when what is decided, with the
    fractional knapsack of what is not, is no faster than the best plan so far. Layers that belong to no item are in
    FP16.

    Args:
        items: What can be chosen.
        times: Of the network.
        max_loss: Budget, in the unit of the items' losses.

    Raises:
        ConfigError: an item has a layer without a time, or a negative budget.
    """
    unknown = sorted({layer for item in items for layer in item.layers} - set(times.layers))
    if unknown:
        raise ConfigError(
            f"Layers of the plan have no time: {', '.join(unknown[:3])} ({len(unknown)} in all). The times are from "
            f"{times.source}, which names {', '.join(times.layers[:3])} ({len(times.layers)} in all)."
        )
    if not max_loss >= 0.0:
        raise ConfigError(f"The budget of a plan is {max_loss}; give 0 or more.")
    extra = {item.name: sum(times.extra_s(layer) for layer in item.layers) for item in items}
    order = sorted(items, key=lambda item: _rate(extra[item.name], item.loss))
    covered = {layer for item in items for layer in item.layers}
    decided: dict[str, Precision] = {layer: "fp16" for layer in times.layers if layer not in covered}
    best: tuple[float, frozenset[str]] = (float("inf"), frozenset(item.name for item in items))

    def visit(depth: int, loss: float, skipped: frozenset[str]) -> None:
        """`loss`: of the items that are quantized or may still be."""
        nonlocal best
        rest = order[depth:]
        bound = times.bound_s(decided) + _knapsack_s(rest, extra, loss - max_loss)
        if bound >= best[0]:
            return
        if not rest:
            best = (bound, skipped)
            return
        item = rest[0]
        choices: tuple[Precision, ...] = ("fp16", "int8") if loss > max_loss + _SLACK else ("int8", "fp16")
        for precision in choices:
            decided.update(dict.fromkeys(item.layers, precision))
            if precision == "fp16":
                visit(depth + 1, loss - item.loss, skipped | {item.name})
            else:
                visit(depth + 1, loss, skipped)
        for layer in item.layers:
            del decided[layer]

    visit(0, sum(item.loss for item in items), frozenset())
    return best[1]


def _knapsack_s(rest: Sequence[Item], extra: Mapping[str, float], needed: float) -> float:
    """The least extra time that saves `needed` of loss, were items divisible; infinite where all are too few."""
    total = 0.0
    for item in rest:  # Sorted by time per loss.
        if needed <= _SLACK:
            return total
        if item.loss > 0.0:
            share = min(needed / item.loss, 1.0)
            total += share * extra[item.name]
            needed -= share * item.loss
    return total if needed <= _SLACK else float("inf")


def _rate(extra_s: float, loss: float) -> float:
    return extra_s / loss if loss > 0.0 else float("inf")
