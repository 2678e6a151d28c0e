"""The exported `pts_backbone_neck_head.onnx` as a plan of fused layers: INT8 with Q/DQ pairs, FP16, both, or FP32.

The graph is walked from its outputs to its input. Each layer asks for the tensor that it reads in the form in which it
reads it, as codes of one scale or as float16, and that settles how the layer before it stores its result. Bias, ReLU,
casts and pairs become part of the convolution in front of them, and a concatenation becomes the place that its inputs
write to.

Of a graph that computes in FP32 outside its codes, weights are rounded to float16 and maps are stored in float16; the
log says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ConfigError, ExportError
from base.onnx_files import attribute, label
from models.spec import BACKBONE_NECK_HEAD
from runtime.cuda_engine.onnx_graph import Graph, Kernel, Reading, read_graph, read_kernel
from runtime.cuda_engine.plan import FusedConv, HeadBranch, HeadsLayer, NetworkPlan, PlanMap

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
    _check_tensors(graph, spec, path)
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
    """Where a computed tensor is stored, and who asked for it first."""

    name: str
    channel: int
    scale: float | None
    reader: onnx.NodeProto

    @property
    def kind(self) -> str:
        return "float16" if self.scale is None else f"INT8 with scale {self.scale:.9g}"


class _Walk:
    def __init__(self, graph: Graph, spec: ModelSpec, path: Path) -> None:
        self._graph, self._spec, self._path = graph, spec, path
        self._maps: dict[str, PlanMap] = {}
        self._places: dict[str, _Place] = {}
        self._convs: list[tuple[int, FusedConv]] = []
        self._rounded = 0

    def plan(self) -> NetworkPlan:
        branches = [self._branch(head) for head in self._spec.heads]
        sources = {source.name: branch for source, branch in branches}
        if len(sources) > 1:
            listed = ", ".join(f"'{branch.hidden_node}' reads '{name}'" for name, branch in sources.items())
            raise ExportError(
                f"The branches of the head read several maps: {listed}. The engine runs heads whose branches are two "
                "1x1 convolutions behind one shared convolution, all quantized or none; use the same precision for "
                "the first convolutions of all branches, or another backend."
            )
        if self._rounded:
            _logger.warning(
                "%s computes %d layer(s) in FP32; the engine runs them in float16, with weights rounded to it.",
                self._path.name,
                self._rounded,
            )
        convs = tuple(conv for _, conv in sorted(self._convs, key=lambda item: item[0]))
        heads = HeadsLayer(next(iter(sources)), tuple(branch for _, branch in branches))
        canvas = self._places[self._graph.inputs[0].name]
        return NetworkPlan(self._maps[canvas.name], self._maps, convs, heads)

    def _branch(self, head: HeadSpec) -> tuple[PlanMap, HeadBranch]:
        last = self._chain(head.name, f"output '{head.name}'")
        if last.relu:
            raise ExportError(
                f"Output '{head.name}' is behind a ReLU of '{last.node.name}'; the engine runs heads that end in a "
                "convolution. Use another backend."
            )
        tensor = self._graph.uncast(last.node.input[0])
        producer = self._graph.producers.get(tensor)
        if producer is not None and producer.op_type == "DequantizeLinear":
            raise ExportError(
                f"{label(last.node)}, the last layer of output '{head.name}', reads INT8 codes; the engine runs the "
                "last layers of the head in float16. Leave them out of quantization, as the default scope does."
            )
        self._alone(last.node.input[0], tensor, last.node)
        hidden = self._chain(tensor, label(last.node))
        if not hidden.relu:
            raise ExportError(
                f"{label(hidden.node)}, the hidden layer of output '{head.name}', has no ReLU behind it; the engine "
                "runs heads of convolution, ReLU, convolution, as SeparateHead makes them. Use another backend."
            )
        source = self._stored(hidden.node.input[0], hidden.node)
        first, second = self._kernel(hidden, source), self._head_kernel(last, None, head)
        self._check_head_kernel(hidden, first, head)
        self._check_channels(hidden.node, first, source, "float16")
        hidden_channels = int(first.weight.shape[0])
        if hidden_channels % _INPUT_MULTIPLE["float16"]:
            raise ExportError(
                f"{label(hidden.node)} writes {hidden_channels} hidden channels of output '{head.name}'; the engine "
                f"takes a multiple of {_INPUT_MULTIPLE['float16']}. Change head_conv of the model's separate_head."
            )
        if second.weight.shape[:2] != (head.channels, hidden_channels):
            raise ConfigError(
                f"{self._path}: {label(last.node)} takes {second.weight.shape[1]} channels to {second.weight.shape[0]};"
                f" the model has {hidden_channels} in front of output '{head.name}' and {head.channels} in it. The "
                "file belongs to another model config; export it again."
            )
        size = (source.width, source.height)
        if size != self._spec.head_size:
            raise ConfigError(
                f"{self._path}: output '{head.name}' has {size[0]} x {size[1]} cells (x, y); the model has "
                f"{self._spec.head_size[0]} x {self._spec.head_size[1]}. The file belongs to another model config; "
                "export it again."
            )
        return source, HeadBranch(
            output=head.name,
            hidden_node=hidden.node.name,
            hidden_weight=_matrix(first),
            hidden_weight_scale=first.weight_scale,
            hidden_bias=first.bias,
            last_weight=second.weight.reshape(second.weight.shape[:2]).astype(np.float16),
            last_bias=second.bias,
        )

    def _head_kernel(self, chain: _Chain, source: PlanMap | None, head: HeadSpec) -> Kernel:
        kernel = self._kernel(chain, source)
        self._check_head_kernel(chain, kernel, head)
        return kernel

    def _check_head_kernel(self, chain: _Chain, kernel: Kernel, head: HeadSpec) -> None:
        side = int(kernel.weight.shape[2])
        if side != 1 or kernel.stride != 1 or kernel.padding != 0 or chain.node.op_type != "Conv":
            raise ExportError(
                f"{label(chain.node)} of output '{head.name}' has a {side}x{side} kernel, stride {kernel.stride} and "
                f"padding {kernel.padding}; the engine runs heads of 1x1 convolutions (final_kernel=1 in the model "
                "config's separate_head). Use another backend."
            )

    def _stored(self, tensor: str, reader: onnx.NodeProto) -> PlanMap:
        """The map that a layer reads; makes it, and the layers in front of it, when first asked for."""
        reading = self._graph.reading(tensor)
        place = _Place(reading.name, 0, reading.scale, reader)
        known = self._places.get(reading.origin)
        if known is not None:
            self._check_same(reading.origin, known, place)
            return self._maps[known.name]
        channels, height, width = self._produce(reading, place)
        return self._maps.setdefault(place.name, PlanMap(place.name, channels, height, width, place.scale))

    def _check_same(self, origin: str, known: _Place, place: _Place) -> None:
        if known.reader.op_type == "Concat" or place.reader.op_type == "Concat":
            concat, other = (known, place) if known.reader.op_type == "Concat" else (place, known)
            raise ExportError(
                f"{label(concat.reader)} joins '{origin}', which {label(other.reader)} reads as well. The inputs of a "
                "concatenation are written in place, as parts of its output, and cannot be read by themselves; use "
                "another backend."
            )
        if known.scale != place.scale:
            raise ExportError(
                f"{label(place.reader)} reads '{origin}' as {place.kind}, and {label(known.reader)} reads it as "
                f"{known.kind}; the engine stores a map once. Quantize both layers or neither (--skip-layer of "
                "export.tools.calibrate), with one scale for one tensor."
            )

    def _produce(self, reading: Reading, place: _Place) -> _Size:
        """Adds the layers that write a tensor at its place; (channels, height, width) of it."""
        self._places[reading.origin] = place
        if len(self._places) > _MAX_MAPS:
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
            _, channels, height, width = self._spec.canvas_shape
            return channels, height, width
        chain = self._chain(reading.origin, label(place.reader))
        source = self._stored(chain.node.input[0], chain.node)
        kernel = self._kernel(chain, source)
        self._check_channels(chain.node, kernel, source, "float16" if place.scale is None else "int8")
        conv = FusedConv(
            node=chain.node.name,
            source=source.name,
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
            known = self._places.get(reading.origin)
            if known is not None:
                self._check_same(reading.origin, known, part)
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
        self._rounded += kernel.rounded
        if source is not None and kernel.weight.shape[1] != source.channels:
            raise ConfigError(
                f"{self._path}: {label(chain.node)} reads {kernel.weight.shape[1]} channels of '{source.name}', which "
                f"has {source.channels}. The file belongs to another model config; export it again."
            )
        return kernel

    def _check_channels(self, node: onnx.NodeProto, kernel: Kernel, source: PlanMap, target: str) -> None:
        for number, verb, kind, multiple in (
            (kernel.weight.shape[1], "reads", source.type, _INPUT_MULTIPLE[source.type]),
            (kernel.weight.shape[0], "writes", target, _OUTPUT_MULTIPLE[target]),
        ):
            if number % multiple:
                raise ExportError(
                    f"{label(node)} {verb} {number} channels in {kind}; the engine takes a multiple of {multiple}. "
                    "Change the model's numbers of channels, or use another backend."
                )


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


def _check_tensors(graph: Graph, spec: ModelSpec, path: Path) -> None:
    """The graph's input and outputs must be those of the model, in order, float32 and of the same sizes."""
    import onnx

    component = next(item for item in spec.components if item.name == BACKBONE_NECK_HEAD)
    for kind, found, wanted in (
        ("input", graph.inputs, component.inputs),
        ("output", graph.outputs, component.outputs),
    ):
        names, expected = [value.name for value in found], [tensor.name for tensor in wanted]
        if names != expected:
            raise ConfigError(
                f"{path}: {kind}s are {names}; the model has {expected}. The file belongs to another model, or to "
                "another component than pts_backbone_neck_head."
            )
        for value, tensor in zip(found, wanted, strict=True):
            tensor_type = value.type.tensor_type
            shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor_type.shape.dim)
            fits = len(shape) == len(tensor.shape) and all(
                size is None or size == want for size, want in zip(shape, tensor.shape, strict=True)
            )
            if not fits or tensor_type.elem_type != onnx.TensorProto.FLOAT:
                raise ConfigError(
                    f"{path}: {kind} '{value.name}' is {onnx.TensorProto.DataType.Name(tensor_type.elem_type)} {shape};"
                    f" the model needs FLOAT {tensor.shape}. The file belongs to another model config; export it again."
                )
