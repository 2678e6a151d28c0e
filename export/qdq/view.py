"""A graph looked at from its tensors: who makes them, who reads them, which are constant, which are quantized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from base.onnx_files import attribute

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

__all__ = ["DEQUANTIZE", "INTEGER_OPS", "MOVING_OPS", "QUANTIZE", "GraphView", "axis_of", "is_quantized", "module_path"]

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"
# Operators with an INT8 kernel that multiplies a tensor with weights.
INTEGER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Operators that only move values, which they can do as well with codes.
MOVING_OPS = ("Concat", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice")

_DEFAULT_AXIS = 1


class GraphView:
    """An index over a graph as it is now; make a new one after changing the graph.

    Attributes:
        order: The nodes, in graph order.
        producers: Tensor -> the node that makes it.
        consumers: Tensor -> the nodes that read it, in graph order; a node that reads it twice is listed twice.
        initializers: Name -> constant.
        outputs: Graph outputs.
    """

    def __init__(
        self, nodes: Iterable[onnx.NodeProto], initializers: Mapping[str, onnx.TensorProto], outputs: Iterable[str]
    ) -> None:
        self.order = list(nodes)
        self.initializers = dict(initializers)
        self.outputs = set(outputs)
        self.producers = {name: node for node in self.order for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.order:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> GraphView:
        """The view of a whole model."""
        graph = model.graph
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        return cls(graph.node, initializers, (value.name for value in graph.output))

    def nodes(self, *op_types: str) -> list[onnx.NodeProto]:
        """The nodes of these operators, in graph order."""
        return [node for node in self.order if node.op_type in op_types]

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read `tensor`."""
        return self.consumers.get(tensor, [])

    def producer(self, tensor: str, op_type: str) -> onnx.NodeProto | None:
        """The node that makes `tensor`, if it is of this operator."""
        node = self.producers.get(tensor)
        return node if node is not None and node.op_type == op_type else None

    def constant(self, tensor: str) -> npt.NDArray[np.generic] | None:
        """The value of an initializer or of a Constant node's output; None for anything else."""
        import onnx

        if tensor in self.initializers:
            return onnx.numpy_helper.to_array(self.initializers[tensor])
        node = self.producer(tensor, "Constant")
        if node is None:
            return None
        values = [item.t for item in node.attribute if item.name == "value" and item.HasField("t")]
        return onnx.numpy_helper.to_array(values[0]) if values else None

    def scale(self, node: onnx.NodeProto) -> npt.NDArray[np.generic] | None:
        """The constant scale of a Q or DQ node."""
        return self.constant(node.input[1])

    def same_scale(self, first: onnx.NodeProto, second: onnx.NodeProto) -> bool:
        """Whether two Q or DQ nodes have equal constant scales, along the same axis where there is one per channel."""
        import numpy as np

        left, right = self.scale(first), self.scale(second)
        if left is None or right is None or left.shape != right.shape:
            return False
        # The same number in FP32 and in FP16 is one scale.
        equal = np.array_equal(left.astype(np.float64), right.astype(np.float64))
        return bool(equal) and (left.size == 1 or axis_of(first) == axis_of(second))

    def weight_dequantizer(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The DQ node in front of an integer operator's weights: its input is constant, maybe through a Q node."""
        if node.op_type not in INTEGER_OPS or len(node.input) < 2:
            return None
        dequantize = self.producer(node.input[1], DEQUANTIZE)
        if dequantize is None:
            return None
        quantize = self.producer(dequantize.input[0], QUANTIZE)
        source = quantize.input[0] if quantize is not None else dequantize.input[0]
        return dequantize if source in self.initializers else None

    def activation_pairs(self) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
        """(Q, DQ) of every pair on a tensor that is no constant, in graph order of the Q nodes."""
        return [
            (quantize, reader)
            for quantize in self.nodes(QUANTIZE)
            if quantize.input[0] not in self.initializers
            for reader in self.readers(quantize.output[0])
            if reader.op_type == DEQUANTIZE
        ]

    def feeds_integers(self, dequantize: onnx.NodeProto) -> bool:
        """Whether an integer kernel, or a Q node behind operators that only move values, reads a DQ node's output."""
        waiting = [dequantize.output[0]]
        seen: set[str] = set()
        while waiting:
            tensor = waiting.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            for node in self.readers(tensor):
                if node.op_type in INTEGER_OPS:
                    if node.input[0] == tensor and self.weight_dequantizer(node) is not None:
                        return True
                elif node.op_type == "Add":
                    if all(self.producer(name, DEQUANTIZE) is not None for name in node.input):
                        return True
                elif node.op_type in MOVING_OPS:
                    if any(reader.op_type == QUANTIZE for reader in self.readers(node.output[0])):
                        return True
                    waiting.append(node.output[0])
        return False


def axis_of(node: onnx.NodeProto) -> int:
    """The `axis` of a Q or DQ node."""
    return attribute(node, "axis", _DEFAULT_AXIS)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a graph holds any Q or DQ node."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph.node)


def module_path(node_name: str) -> str:
    """The PyTorch module that a node was traced from.

    `/pts_backbone/blocks.0/blocks.0.3/Conv` is a call of `pts_backbone.blocks.0.3`: the exporter writes a scope for
    every module that is called, with its whole path inside a container that is not called itself (`blocks.0` of a
    ModuleList).
    """
    path: list[str] = []
    for scope in node_name.strip("/").split("/")[:-1]:
        if path and scope.startswith(path[-1] + "."):
            path[-1] = scope
        else:
            path.append(scope)
    return ".".join(path)
