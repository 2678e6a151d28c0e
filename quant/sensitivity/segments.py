"""A network as a graph of segments whose outputs can be kept, so that a changed layer costs only what lies behind it.

A segment starts at a quantized layer, or where the data flow forks or joins, and reaches as far as it has one
successor: a convolution with its normalization and activation. The graph is traced from the network's own `forward`, so
that it follows whatever neck or head a model config asks for; on the first frame it is held against that `forward`, bit
for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from base.errors import ConfigError
from quant.quantizer.base import Quantizer
from quant.sensitivity.layers import QuantizedLayers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Segment", "SegmentGraph"]

Values = dict[str, Any]


@dataclass(eq=False)
class Segment:
    """A chain of operations with one result.

    Attributes:
        name: Of its last operation; under this name its result is kept.
        inputs: Names of the results that it reads.
        nodes: Its operations.
        macs: Multiplications with accumulation, counted on the first frame.
    """

    name: str
    inputs: tuple[str, ...]
    nodes: list[fx.Node] = field(default_factory=list)
    macs: int = 0

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of its modules."""
        return tuple(str(node.target) for node in self.nodes if node.op == "call_module")


class SegmentGraph:
    """The segments of a network in the order in which they run.

    Attributes:
        segments: All of them.
        layers: The network's quantized layers.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        """Cuts the network.

        Args:
            network: One input, a tuple of outputs; quantized and calibrated.
            example: An input, to count operations and to compare with the network's own result.

        Raises:
            ConfigError: the network cannot be traced, works in place on a value that something else reads, or the
                segments do not reproduce its results.
        """
        self._modules = dict(network.named_modules())
        self.layers = QuantizedLayers(network)
        try:
            graph = _Tracer().trace(network)
        except (fx.proxy.TraceError, TypeError) as error:
            raise ConfigError(f"{type(network).__name__} cannot be cut into segments: {error}") from error
        self._constants: Values = {}
        self._outputs: tuple[str, ...] = ()
        self._input = ""
        self.segments = self._cut(graph)
        self._consumers: dict[str, list[int]] = {}
        for index, segment in enumerate(self.segments):
            for name in segment.inputs:
                self._consumers.setdefault(name, []).append(index)
        self._check(network, example)

    @property
    def macs(self) -> int:
        """Of the whole network."""
        return sum(segment.macs for segment in self.segments)

    def run(self, canvas: Tensor, enabled: Collection[str]) -> Values:
        """Runs everything with exactly the layers `enabled` quantized; returns the result of every segment."""
        self.layers.switch(enabled)
        values: Values = {self._input: canvas}
        for segment in self.segments:
            values[segment.name] = self._run_segment(segment, values, {})
        return values

    def rerun(self, values: Values, before: Collection[str], enabled: Collection[str]) -> tuple[Tensor, ...]:
        """The network's outputs with the layers `enabled` quantized, by running what differs from an earlier run.

        Args:
            values: What `run` returned; not changed.
            before: The layers that were quantized then.
            enabled: The layers to quantize now.
        """
        self.layers.switch(enabled)
        affected = self.affected(before, enabled)
        waiting = {
            self.segments[index].name: len(affected.intersection(self._consumers_of(index))) for index in affected
        }
        changed: Values = {}
        for index in sorted(affected):
            segment = self.segments[index]
            changed[segment.name] = self._run_segment(segment, values, changed)
            for name in segment.inputs:
                if name in changed and name not in self._outputs:
                    waiting[name] -= 1
                    if waiting[name] == 0:
                        del changed[name]
        return tuple(changed[name] if name in changed else values[name] for name in self._outputs)

    def outputs(self, values: Values) -> tuple[Tensor, ...]:
        """The network's outputs among the results of a run."""
        return tuple(values[name] for name in self._outputs)

    def affected(self, before: Collection[str], enabled: Collection[str]) -> frozenset[int]:
        """Indices of the segments whose result may differ between two sets of quantized layers."""
        found: set[int] = set()
        for index, segment in enumerate(self.segments):
            switched = any(
                self.layers.is_on(path, before) != self.layers.is_on(path, enabled)
                for path in segment.modules
                if path in self.layers.modules
            )
            if switched or any(self._producer(name) in found for name in segment.inputs):
                found.add(index)
        return frozenset(found)

    def cost(self, before: Collection[str], enabled: Collection[str]) -> int:
        """MACs of `rerun`."""
        return sum(self.segments[index].macs for index in self.affected(before, enabled))

    def layer_macs(self, path: str) -> int:
        """MACs of the segments that a layer is part of."""
        return sum(segment.macs for segment in self.segments if path in segment.modules)

    def _producer(self, name: str) -> int:
        return self._index.get(name, -1)

    def _consumers_of(self, index: int) -> list[int]:
        return self._consumers.get(self.segments[index].name, [])

    def _run_segment(self, segment: Segment, values: Values, changed: Values) -> Any:
        local: Values = {}

        def value(node: fx.Node) -> Any:
            for known in (local, changed, values, self._constants):
                if node.name in known:
                    return known[node.name]
            raise KeyError(node.name)

        for node in segment.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
            local[node.name] = self._call(node, args, kwargs)
        return local[segment.name]

    def _call(self, node: fx.Node, args: Any, kwargs: Mapping[str, Any]) -> Any:
        target: Any = node.target
        if node.op == "call_function":
            return target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return self._modules[target](*args, **kwargs)

    def _cut(self, graph: fx.Graph) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for node in graph.nodes:
            if node.op == "placeholder":
                self._input = node.name
            elif node.op == "get_attr":
                owner, _, name = str(node.target).rpartition(".")
                self._constants[node.name] = getattr(self._modules[owner], name)
            elif node.op == "output":
                self._outputs = tuple(item.name for item in node.args[0])
            else:
                self._place(node, segments)
        self._index = {segment.name: index for index, segment in enumerate(segments)}
        return tuple(segments)

    def _place(self, node: fx.Node, segments: list[Segment]) -> None:
        """Appends the node to its producer's segment, or starts one."""
        reads = [item for item in node.all_input_nodes if item.name not in self._constants]
        previous = next((item for item in segments if reads and item.name == reads[0].name), None)
        chained = previous is not None and len(reads) == 1 and len(reads[0].users) == 1
        if chained and str(node.target) not in self.layers.modules:
            assert previous is not None
            previous.nodes.append(node)
            previous.name = node.name
            return
        if node.op == "call_module" and getattr(self._modules[str(node.target)], "inplace", False):
            raise ConfigError(
                f"'{node.target}' works in place on a value that the segments keep; build it with inplace=False."
            )
        segments.append(Segment(node.name, tuple(item.name for item in reads), [node]))

    def _check(self, network: nn.Module, example: Tensor) -> None:
        """Counts MACs, and compares with the network itself: all in floating point, and all quantized."""
        with torch.inference_mode(), self.layers.restored():
            with _counted_macs(self._modules) as macs:
                quantized = self.outputs(self.run(example, self.layers.paths))
            for segment in self.segments:
                segment.macs = sum(macs.get(path, 0) for path in segment.modules)
            _compare(network(example), quantized, "quantized")
            plain = self.outputs(self.run(example, ()))
            _compare(network(example), plain, "in floating point")


class _Tracer(fx.Tracer):
    """Keeps whole what has no submodules but quantizers, wherever its class comes from."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return all(isinstance(child, Quantizer) for child in m.children())


@contextmanager
def _counted_macs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Collects the MACs of every convolution and linear layer that runs inside, by module path."""
    macs: dict[str, int] = {}

    def hook(path: str) -> Any:
        def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Linear):
                macs[path] = output.numel() * module.in_features
                return
            # Every weight is used once per position: of the output, of the input where the convolution is transposed.
            grid = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
            macs[path] = module.weight.numel() * grid.shape[0] * grid.shape[2] * grid.shape[3]

        return count

    counted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    handles = [m.register_forward_hook(hook(path)) for path, m in modules.items() if isinstance(m, counted)]
    try:
        yield macs
    finally:
        for handle in handles:
            handle.remove()


def _compare(expected: tuple[Tensor, ...], actual: tuple[Tensor, ...], what: str) -> None:
    for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
        if not torch.equal(one, other):
            raise ConfigError(
                f"Cut into segments and {what}, the network's output {index} differs from the network's own by up to "
                f"{float((one - other).abs().max()):g}: its forward depends on more than its input, and cannot be cut."
            )
