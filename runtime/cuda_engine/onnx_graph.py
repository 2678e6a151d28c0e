"""An exported ONNX graph looked at one node at a time: tensors, constants, scales and the kernels of convolutions.

Every question that a node cannot answer in the engine's terms ends in an ExportError with the node's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ConfigError, ExportError
from base.onnx_files import attribute, label, read_onnx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

__all__ = ["Graph", "Kernel", "Reading", "read_graph", "read_kernel"]

OPERATORS = (
    "Add",
    "BatchNormalization",
    "Cast",
    "Concat",
    "Constant",
    "Conv",
    "ConvTranspose",
    "DequantizeLinear",
    "QuantizeLinear",
    "Relu",
)
_FP16_MAX = 65504.0
_MAX_STEP = 64  # cells of a stride or of padding; what is beyond is a broken file
_KEEP_FLOAT = "keep the layer in floating point (--skip-layer of export.tools.calibrate)"


@dataclass(frozen=True)
class Reading:
    """What a node finds at one of its inputs.

    Attributes:
        origin: The floating-point tensor that was computed, behind all casts and pairs.
        name: The tensor whose elements are stored: the codes of `origin`, or `origin` itself.
        scale: Step of the codes, or None without a pair.
    """

    origin: str
    name: str
    scale: float | None


@dataclass(frozen=True, eq=False)
class Kernel:
    """Constants of a Conv or ConvTranspose, as `plan.FusedConv` describes them; `rounded`: from FP32 weights."""

    weight: NDArray[np.int8] | NDArray[np.float16]
    weight_scale: NDArray[np.float32] | None
    bias: NDArray[np.float32]
    stride: int
    padding: int
    upsample: int
    rounded: bool


class Graph:
    """Who makes and who reads each tensor.

    Attributes:
        order: Node name -> its position in the graph.
        producers: Tensor -> the node that makes it.
        inputs, outputs: The graph's own tensors as ONNX declares them, without constants.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        graph = model.graph
        self.producers: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._position = {node.output[0]: index for index, node in enumerate(graph.node)}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
                raise ExportError(
                    f"{label(node)} has an operator that the engine does not run; it runs {', '.join(OPERATORS)}. "
                    "Export pts_backbone_neck_head of a model with SECOND, SECONDFPN and CenterHead by deploy.export, "
                    "or use another backend."
                )
            if node.op_type == "Constant":
                self._constants.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self.inputs = [value for value in graph.input if value.name not in self._constants]
        self.outputs = list(graph.output)
        self._output_names = {value.name for value in graph.output}
        self._float_types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)

    def position(self, node: onnx.NodeProto) -> int:
        """Index of a node in the graph."""
        return self._position[node.output[0]]

    def constant(self, name: str) -> NDArray[Any] | None:
        """Value of an initializer or Constant node; None for a tensor that is computed."""
        import onnx

        tensor = self._constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)

    def uncast(self, tensor: str) -> str:
        """The tensor in front of all casts between floating-point types."""
        while (node := self.producers.get(tensor)) is not None and node.op_type == "Cast":
            if attribute(node, "to", 0) not in self._float_types:
                raise ExportError(
                    f"{label(node)} casts to a type that is no float32 or float16. Export the model again."
                )
            tensor = node.input[0]
        return tensor

    def only_reader(self, tensor: str, reader: onnx.NodeProto) -> None:
        """Checks that a tensor, which the engine does not store, is read by one node only.

        Raises:
            ExportError: somebody else needs it.
        """
        others = [node for node in self._readers.get(tensor, []) if node.output[0] != reader.output[0]]
        if others or tensor in self._output_names:
            who = f"{label(others[0])} reads it too" if others else "it is an output of the graph too"
            raise ExportError(
                f"{label(reader)} is fused with what makes its input '{tensor}', which is not stored, but {who}. "
                "The engine runs networks whose layers read results behind bias and ReLU; use another backend."
            )

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Nodes that read a tensor."""
        return list(self._readers.get(tensor, []))

    def is_output(self, tensor: str) -> bool:
        """Whether a tensor leaves the graph."""
        return tensor in self._output_names

    def weight_shape(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Of a convolution as ONNX lays it out, quantized or not; empty where it is no constant."""
        name = node.input[1]
        producer = self.producers.get(name)
        if producer is not None and producer.op_type == "DequantizeLinear":
            name = producer.input[0]
        weight = self._constants.get(name)
        return () if weight is None else tuple(weight.dims)

    def reading(self, tensor: str) -> Reading:
        """Follows an input back through casts and a Q/DQ pair to the tensor that was computed."""
        tensor = self.uncast(tensor)
        node = self.producers.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return Reading(tensor, tensor, None)
        quantize = self.producers.get(node.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            raise ExportError(f"{label(node)} reads codes that no QuantizeLinear makes. Export the model again.")
        scale, before = self._step(node), self._step(quantize)
        if scale != before:
            raise ExportError(
                f"{label(node)} has the scale {scale:.9g}, but its codes are made by '{quantize.name}' with "
                f"{before:.9g}. A pair has one scale; export the model again."
            )
        return Reading(self.uncast(quantize.input[0]), node.input[0], scale)

    def _step(self, node: onnx.NodeProto) -> float:
        scale = self.constant(node.input[1])
        if scale is None or scale.size != 1 or not np.isfinite(scale).all() or not (scale > 0).all():
            shown = "computed" if scale is None else f"{scale.ravel()[:3].tolist()} of shape {list(scale.shape)}"
            raise ExportError(
                f"{label(node)} has a scale that is {shown}; a map has one positive constant. Calibrate the model with "
                "this project and export it again."
            )
        self.check_zero_point(node)
        return float(scale.ravel()[0])

    def check_zero_point(self, node: onnx.NodeProto) -> None:
        """Checks that a Q or DQ node has signed codes with zero point 0.

        Raises:
            ExportError: it has not.
        """
        zero_point = self.constant(node.input[2]) if len(node.input) > 2 else None
        if zero_point is None or zero_point.dtype != np.int8 or np.any(zero_point != 0):
            shown = "none" if zero_point is None else f"{zero_point.dtype} {zero_point.ravel()[:3].tolist()}"
            raise ExportError(
                f"{label(node)} has the zero point {shown}; the engine runs signed INT8 codes with zero point 0. "
                "Quantize the model with this project and export it again."
            )


def read_graph(path: Path) -> Graph:
    """Reads an ONNX file.

    Raises:
        ConfigError: there is no such file.
        ExportError: it is no valid ONNX file, or holds an operator that the engine does not run.
        MissingDependencyError: the package onnx is not installed.
    """
    if not path.exists():
        raise ConfigError(f"ONNX file is missing: {path}. Export it with --mode=onnx.")
    return Graph(read_onnx(path))


def read_kernel(graph: Graph, node: onnx.NodeProto, affine: Sequence[onnx.NodeProto], quantized: bool) -> Kernel:
    """Weights, bias and geometry of a convolution.

    Args:
        node: A Conv or ConvTranspose.
        affine: The Add and BatchNormalization nodes behind it, in the order of the graph; they are folded in.
        quantized: Whether its input is INT8 codes.

    Raises:
        ExportError: it is not a convolution that the engine runs.
    """
    transposed = node.op_type == "ConvTranspose"
    weight, scale = _weight(graph, node, quantized)
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
        raise ExportError(
            f"{label(node)} has a weight of shape {list(weight.shape)}; the engine runs two-dimensional convolutions "
            "with square kernels. Use another backend."
        )
    stride, padding = _geometry(node, int(weight.shape[2]))
    if transposed:
        weight = weight.transpose(1, 0, 2, 3)
    channels = int(weight.shape[0])
    bias: NDArray[np.float32] = np.zeros(channels, np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = _channel_vector(graph, node, node.input[2], channels)
    gain, bias = _fold(graph, affine, bias)
    rounded = weight.dtype == np.float32
    if scale is not None:
        _check_gain(gain, affine)
        scale = np.asarray(np.broadcast_to(scale.astype(np.float32).ravel(), (channels,)) * gain)
    elif rounded or not (gain == 1).all():
        weight = _to_half(weight * gain[:, None, None, None], node)
    return Kernel(
        weight=np.ascontiguousarray(weight),
        weight_scale=scale,
        bias=bias,
        stride=1 if transposed else stride,
        padding=padding,
        upsample=stride if transposed else 1,
        rounded=rounded,
    )


def _weight(graph: Graph, node: onnx.NodeProto, quantized: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The weight as ONNX lays it out, int8 with scales, or a float type."""
    producer = graph.producers.get(node.input[1])
    dequantize = producer if producer is not None and producer.op_type == "DequantizeLinear" else None
    if quantized != (dequantize is not None):
        has, lacks = ("input", "a weight") if quantized else ("weight", "an input")
        raise ExportError(
            f"{label(node)} has an INT8 {has} and {lacks} in floating point; the engine runs layers with both or "
            "neither. Export with this project, which quantizes both; or " + _KEEP_FLOAT + "."
        )
    weight = graph.constant(dequantize.input[0] if dequantize is not None else node.input[1])
    wanted = (np.int8,) if quantized else (np.float16, np.float32)
    if weight is None or weight.dtype not in wanted:
        shown = "computed in the graph" if weight is None else f"of type {weight.dtype}"
        raise ExportError(
            f"{label(node)} has a weight that is {shown}; the engine takes a constant of "
            f"{' or '.join(np.dtype(item).name for item in wanted)}. Export the model again with this project."
        )
    if dequantize is None:
        return weight, None
    graph.check_zero_point(dequantize)
    scale = graph.constant(dequantize.input[1])
    output_axis = 1 if node.op_type == "ConvTranspose" else 0
    fits = scale is not None and (
        scale.size == 1 or (scale.size == weight.shape[output_axis] and attribute(dequantize, "axis", 1) == output_axis)
    )
    if scale is None or not fits or not (np.isfinite(scale) & (scale > 0)).all():
        raise ExportError(
            f"{label(dequantize)} is to have one positive constant scale for each output channel (axis {output_axis}) "
            f"of '{node.name}', and has not. Calibrate the model with this project and export it again."
        )
    return weight, scale


def _geometry(node: onnx.NodeProto, kernel: int) -> tuple[int, int]:
    """Stride and padding; refuses what else a convolution can have."""
    transposed = node.op_type == "ConvTranspose"
    strides, pads = attribute(node, "strides", (1, 1)), attribute(node, "pads", (0, 0, 0, 0))
    group, dilations = attribute(node, "group", 1), attribute(node, "dilations", (1, 1))
    auto_pad, more = attribute(node, "auto_pad", "NOTSET"), attribute(node, "output_padding", (0, 0))
    shape = attribute(node, "output_shape", ())
    taken: dict[str, tuple[object, bool]] = {
        "group": (group, group == 1),
        "dilations": (list(dilations), set(dilations) == {1}),
        "auto_pad": (auto_pad, auto_pad in ("", "NOTSET")),
        "strides": (list(strides), len(strides) == 2 and len(set(strides)) == 1 and 1 <= strides[0] <= _MAX_STEP),
        "pads": (list(pads), len(pads) == 4 and len(set(pads)) == 1 and 0 <= pads[0] <= _MAX_STEP),
        "output_padding": (list(more), set(more) == {0}),
        "output_shape": (list(shape), not shape),
    }
    for name, (value, accepted) in taken.items():
        if not accepted:
            raise ExportError(
                f"{label(node)} has {name}={value}; the engine runs convolutions with group and dilations 1 and the "
                "same stride and padding on all sides. Use another backend."
            )
    if transposed and (strides[0] != kernel or pads[0] != 0):
        raise ExportError(
            f"{label(node)} has kernel {kernel}, stride {strides[0]} and padding {pads[0]}; the engine runs transposed "
            "convolutions whose kernel is their stride, without padding, as SECONDFPN makes them. Use another backend."
        )
    return strides[0], pads[0]


def _fold(
    graph: Graph, affine: Sequence[onnx.NodeProto], bias: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What nodes behind a convolution make of its result x + bias: x * gain + bias, with a new bias."""
    channels = len(bias)
    gain, offset = np.ones(channels), bias.astype(np.float64)
    for node in affine:
        if node.op_type == "Add":
            (name,) = (name for name in node.input if graph.constant(name) is not None)
            offset = offset + _channel_vector(graph, node, name, channels, leading=True)
            continue
        scale, shift, mean, variance = (
            _channel_vector(graph, node, name, channels).astype(np.float64) for name in node.input[1:5]
        )
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        gain, offset = gain * factor, (offset - mean) * factor + shift
    return gain.astype(np.float32), offset.astype(np.float32)


def _channel_vector(
    graph: Graph, node: onnx.NodeProto, name: str, channels: int, *, leading: bool = False
) -> NDArray[np.float32]:
    """A constant with a value for each channel; `leading`: of shape (1, C, 1, 1) or (C, 1, 1), as an Add takes it."""
    value = graph.constant(name)
    if value is None or value.size != channels or (leading and value.shape[-3:] != (channels, 1, 1)):
        shown = "computed in the graph" if value is None else f"of shape {list(value.shape)}"
        raise ExportError(
            f"{label(node)} reads '{name}', which is {shown}; the engine takes a constant with a value for each of the "
            f"{channels} output channels. Export the model again with this project."
        )
    return value.astype(np.float32).ravel()


def _check_gain(gain: NDArray[np.float32], affine: Sequence[onnx.NodeProto]) -> None:
    if not (gain > 0).all():
        node = next(item for item in affine if item.op_type == "BatchNormalization")
        raise ExportError(
            f"{label(node)} multiplies {int((gain <= 0).sum())} channel(s) of an INT8 convolution by a number that is "
            "not positive, which no scale can take over. Fold BatchNorm before the model is quantized (fuse_bn=True)."
        )


def _to_half(weight: NDArray[Any], node: onnx.NodeProto) -> NDArray[np.float16]:
    largest = float(np.abs(weight).max(initial=0.0))
    if not largest <= _FP16_MAX:
        raise ExportError(
            f"{label(node)} has weights up to {largest:g}, beyond float16's largest number {_FP16_MAX:g}, in which the "
            "engine multiplies. Use another backend for this model."
        )
    return weight.astype(np.float16)
