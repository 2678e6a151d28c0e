"""The exported `pts_backbone_neck_head.onnx` as a plan of fused layers: INT8 with Q/DQ pairs, FP16, both, or FP32.

The graph is walked from its outputs to its input. Each layer asks for the tensor that it reads in the form in which it
reads it, as codes of one scale or as float16, and that settles how the layer before it stores its result; where readers
differ, that layer runs once for each form, so that any layers may stay in float16 beside INT8 ones. Bias, ReLU, casts
and pairs become part of the convolution in front of them, and a concatenation becomes the place that its inputs write
to.

A branch of the head is convolutions like any others, the last of which writes the output. Branches of two 1x1
convolutions, as SeparateHead has them by default, are computed several in one pass; first convolutions of other
branches that read one map become one wide convolution.

Of a graph that computes in FP32 outside its codes, weights are rounded to float16 and maps are stored in float16; the
log says so.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ConfigError, ExportError
from base.onnx_files import attribute, label
from runtime.cuda_engine.graph_tensors import check_tensors
from runtime.cuda_engine.onnx_graph import Graph, Kernel, Reading, read_graph, read_kernel
from runtime.cuda_engine.plan import FusedConv, HeadBranch, HeadsLayer, NetworkPlan, PlanMap, merge_siblings

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from models.spec import HeadSpec, ModelSpec

__all__ = ["plan_from_onnx"]

# What the kernels' tiles ask of a number of channels.
_INPUT_MULTIPLE = {"int8": 32, "float16": 16}
_OUTPUT_MULTIPLE = {"int8": 16, "float16": 8}
# Maps between layers; the walk from outputs to input is as deep as there are layers.
_MAX_MAPS = 200
# Branches whose weights lie in shared memory at the same time.
_BRANCHES_TOGETHER = 6

_logger = logging.getLogger(__name__)

_Size = tuple[int, int, int]


def plan_from_onnx(path: Path, spec: ModelSpec) -> NetworkPlan:
    """Reads an exported network as fused layers.

    Args:
        path: `pts_backbone_neck_head.onnx` as deploy.export writes it, in any precision.
        spec: The model that it belongs to.

    Returns:
        The plan. A map has the name of the ONNX tensor whose elements it holds: the output of a QuantizeLinear where
        it is INT8. Layers are in the order of the graph, branches in the order of its outputs.

    Raises:
        ConfigError: the file is missing or belongs to another model.
        ExportError: the file is no whole ONNX file, or holds a node that the engine does not run; names the node.
        MissingDependencyError: the package onnx is not installed.
    """
    graph = read_graph(path)
    check_tensors(graph, spec, path)
    try:
        return _Walk(graph, spec, path).plan()
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Chain:
    """A convolution and what is fused behind it."""

    node: onnx.NodeProto
    affine: tuple[onnx.NodeProto, ...]
    relu: bool


@dataclass(frozen=True)
class _Place:
    """Where a computed tensor is stored in one form, and who asked for it first."""

    name: str
    channel: int
    scale: float | None
    reader: onnx.NodeProto

    @property
    def is_joined(self) -> bool:
        """Whether it is a part of a concatenation, which nobody reads by itself."""
        return self.reader.op_type == "Concat"

    @property
    def kind(self) -> str:
        return "float16" if self.scale is None else f"INT8 with scale {self.scale:.9g}"


class _Walk:
    def __init__(self, graph: Graph, spec: ModelSpec, path: Path) -> None:
        self._graph, self._spec, self._path = graph, spec, path
        self._maps: dict[str, PlanMap] = {}
        self._outputs: dict[str, PlanMap] = {}
        self._places: dict[str, list[_Place]] = {}
        self._convs: list[tuple[int, FusedConv]] = []
        self._rounded: set[str] = set()

    def plan(self) -> NetworkPlan:
        branches = [self._output(head) for head in self._spec.heads]
        if self._rounded:
            _logger.warning(
                "%s computes %d layer(s) in FP32; the engine runs them in float16, with weights rounded to it.",
                self._path.name,
                len(self._rounded),
            )
        convs = tuple(conv for _, conv in sorted(self._convs, key=lambda item: item[0]))
        heads = _together([branch for branch in branches if branch is not None])
        canvas = self._maps[self._places[self._graph.inputs[0].name][0].name]
        return merge_siblings(NetworkPlan(canvas, self._maps, convs, heads, self._outputs))

    def _output(self, head: HeadSpec) -> tuple[str, HeadBranch] | None:
        """Adds an output's layers; where two 1x1 convolutions make it, returns these and the map that they read."""
        last = self._chain(head.name, f"output '{head.name}'")
        if last.relu or last.node.op_type != "Conv":
            what = f"a ReLU of '{last.node.name}'" if last.relu else f"{label(last.node)}, a transposed convolution"
            raise ExportError(
                f"Output '{head.name}' is behind {what}; the engine runs heads that end in a convolution. Use another "
                "backend."
            )
        hidden = self._hidden(last)
        first = hidden or last
        source = self._stored(first.node.input[0], first.node)
        kernel = self._kernel(last, None if hidden else source)
        width, height = self._spec.head_size
        self._outputs[head.name] = PlanMap(head.name, head.channels, height, width, None, is_output=True)
        if kernel.weight.shape[0] != head.channels:
            raise ConfigError(
                f"{self._path}: {label(last.node)} takes {kernel.weight.shape[1]} channels to {kernel.weight.shape[0]};"
                f" the model has {head.channels} in output '{head.name}'. The file belongs to another model config; "
                "export it again."
            )
        branch = None
        if hidden is not None:
            branch = source.name, self._branch(head, source, hidden, last, kernel)
        conv = _fused(last, kernel, source.name, _Place(head.name, 0, None, last.node))
        size = (source.height, source.width) if hidden else _output_size(conv, source)
        if size != (height, width):
            raise ConfigError(
                f"{self._path}: output '{head.name}' has {size[1]} x {size[0]} cells (x, y); the model has "
                f"{width} x {height}. The file belongs to another model config; export it again."
            )
        if branch is None:
            self._check_channels(last.node, kernel, source, "float32")
            self._convs.append((self._graph.position(last.node), conv))
        return branch

    def _hidden(self, last: _Chain) -> _Chain | None:
        """The layer in front of an output's last one, where both are 1x1 and can be computed in one pass."""
        tensor = self._graph.uncast(last.node.input[0])
        producer = self._graph.producers.get(tensor)
        if producer is None or producer.op_type in ("DequantizeLinear", "Concat"):
            return None
        if len(self._graph.readers(tensor)) > 1:
            return None
        hidden = self._chain(tensor, label(last.node))
        shapes = [self._graph.weight_shape(chain.node) for chain in (hidden, last)]
        plain = hidden.relu and hidden.node.op_type == "Conv" and all(shape[2:] == (1, 1) for shape in shapes)
        if not plain or shapes[0][0] % _INPUT_MULTIPLE["float16"] or not _is_plain(hidden) or not _is_plain(last):
            return None
        self._alone(last.node.input[0], tensor, last.node)
        return hidden

    def _branch(self, head: HeadSpec, source: PlanMap, hidden: _Chain, last: _Chain, second: Kernel) -> HeadBranch:
        first = self._kernel(hidden, source)
        self._check_channels(hidden.node, first, source, "float16")
        if second.weight.shape[1] != first.weight.shape[0]:
            raise ConfigError(
                f"{self._path}: {label(last.node)} reads {second.weight.shape[1]} channels of {label(hidden.node)}, "
                f"which writes {first.weight.shape[0]}. The file belongs to another model config; export it again."
            )
        return HeadBranch(
            output=head.name,
            hidden_node=hidden.node.name,
            hidden_weight=_matrix(first),
            hidden_weight_scale=first.weight_scale,
            hidden_bias=first.bias,
            last_weight=second.weight.reshape(second.weight.shape[:2]).astype(np.float16),
            last_bias=second.bias,
        )

    def _stored(self, tensor: str, reader: onnx.NodeProto) -> PlanMap:
        """The map that a layer reads; makes it, and the layers in front of it, when first asked for."""
        reading = self._graph.reading(tensor)
        place = _Place(reading.name, 0, reading.scale, reader)
        for known in self._places.get(reading.origin, ()):
            if not known.is_joined and known.scale == place.scale:
                return self._maps[known.name]
        channels, height, width = self._produce(reading, place)
        return self._maps.setdefault(place.name, PlanMap(place.name, channels, height, width, place.scale))

    def _produce(self, reading: Reading, place: _Place) -> _Size:
        """Adds the layers that write a tensor at its place; (channels, height, width) of it."""
        if self._graph.is_output(reading.origin):
            raise ExportError(
                f"{label(place.reader)} reads '{reading.origin}', which is an output of the graph too; the engine "
                "stores an output for its reader outside alone. Use another backend."
            )
        places = self._places.setdefault(reading.origin, [])
        places.append(place)
        if sum(map(len, self._places.values())) > _MAX_MAPS:
            raise ExportError(
                f"{label(place.reader)} is behind more than {_MAX_MAPS} layers; the engine runs networks of at most "
                "as many. Use another backend."
            )
        node = self._graph.producers.get(reading.origin)
        if node is not None and node.op_type == "Concat":
            return self._concat(node, place)
        if node is None:
            if reading.origin != self._graph.inputs[0].name or place.reader.op_type == "Concat":
                raise ExportError(
                    f"{label(place.reader)} reads '{reading.origin}', which no layer writes. The engine runs layers "
                    "that follow the network's input; use another backend."
                )
            if len(places) > 1:
                raise ExportError(
                    f"{label(place.reader)} reads the canvas '{reading.origin}' as {place.kind}, and "
                    f"{label(places[0].reader)} reads it as {places[0].kind}; pillars are scattered in one form. "
                    "Quantize both layers or neither (--skip-layer of export.tools.calibrate), with one scale."
                )
            _, channels, height, width = self._spec.canvas_shape
            return channels, height, width
        chain = self._chain(reading.origin, label(place.reader))
        source = self._stored(chain.node.input[0], chain.node)
        kernel = self._kernel(chain, source)
        self._check_channels(chain.node, kernel, source, "float16" if place.scale is None else "int8")
        conv = _fused(chain, kernel, source.name, place)
        if len(places) > 1:
            conv = replace(conv, node=f"{conv.node} (form {len(places)})")
        self._convs.append((self._graph.position(chain.node), conv))
        return (conv.out_channels, *_output_size(conv, source))

    def _concat(self, node: onnx.NodeProto, place: _Place) -> _Size:
        axis = attribute(node, "axis", 0)
        if axis != 1:
            raise ExportError(
                f"{label(node)} joins along axis {axis}; the engine joins channels (axis 1). Use another backend."
            )
        channel, sizes = place.channel, []
        for tensor in node.input:
            reading = self._graph.reading(tensor)
            part = _Place(place.name, channel, reading.scale, node)
            if reading.scale != place.scale:
                raise ExportError(
                    f"{label(node)} joins '{reading.origin}' as {part.kind}, and {label(place.reader)} reads the "
                    f"result as {place.kind}. The inputs of a concatenation and its output share one scale or are all "
                    "in floating point; export the model again with this project."
                )
            sizes.append(self._produce(reading, part))
            channel += sizes[-1][0]
        if len({size[1:] for size in sizes}) != 1:
            raise ExportError(
                f"{label(node)} joins maps of {', '.join(f'{h} x {w}' for _, h, w in sizes)} cells (y, x), which "
                "differ. The file belongs to another model config; export it again."
            )
        return (channel - place.channel, *sizes[0][1:])

    def _chain(self, tensor: str, reader: str) -> _Chain:
        """The convolution that makes a tensor, behind casts, ReLU, BatchNorm and a bias that is added."""
        relu = False
        affine: list[onnx.NodeProto] = []  # from the result backwards
        current = self._graph.uncast(tensor)
        while (node := self._graph.producers.get(current)) is not None:
            if node.op_type in ("Conv", "ConvTranspose"):
                return _Chain(node, tuple(reversed(affine)), relu)
            if node.op_type == "Relu" and not relu and not affine:
                relu, computed = True, [node.input[0]]
            elif node.op_type in ("Add", "BatchNormalization"):
                affine.append(node)
                computed = [name for name in node.input if self._graph.constant(name) is None]
            else:
                break
            if len(computed) != 1:
                break
            current = self._graph.uncast(computed[0])
            self._alone(computed[0], current, node)
        who = label(node) if node is not None else f"Tensor '{current}'"
        raise ExportError(
            f"{who} is in front of {reader}, where the engine needs a Conv or ConvTranspose with constant bias, "
            "BatchNorm and ReLU behind it, each optional. Use another backend for this network."
        )

    def _alone(self, tensor: str, behind_casts: str, reader: onnx.NodeProto) -> None:
        """Checks that nobody else reads what lies between two fused nodes, casts included."""
        while True:
            self._graph.only_reader(tensor, reader)
            if tensor == behind_casts:
                return
            reader = self._graph.producers[tensor]
            tensor = reader.input[0]

    def _kernel(self, chain: _Chain, source: PlanMap | None) -> Kernel:
        kernel = read_kernel(self._graph, chain.node, chain.affine, source is not None and source.scale is not None)
        if kernel.rounded:
            self._rounded.add(chain.node.output[0])
        if source is not None and kernel.weight.shape[1] != source.channels:
            raise ConfigError(
                f"{self._path}: {label(chain.node)} reads {kernel.weight.shape[1]} channels of '{source.name}', which "
                f"has {source.channels}. The file belongs to another model config; export it again."
            )
        return kernel

    def _check_channels(self, node: onnx.NodeProto, kernel: Kernel, source: PlanMap, target: str) -> None:
        for number, verb, kind, multiple in (
            (kernel.weight.shape[1], "reads", source.type, _INPUT_MULTIPLE[source.type]),
            (kernel.weight.shape[0], "writes", target, _OUTPUT_MULTIPLE.get(target, 1)),
        ):
            if number % multiple:
                raise ExportError(
                    f"{label(node)} {verb} {number} channels in {kind}; the engine takes a multiple of {multiple}. "
                    "Change the model's numbers of channels, or use another backend."
                )


def _is_plain(chain: _Chain) -> bool:
    """Whether a 1x1 convolution takes every cell to its own."""
    strides, pads = attribute(chain.node, "strides", (1, 1)), attribute(chain.node, "pads", (0, 0, 0, 0))
    return set(strides) == {1} and set(pads) == {0}


def _fused(chain: _Chain, kernel: Kernel, source: str, place: _Place) -> FusedConv:
    return FusedConv(
        node=chain.node.name,
        source=source,
        target=place.name,
        target_channel=place.channel,
        weight=kernel.weight,
        weight_scale=kernel.weight_scale,
        bias=kernel.bias,
        stride=kernel.stride,
        padding=kernel.padding,
        upsample=kernel.upsample,
        relu=chain.relu,
    )


def _together(branches: list[tuple[str, HeadBranch]]) -> tuple[HeadsLayer, ...]:
    """Branches that read one map and are equally wide, a few at a time, in their order."""
    alike: dict[tuple[str, int, str], list[HeadBranch]] = {}
    for source, branch in branches:
        width, kind = branch.hidden_weight.shape[0], branch.hidden_weight.dtype.name
        alike.setdefault((source, width, kind), []).append(branch)
    layers = []
    for (source, _, _), group in alike.items():
        parts = -(-len(group) // _BRANCHES_TOGETHER)
        bounds = [len(group) * part // parts for part in range(parts + 1)]
        layers += [HeadsLayer(source, tuple(group[a:b])) for a, b in itertools.pairwise(bounds)]
    return tuple(layers)


def _matrix(kernel: Kernel) -> NDArray[np.int8] | NDArray[np.float16]:
    """Weight of a 1x1 convolution as (C_out, C_in)."""
    weight = kernel.weight
    return weight.reshape(weight.shape[:2])


def _output_size(conv: FusedConv, source: PlanMap) -> tuple[int, int]:
    """(height, width) of what a layer writes."""
    if conv.upsample > 1:
        return source.height * conv.upsample, source.width * conv.upsample
    height, width = (
        (size + 2 * conv.padding - conv.kernel) // conv.stride + 1 for size in (source.height, source.width)
    )
    return height, width
