"""The shape of every tensor of an ONNX graph, where arithmetic on shapes stands between ONNX's inference and them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["fold_shapes_", "with_rows"]

_MAX_FOLDED = 1 << 16  # elements of a tensor that counts as arithmetic on shapes


def with_rows(model: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    """A copy in which every dynamic axis of an input has the given size, and every shape that follows is a constant.

    Raises:
        ValueError: a node cannot be computed from its constants; names it.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = rows
    for value in fixed.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    fold_shapes_(fixed)
    return fixed


def fold_shapes_(model: onnx.ModelProto) -> None:
    """Replaces arithmetic on shapes, which shape inference does not follow, by its result.

    Args:
        model: Its inputs have fixed shapes; changed in place.

    Raises:
        ValueError: as `with_rows`, or shapes that contradict each other.
    """
    while _fold_once_(model):
        pass


def _fold_once_(model: onnx.ModelProto) -> bool:
    import onnx

    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {
        value.name: [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
    known: dict[str, Any] = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    folded = []
    for node in graph.node:
        if node.op_type == "Constant" or not node.input:
            continue
        if node.op_type == "Shape" and node.input[0] in sizes:
            known[node.output[0]] = np.array(sizes[node.input[0]], np.int64)
        elif all(name in known for name in node.input):
            if not 0 <= math.prod(sizes.get(node.output[0], [_MAX_FOLDED + 1])) <= _MAX_FOLDED:
                continue
            known[node.output[0]] = _value(node, {str(name): known[str(name)] for name in node.input})
        else:
            continue
        folded.append(node)
    for node in folded:
        graph.node.remove(node)
        graph.initializer.append(onnx.numpy_helper.from_array(known[node.output[0]], node.output[0]))
    return bool(folded)


def _value(node: onnx.NodeProto, feeds: Mapping[str, Any]) -> Any:
    """What a node makes of constants."""
    from onnx.reference import ReferenceEvaluator

    try:
        results: Any = ReferenceEvaluator(node).run(None, dict(feeds))
        return np.asarray(results[0])
    # One implementation an operator, each with errors of its own; these are what wrong constants raise.
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"node '{node.name}' ({node.op_type}) cannot be computed from its constants: {error}"
        ) from None
