"""The precision of every layer of an exported graph, with its work and the bytes it moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ExportError
from base.onnx_files import label
from export.onnx_checks import check_model
from export.qdq.view import DEQUANTIZE, INTEGER_OPS, QUANTIZE, GraphView, module_path

if TYPE_CHECKING:
    import onnx

__all__ = ["LayerPrecision", "PrecisionMap", "precision_map"]

_BITS = {"INT8": 8, "FLOAT16": 16, "FLOAT": 32}
_NAMES = {"INT8": "int8", "FLOAT16": "fp16", "FLOAT": "fp32"}
# What a kernel applies to its result before it writes it, and what moves values without a kernel of its own.
_PASSED = ("Relu", "Clip", "LeakyRelu", "Cast", "Add")


@dataclass(frozen=True)
class LayerPrecision:
    """One layer with weights.

    Attributes:
        path: Module it was traced from.
        node: Its node in the graph.
        op: ONNX operator.
        kernel: Spatial size of its weight, such as (3, 3); empty for a matrix.
        precision: What it multiplies in: "int8", "fp16" or "fp32".
        output_precision: What it writes.
        macs: Multiply-accumulate operations.
        weight_bytes: Of the weights as stored.
        input_bytes: Read.
        output_bytes: Written.
        inputs: Paths of the layers whose results it reads; "" is a graph input.
    """

    path: str
    node: str
    op: str
    kernel: tuple[int, ...]
    precision: str
    output_precision: str
    macs: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class PrecisionMap:
    """All layers of one graph, in graph order."""

    graph: str
    layers: tuple[LayerPrecision, ...]

    def share_of_macs(self, precision: str) -> float:
        """Share of the multiplications that run in a precision, in [0, 1]."""
        total = sum(layer.macs for layer in self.layers)
        return sum(layer.macs for layer in self.layers if layer.precision == precision) / total if total else 0.0

    def total(self, field: str, precisions: Iterable[str] = ("int8", "fp16", "fp32")) -> int:
        """Sum of a numeric field over layers of some precisions."""
        chosen = set(precisions)
        return sum(int(getattr(layer, field)) for layer in self.layers if layer.precision in chosen)


def precision_map(model: onnx.ModelProto, rows: int = 1, what: str = "") -> PrecisionMap:
    """The map of a graph.

    Args:
        model: An export of this project: FP32, FP16 or INT8.
        rows: Size of a dynamic axis (pillars of the voxel encoder).
        what: Name of the file for messages, where it comes from one; else the graph's name.

    Raises:
        ExportError: the graph is not valid, or a layer of it is neither INT8, FP16 nor FP32.
    """
    inferred = check_model(model, what or model.graph.name)
    types = _types(inferred, rows)
    view = GraphView.of(model)
    layers = []
    for node in view.nodes(*INTEGER_OPS):
        weight = view.weight_dequantizer(node)
        stored = view.initializers.get(weight.input[0] if weight is not None else node.input[1])
        if stored is None:
            continue
        kind, shape = _known(types, node.output[0], node)
        in_kind, in_shape = _known(types, node.input[0], node)
        stored_kind = _name(stored.data_type)
        if stored_kind not in _BITS or not in_shape:
            raise ExportError(
                f"{label(node)} multiplies a tensor of shape {list(in_shape)} by constants of type {stored_kind}; "
                f"layers of {', '.join(_BITS)} are known. Export it again."
            )
        source = view.producer(node.input[0], DEQUANTIZE)
        dims = list(stored.dims)
        layers.append(
            LayerPrecision(
                path=module_path(node.name),
                node=node.name,
                op=node.op_type,
                kernel=tuple(dims[2:]),
                precision="int8" if weight is not None and source is not None else _NAMES[kind],
                output_precision=_NAMES[_written(view, node.output[0], kind)],
                macs=_macs(node.op_type, dims, shape, in_shape),
                weight_bytes=math.prod(dims) * _BITS[stored_kind] // 8,
                input_bytes=math.prod(in_shape) * _BITS["INT8" if source is not None else in_kind] // 8,
                output_bytes=math.prod(shape) * _BITS[_written(view, node.output[0], kind)] // 8,
                inputs=tuple(_sources(view, node.input[0])),
            )
        )
    return PrecisionMap(model.graph.name, tuple(layers))


def _known(
    types: Mapping[str, tuple[str, tuple[int, ...]]], tensor: str, node: onnx.NodeProto
) -> tuple[str, tuple[int, ...]]:
    """Type and shape of what a layer reads or writes."""
    kind, shape = types.get(tensor, ("no type", ()))
    if kind not in _NAMES:
        raise ExportError(
            f"{label(node)}: tensor '{tensor}' is of {kind}; layers of {', '.join(_NAMES)} are known. Export it again."
        )
    return kind, shape


def _types(inferred: onnx.ModelProto, rows: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    found = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else rows for dim in tensor.shape.dim)
        found[value.name] = (_name(tensor.elem_type), shape)
    return found


def _name(data_type: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(data_type))


def _macs(op: str, weight: list[int], output: tuple[int, ...], source: tuple[int, ...]) -> int:
    if op == "ConvTranspose":
        # Every input value meets every weight of its input channel.
        return math.prod(source) * math.prod(weight[1:])
    if op == "Conv":
        return math.prod(output) * math.prod(weight[1:])
    return math.prod(output) * source[-1]


def _written(view: GraphView, tensor: str, kind: str) -> str:
    """The type of what a kernel writes: codes where a quantizer follows."""
    readers = view.readers(tensor)
    while len(readers) == 1 and readers[0].op_type in _PASSED:
        readers = view.readers(readers[0].output[0])
    return "INT8" if readers and all(reader.op_type == QUANTIZE for reader in readers) else kind


def _sources(view: GraphView, tensor: str) -> list[str]:
    """Paths of the layers behind a tensor, nearest inputs first, each once; "" is a graph input."""
    found: dict[str, None] = {}
    waiting, seen = [tensor], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = view.producers.get(name)
        if node is not None and node.op_type not in INTEGER_OPS:
            waiting += [source for source in reversed(node.input) if source]
        elif node is not None:
            found[module_path(node.name)] = None
        elif name not in view.initializers:
            found[""] = None
    return list(found)
