"""What an ONNX file holds: its tensors, and for every layer its precision, size, work and how fast a GPU could run it.

    FLOP = 2 · multiply-accumulates
    time = max(FLOP / peak of the layer's precision, (read + weights + written bytes) / bandwidth)

after Williams, Waterman and Patterson, Roofline (2009), from the types in the graph: what a layer reads and writes, and
what it multiplies in, is what the graph says. Layers that only move or combine values have no entry of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import ConfigError, ExportError
from base.files import sha256_file
from base.onnx_files import graph_errors, read_onnx
from base.onnx_shapes import fold_shapes_
from export.onnx_checks import check_model
from export.onnx_graph import metadata
from export.precision import graph_precision
from export.qdq.precision_map import LayerPrecision, precision_map
from export.qdq.view import DEQUANTIZE, QUANTIZE, GraphView
from quant.roofline import DEVICES, Device

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_PILLARS", "GPUS", "GraphFacts", "LayerFacts", "TensorFacts", "inspect_graph", "layer_key"]

GPUS = {"h100": "h100", "h200": "h200", "orin": "orin-agx-64", **{name: name for name in DEVICES}}
DEFAULT_PILLARS = 10_000
# Tensor cores multiply FP32 as TF32, at half the rate of FP16.
_TF32_SHARE = 0.5


@dataclass(frozen=True)
class TensorFacts:
    """A graph input or output; `shape` has a name where an axis is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class LayerFacts:
    """One layer with weights.

    Attributes:
        path: Module it was traced from, or the node's name where that says nothing.
        op: ONNX operator.
        kernel: Spatial size of its weight; empty for a matrix.
        precision, output_precision: "int8", "fp16" or "fp32": what it multiplies in, what it writes.
        parameters: Elements of its weights.
        flop: Operations; a multiplication with its accumulation counts as two.
        moved_bytes: Read, written, and its weights.
        roofline_s: Lower limit of its time on the GPU.
        bound: "compute" or "memory", whichever takes longer.
    """

    path: str
    op: str
    kernel: tuple[int, ...]
    precision: str
    output_precision: str
    parameters: int
    flop: int
    moved_bytes: int
    roofline_s: float
    bound: str


@dataclass(frozen=True)
class GraphFacts:
    """One ONNX file.

    Attributes:
        file: Its name.
        size_bytes, sha256: Of the file.
        opset: Of ONNX's own operators.
        precision: What it computes in: "fp32", "fp16", "mixed" or "int8".
        inputs, outputs: In graph order.
        parameters: Elements of its weights and biases; scales and zero points are none.
        operators: Operator -> number of nodes.
        notes: What the exporter wrote into the file.
        device: GPU of the rooflines.
        layers: In graph order.
    """

    file: str
    size_bytes: int
    sha256: str
    opset: int
    precision: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    parameters: int
    operators: Mapping[str, int]
    notes: Mapping[str, str]
    device: str
    layers: tuple[LayerFacts, ...]

    @property
    def flop(self) -> int:
        """Of all layers."""
        return sum(layer.flop for layer in self.layers)

    @property
    def roofline_s(self) -> float:
        """Of all layers, one after the other."""
        return sum(layer.roofline_s for layer in self.layers)


def inspect_graph(
    path: Path, gpu: str, pillars: int = DEFAULT_PILLARS, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> GraphFacts:
    """Reads an ONNX file.

    Args:
        path: The file.
        gpu: A name of `GPUS`.
        pillars: Size of a dynamic first axis.
        shapes: Input -> its shape, where more than the first axis is dynamic.

    Raises:
        ConfigError: an unknown GPU, a shape that does not fit, or an input with dynamic axes and no shape.
        ExportError: the file is missing or no valid ONNX.
    """
    if gpu not in GPUS:
        raise ConfigError(f"There is no GPU '{gpu}' to compute rooflines for; known are {', '.join(sorted(GPUS))}.")
    device = DEVICES[GPUS[gpu]]
    model = read_onnx(path)
    check_model(model, path.name)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    view = GraphView.of(model)
    layers = precision_map(_with_shapes(model, inputs, pillars, shapes or {}, path), what=path.name).layers
    return GraphFacts(
        file=path.name,
        size_bytes=path.stat().st_size,
        sha256=sha256_file(path),
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        precision=graph_precision(model),
        inputs=tuple(_tensor(value) for value in inputs),
        outputs=tuple(_tensor(value) for value in model.graph.output),
        parameters=_parameters(model),
        operators=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        notes=metadata(model),
        device=device.name,
        layers=tuple(_layer(layer, view, device) for layer in layers),
    )


def layer_key(layer: LayerPrecision) -> str:
    """The name that a layer keeps from one export to another: its module, else its node."""
    return layer.path or layer.node or layer.op


def _tensor(value: onnx.ValueInfoProto) -> TensorFacts:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
    return TensorFacts(value.name, str(onnx.TensorProto.DataType.Name(tensor.elem_type)).lower(), shape)


def _with_shapes(
    model: onnx.ModelProto,
    inputs: list[onnx.ValueInfoProto],
    pillars: int,
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
) -> onnx.ModelProto:
    """A copy with every input of one fixed shape, from which shape inference finds all others."""
    import onnx

    unknown = sorted(set(shapes) - {value.name for value in inputs})
    if unknown:
        raise ConfigError(f"'{path}' has no input {unknown}; its inputs are {[value.name for value in inputs]}.")
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    names = {value.name for value in inputs}
    for value in fixed.graph.input:
        if value.name not in names:
            continue
        found = _tensor(value).shape
        wanted = shapes.get(value.name)
        if wanted is None:
            dynamic = [axis for axis, size in enumerate(found) if isinstance(size, str)]
            if dynamic not in ([], [0]):
                raise ConfigError(
                    f"Input '{value.name}' of '{path}' has dynamic axes {dynamic}; its layers have no size without a "
                    f"shape. Give one with --shape {value.name}={'x'.join(str(size) for size in found)}, numbers only."
                )
            wanted = tuple(pillars if isinstance(size, str) else size for size in found)
        if len(wanted) != len(found) or any(
            isinstance(have, int) and have != want for have, want in zip(found, wanted, strict=False)
        ):
            raise ConfigError(f"Input '{value.name}' of '{path}' has shape {list(found)}, not {list(wanted)}.")
        for dim, size in zip(value.type.tensor_type.shape.dim, wanted, strict=True):
            dim.ClearField("dim_param")
            dim.dim_value = size
    for value in fixed.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    try:
        fold_shapes_(fixed)
    except graph_errors() as error:
        raise ExportError(f"'{path}': {error}. Export it again.") from error
    return fixed


def _parameters(model: onnx.ModelProto) -> int:
    import onnx

    # Scales and zero points belong to the precision, integers to shapes and indices.
    scales = {
        name for node in model.graph.node if node.op_type in (QUANTIZE, DEQUANTIZE) for name in list(node.input)[1:]
    }
    kinds = {onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.name not in scales and tensor.data_type not in kinds
    )


def _layer(layer: LayerPrecision, view: GraphView, device: Device) -> LayerFacts:
    node = next(item for item in view.nodes(layer.op) if item.name == layer.node)
    weight = view.weight_dequantizer(node)
    stored = view.initializers[weight.input[0] if weight is not None else node.input[1]]
    flop = 2 * layer.macs
    moved = layer.input_bytes + layer.weight_bytes + layer.output_bytes
    peak = device.peak("int8" if layer.precision == "int8" else "fp16")
    computing = flop / (peak * _TF32_SHARE if layer.precision == "fp32" else peak)
    moving = moved / device.bandwidth
    return LayerFacts(
        path=layer_key(layer),
        op=layer.op,
        kernel=layer.kernel,
        precision=layer.precision,
        output_precision=layer.output_precision,
        parameters=math.prod(stored.dims),
        flop=flop,
        moved_bytes=moved,
        roofline_s=max(computing, moving),
        bound="compute" if computing >= moving else "memory",
    )
