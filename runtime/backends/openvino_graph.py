"""An INT8 graph in the form in which OpenVINO computes it in INT8 throughout, with the same results.

OpenVINO 2026 has no integer kernel for a transposed convolution of stride 4 and computes it in float32: on the demo
model a quarter of the network's time. Where kernel and stride are equal, no two products meet in one output, so that it
is a 1 x 1 convolution to all the values of a block, which are then moved to their places. And codes are all that
the first convolution reads of the canvas, so that codes go in, a quarter of the bytes.

OpenVINO keeps INT8 values cell after cell, and a transposition to that order costs nothing. So the places are written
in that order: a row of a block is one piece of memory, where DepthToSpace moves value after value; and so is the
concatenation behind, without which OpenVINO would choose planes for it and turn everything twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from base.errors import DataError
from base.onnx_files import attribute

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

__all__ = ["SuitedGraph", "suit_openvino"]

T = TypeVar("T", int, str, tuple[int, ...])

# Strides up to this one have an integer kernel.
_LARGEST_STRIDE = 3
_TO_CELLS, _TO_PLANES = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class SuitedGraph:
    """What OpenVINO is given.

    Attributes:
        model: The graph.
        scale: Where its input is a canvas of codes, (1, H, W, C) int8: of a step. None: the input is what it was.
    """

    model: onnx.ModelProto
    scale: np.float32 | None


def suit_openvino(model: onnx.ModelProto) -> SuitedGraph:
    """A copy of a graph with its slow parts replaced; one without INT8 stays as it is.

    Args:
        model: With one input (1, C, H, W) float32.

    Raises:
        DataError: an attribute has a type that it cannot have.
    """
    result = type(model)()
    result.CopyFrom(model)
    graph = _Graph(result.graph)
    found = (_in_blocks(graph, node) for node in graph.proto.node if node.op_type == "ConvTranspose")
    blocks = [block for block in found if block is not None]
    if any(block.stride > _LARGEST_STRIDE for block in blocks):
        sizes = _sizes(result)
        # Places are numbers in the graph: what has an open axis stays.
        blocks = [block for block in blocks if all(sizes.get(block.node.output[0], (0,)))]
        placed = [_products_in_blocks_(graph, block, sizes) for block in blocks]
        if len(placed) == sum(node.op_type == "ConvTranspose" for node in model.graph.node):
            _join_cells_(graph, placed)
    return SuitedGraph(result, _take_codes_(graph))


def _of(node: onnx.NodeProto, name: str, default: T) -> T:
    return attribute(node, name, default, error=DataError)


class _Graph:
    """Nodes and constants by the tensors that they make."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        from onnx import numpy_helper

        self.proto = proto
        self._arrays = numpy_helper
        self._constants = {tensor.name: tensor for tensor in proto.initializer}
        self._outputs = {value.name for value in proto.output}

    def constant(self, name: str) -> NDArray[Any] | None:
        """Its value, if it is one."""
        tensor = self._constants.get(name)
        return None if tensor is None else np.asarray(self._arrays.to_array(tensor))

    def add(self, name: str, value: NDArray[Any]) -> str:
        """A new constant of a name of its own."""
        tensor = self._arrays.from_array(np.ascontiguousarray(value), name)
        self.proto.initializer.append(tensor)
        self._constants[name] = tensor
        return name

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor."""
        return next((node for node in self.proto.node if name in node.output), None)

    def reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; None where there are several, or it leaves the graph."""
        readers = [node for node in self.proto.node if name in node.input]
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def insert(self, before: str, *nodes: onnx.NodeProto) -> None:
        """Nodes in front of the first one that reads or makes a tensor; at the end where none does."""
        places = (at for at, node in enumerate(self.proto.node) if before in (*node.input, *node.output))
        place = next(places, len(self.proto.node))
        for node in reversed(nodes):
            self.proto.node.insert(place, node)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A transposed convolution of INT8 weights whose products do not meet.

    Attributes:
        node: It.
        dequantize: Makes its weights.
        weights: Codes, steps and zero points of `dequantize`.
        bias: Of the convolution itself.
        stride: Side of a block.
    """

    node: onnx.NodeProto
    dequantize: onnx.NodeProto
    weights: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    bias: NDArray[Any] | None
    stride: int


def _in_blocks(graph: _Graph, node: onnx.NodeProto) -> _Blocks | None:
    dequantize = graph.maker(node.input[1])
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or len(dequantize.input) < 3:
        return None
    codes, scales, zeros = (graph.constant(name) for name in dequantize.input)
    if codes is None or scales is None or zeros is None or codes.ndim != 4 or scales.ndim != 1:
        return None
    stride = codes.shape[2]
    plain = _of(node, "strides", (1, 1)) == (stride, stride) == codes.shape[2:]
    plain &= not any(_of(node, "pads", (0,) * 4)) and not any(_of(node, "output_padding", (0, 0)))
    plain &= _of(node, "group", 1) == 1 and _of(node, "dilations", (1, 1)) == (1, 1)
    plain &= _of(node, "auto_pad", "NOTSET") == "NOTSET" and not _of(node, "output_shape", ())
    has_bias = len(node.input) > 2 and bool(node.input[2])
    bias = graph.constant(node.input[2]) if has_bias else None
    plain &= has_bias == (bias is not None)
    plain &= _of(dequantize, "axis", 1) == 1 and len(scales) == codes.shape[1]
    return _Blocks(node, dequantize, (codes, scales, zeros), bias, stride) if plain else None


def _sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape."""
    from onnx import shape_inference

    return {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in shape_inference.infer_shapes(model).graph.value_info
    }


def _products_in_blocks_(graph: _Graph, blocks: _Blocks, sizes: dict[str, tuple[int, ...]]) -> str:
    """Replaces a transposed convolution, in place; returns what now makes its values, cell after cell."""
    from onnx import helper

    node, (codes, scales, zeros), stride = blocks.node, blocks.weights, blocks.stride
    count, channels, name = stride * stride, codes.shape[1], node.name or node.output[0]
    height, width = (size // stride for size in sizes[node.output[0]][2:])
    tail = _elementwise_tail(graph, node)
    # Channels of a block: row, column, then the layer's own.
    weights = codes.transpose(2, 3, 1, 0).reshape(count * channels, codes.shape[0], 1, 1)
    inputs = [
        graph.add(f"{name}.blocks.{part}", value)
        for part, value in (("codes", weights), ("scale", np.tile(scales, count)), ("zero", np.tile(zeros, count)))
    ]
    weight = helper.make_node("DequantizeLinear", inputs, [f"{name}.blocks"], f"{name}.blocks", axis=0)
    last = tail[-1] if tail else node
    placed: str = last.output[0]
    for reader in tail:
        if reader.op_type == "Add":
            side, values = next(
                (side, value) for side, name in enumerate(reader.input) if (value := graph.constant(name)) is not None
            )
            value = np.broadcast_to(values, (1, channels, 1, 1))
            reader.input[side] = graph.add(f"{reader.name}.blocks", np.tile(value, (1, count, 1, 1)))
    node.op_type = "Conv"
    node.input[1] = weight.output[0]
    if blocks.bias is not None:
        node.input[2] = graph.add(f"{name}.blocks.bias", np.tile(blocks.bias, count))
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("kernel_shape", [1, 1]))
    steps = [f"{name}.{step}" for step in ("in_blocks", "cells", "rows", "moved", "placed")]
    last.output[0] = steps[0]
    shapes = [(height, width, stride, stride * channels), (1, height * stride, width * stride, channels)]
    sides = [graph.add(f"{step}.shape", np.array(s, np.int64)) for step, s in zip(steps[2::2], shapes, strict=True)]
    graph.insert(node.output[0], weight)
    graph.insert(
        placed,
        helper.make_node("Transpose", steps[:1], steps[1:2], steps[1], perm=_TO_CELLS),
        helper.make_node("Reshape", [steps[1], sides[0]], steps[2:3], steps[2]),
        helper.make_node("Transpose", steps[2:3], steps[3:4], steps[3], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [steps[3], sides[1]], steps[4:], steps[4]),
        helper.make_node("Transpose", steps[4:], [placed], f"{name}.planes", perm=_TO_PLANES),
    )
    return placed


def _join_cells_(graph: _Graph, placed: list[str]) -> None:
    """Concatenates channels, in place, cell after cell where one of the parts is so."""
    from onnx import helper

    for node in [node for node in graph.proto.node if node.op_type == "Concat"]:
        if _of(node, "axis", 0) not in (1, -3) or not set(placed) & set(node.input):
            continue
        joined, parts = node.output[0], []
        for name in node.input:
            maker = graph.maker(name)
            if maker is not None and name in placed and graph.reader(name) is not None:
                parts.append(maker.input[0])
                graph.proto.node.remove(maker)
            else:
                turn = helper.make_node("Transpose", [name], [f"{name}.cells"], f"{name}.cells", perm=_TO_CELLS)
                graph.insert(joined, turn)
                parts.append(turn.output[0])
        cells = f"{joined}.cells"
        graph.insert(joined, helper.make_node("Concat", parts, [cells], f"{node.name}.cells", axis=3))
        graph.insert(joined, helper.make_node("Transpose", [cells], [joined], f"{node.name}.planes", perm=_TO_PLANES))
        graph.proto.node.remove(node)


def _elementwise_tail(graph: _Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What follows a convolution and takes its channels alike, up to the codes: computed before they are moved."""
    tail: list[onnx.NodeProto] = []
    reader = graph.reader(node.output[0])
    while reader is not None and _is_elementwise(graph, reader):
        tail.append(reader)
        reader = graph.reader(reader.output[0])
    return tail


def _is_elementwise(graph: _Graph, node: onnx.NodeProto) -> bool:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        scale = graph.constant(node.input[1])
        return scale is not None and scale.size == 1
    if node.op_type == "Add":
        constants = [value for value in map(graph.constant, node.input) if value is not None]
        return len(constants) == 1 and (constants[0].ndim == 4 and constants[0].shape[2:] == (1, 1))
    return node.op_type in ("Relu", "Cast")


def _take_codes_(graph: _Graph) -> np.float32 | None:
    """Makes codes the graph's input, in place, where its only reader quantizes it by one scale; returns it."""
    from onnx import TensorProto, helper

    (entry,) = graph.proto.input
    quantize = graph.reader(entry.name)
    if quantize is None or quantize.op_type != "QuantizeLinear" or len(quantize.input) < 3:
        return None
    scale, zero = graph.constant(quantize.input[1]), graph.constant(quantize.input[2])
    if scale is None or zero is None or scale.size != 1 or scale.dtype != np.float32 or zero.dtype != np.int8:
        return None
    if zero.any() or not scale.all():
        return None
    channels, height, width = (axis.dim_value for axis in entry.type.tensor_type.shape.dim[1:])
    name, shape = entry.name, (1, height, width, channels)
    codes = helper.make_tensor_value_info(name, TensorProto.INT8, shape)
    graph.proto.input.remove(entry)
    graph.proto.input.append(codes)
    # Codes times their step, quantized by this step, are these codes: OpenVINO takes the three away, and its first
    # convolution reads the input itself. Without them it would compute that one in float32.
    step = graph.add(f"{name}.step", scale.reshape(()))
    graph.insert(
        quantize.output[0],
        helper.make_node("Cast", [name], [f"{name}.float"], f"{name}.float", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.float", step], [f"{name}.values"], f"{name}.values"),
        helper.make_node("Transpose", [f"{name}.values"], [f"{name}.planes"], f"{name}.planes", perm=_TO_PLANES),
    )
    quantize.input[0] = f"{name}.planes"
    return np.float32(scale.reshape(()))
