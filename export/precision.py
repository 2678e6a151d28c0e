"""Precision as a property of the ONNX graph: FP32 graphs to FP16 graphs with FP32 inputs and outputs.

Every tensor inside the result has one declared type, with one Cast behind each graph input and one before each graph
output. A strongly typed builder (TensorRT-RTX, TensorRT 11) and one told to obey the graph (TensorRT 10) make the same
engine of it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ExportError
from base.lazy import require
from base.onnx_files import attribute
from export.opsets import INT8_OPSET

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

__all__ = ["PRECISIONS", "WeightRounding", "convert_precision", "graph_precision", "weight_rounding"]

PRECISIONS = ("fp32", "fp16")

FP16_MAX = 65504.0
# Smallest normal number of FP16: weights below it lose digits, below 2**-25 they vanish.
FP16_MIN_NORMAL = 2.0**-14

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightRounding:
    """What FP16 does to one weight tensor.

    Attributes:
        name: The initializer.
        size: Number of elements.
        max_abs: Largest magnitude in FP32.
        overflowed: Elements beyond FP16's largest number.
        vanished: Elements that are not zero in FP32 and zero in FP16.
        subnormal: Further elements below FP16's smallest normal number, which keep fewer than 11 bits.
    """

    name: str
    size: int
    max_abs: float
    overflowed: int
    vanished: int
    subnormal: int


def graph_precision(model: onnx.ModelProto) -> str:
    """What a graph computes in: "int8" where it has Q/DQ pairs, else "fp16" or "fp32", or "mixed" with both.

    Decided by the types of the weights; a graph without weights counts as FP32 unless it casts to FP16.
    """
    import onnx

    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    if any(node.op_type in _QUANTIZERS for node in model.graph.node):
        return "int8"
    types = {tensor.data_type for tensor in model.graph.initializer} & {float32, float16}
    if types == {float32, float16}:
        return "mixed"
    if types:
        return "fp16" if float16 in types else "fp32"
    casts = any(attribute(node, "to", 0) == float16 for node in model.graph.node if node.op_type == "Cast")
    return "fp16" if casts else "fp32"


def weight_rounding(model: onnx.ModelProto) -> tuple[WeightRounding, ...]:
    """What FP16 would do to each FP32 weight of `model`, in graph order."""
    import onnx

    return tuple(
        _rounding(tensor.name, onnx.numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )


def convert_precision(model: onnx.ModelProto, precision: str, keep_fp32: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of an FP32 graph in the asked precision; inputs and outputs stay FP32.

    Args:
        model: A graph whose floating-point tensors are all FP32. It may hold Q/DQ pairs (operator set 19 or newer).
        precision: "fp32" (a plain copy) or "fp16".
        keep_fp32: Names of nodes that stay FP32. Their borders with the rest must be Q and DQ nodes, which are kept
            nodes themselves, and graph inputs.

    Raises:
        ExportError: unknown precision; the graph is not FP32; a weight overflows FP16; an operator carries FP32 values
            in a way that cannot be converted.
    """
    require("onnx", "to convert precision")
    import onnx

    if precision not in PRECISIONS:
        raise ExportError(f"precision is '{precision}'; a graph can be converted to {' or '.join(PRECISIONS)}.")
    result: onnx.ModelProto = onnx.ModelProto()
    result.CopyFrom(model)
    found = graph_precision(model)
    if precision == "fp32":
        if found in ("fp16", "mixed"):
            raise ExportError(
                f"The graph '{model.graph.name}' is {found}; what was rounded away cannot be brought back."
            )
        return result
    if found not in ("fp32", "int8"):
        raise ExportError(f"The graph '{model.graph.name}' is {found} already; convert the FP32 export.")
    _check_convertible(model)
    _check_weights(weight_rounding(model), model.graph.name)
    _convert_to_fp16(result, keep_fp32)
    return result


def _check_convertible(model: onnx.ModelProto) -> None:
    import onnx

    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    for node in model.graph.node:
        if node.op_type in _QUANTIZERS and opset < INT8_OPSET:
            raise ExportError(
                f"Node '{node.name}' is a {node.op_type} in opset {opset}, whose scale can only be FP32. Export with "
                f"opset_version={INT8_OPSET} or newer to run the rest of a quantized graph in FP16."
            )
        for item in node.attribute:
            if item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise ExportError(
                    f"Node '{node.name}' ({node.op_type}) holds a subgraph, which FP16 conversion does not enter. "
                    "Export this component in FP32."
                )


def _check_weights(rounding: tuple[WeightRounding, ...], graph_name: str) -> None:
    overflowed = [entry for entry in rounding if entry.overflowed]
    if overflowed:
        worst = max(overflowed, key=lambda entry: entry.max_abs)
        raise ExportError(
            f"{len(overflowed)} weight tensor(s) of '{graph_name}' exceed FP16's largest number {FP16_MAX:g}; worst is "
            f"'{worst.name}' with |w| up to {worst.max_abs:g} ({worst.overflowed} of {worst.size}). Export this "
            "component in FP32."
        )
    for entry in rounding:
        if entry.vanished or entry.subnormal:
            _logger.debug(
                "%s: %d of %d weights become 0 in FP16, %d keep fewer digits",
                entry.name,
                entry.vanished,
                entry.size,
                entry.subnormal,
            )
    total, vanished = (sum(getattr(entry, key) for entry in rounding) for key in ("size", "vanished"))
    subnormal = sum(entry.subnormal for entry in rounding)
    _logger.info("%s in FP16: of %d weights %d become 0, %d keep fewer digits", graph_name, total, vanished, subnormal)


def _convert_to_fp16(model: onnx.ModelProto, keep_fp32: Collection[str]) -> None:
    import numpy as np
    import onnx

    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    graph = model.graph
    kept_inputs = {name for node in graph.node if node.name in keep_fp32 for name in node.input}
    for tensor in graph.initializer:
        if tensor.data_type == float32 and tensor.name not in kept_inputs:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    for node in graph.node:
        if node.name in keep_fp32:
            continue
        for item in node.attribute:
            if item.type == onnx.AttributeProto.TENSOR and item.t.data_type == float32:
                half = onnx.numpy_helper.to_array(item.t).astype(np.float16)
                item.t.CopyFrom(onnx.numpy_helper.from_array(half, item.t.name))
            elif node.op_type == "Cast" and item.name == "to" and item.i == float32:
                item.i = float16
        if node.op_type == "ConstantOfShape" and not node.attribute:
            # Without a value the operator makes FP32 zeros.
            node.attribute.append(
                onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1, np.float16), "value"))
            )
    # Types of inner tensors would contradict the new ones.
    del graph.value_info[:]
    weights = {tensor.name for tensor in graph.initializer}
    casts_in, casts_out, renamed = [], [], {}
    read = {name for node in graph.node if node.name not in keep_fp32 for name in node.input}
    read |= {value.name for value in graph.output}
    for value in graph.input:
        if value.type.tensor_type.elem_type != float32:
            continue
        if value.name in weights:
            value.type.tensor_type.elem_type = float16
            continue
        if value.name not in read:
            continue
        renamed[value.name] = f"{value.name}_fp16"
        casts_in.append(
            onnx.helper.make_node("Cast", [value.name], [renamed[value.name]], f"/{value.name}_to_fp16", to=float16)
        )
    for node in graph.node:
        if node.name not in keep_fp32:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
    inner = {}
    for value in graph.output:
        if value.type.tensor_type.elem_type != float32:
            continue
        inner[value.name] = renamed.get(value.name, f"{value.name}_fp16")
        casts_out.append(
            onnx.helper.make_node("Cast", [inner[value.name]], [value.name], f"/{value.name}_to_fp32", to=float32)
        )
    for node in graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = inner.get(name, name)
        for index, name in enumerate(node.input):
            node.input[index] = inner.get(name, name)
    nodes = [*casts_in, *graph.node, *casts_out]
    del graph.node[:]
    graph.node.extend(nodes)


def _rounding(name: str, values: npt.NDArray[np.float32]) -> WeightRounding:
    import numpy as np

    magnitude = np.abs(values.astype(np.float64))
    with np.errstate(over="ignore"):
        half = np.abs(values.astype(np.float16))
    vanished = (magnitude > 0) & (half == 0)
    subnormal = (magnitude > 0) & (magnitude < FP16_MIN_NORMAL) & ~vanished
    return WeightRounding(
        name=name,
        size=int(values.size),
        max_abs=float(magnitude.max(initial=0.0)),
        overflowed=int(np.count_nonzero(~np.isfinite(half))),
        vanished=int(np.count_nonzero(vanished)),
        subnormal=int(np.count_nonzero(subnormal)),
    )
