"""What a quantized graph computes in beside its codes: FP32, or FP16 with FP32 inputs and outputs.

In FP16, a float tensor that exists on paper only stays FP32: what lies between an integer layer and the quantizer of
its output, between the pairs of a concatenation, or between a graph input and its quantizer. Builders fuse it, with
FP32 arithmetic inside the kernel, so the type costs nothing and says what happens. (ONNX Runtime, too, needs it: it
rounds a bias there to INT32 by a division in that type, which overflows FP16, and its fused concatenation takes FP32
scales alone.) Every float tensor that a kernel writes to memory is FP16.

A transposed convolution writes floats in TensorRT-RTX, whatever follows, so that it is FP16 too; its bias becomes an
addition behind it, which ONNX Runtime leaves alone and a builder fuses with the ReLU and the quantizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.errors import ExportError
from export.precision import convert_precision
from export.qdq.view import DEQUANTIZE, INTEGER_OPS, QUANTIZE, GraphView

if TYPE_CHECKING:
    import onnx

__all__ = ["convert_qdq_precision"]

# Operators that a kernel applies to its result before it writes it.
_FUSED = ("Relu", "Clip", "LeakyRelu")


def convert_qdq_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of an arranged FP32 graph in the asked precision beside its codes.

    Args:
        model: What `arrange_qdq` returns, with an initializer of its own for every node; opset 19 or newer for "fp16".
        precision: "fp32" or "fp16".

    Raises:
        ExportError: a scale is not exact in FP16, or what `convert_precision` refuses.
    """
    if precision != "fp16":
        return convert_precision(model, precision)
    import onnx

    _check_scales(model)
    result: onnx.ModelProto = onnx.ModelProto()
    result.CopyFrom(model)
    _split_transposed_biases(result)
    kept = _split_dequantizers(result, _on_paper(GraphView.of(result)))
    return convert_precision(result, precision, keep_fp32=kept)


def _check_scales(model: onnx.ModelProto) -> None:
    import numpy as np

    view = GraphView.of(model)
    for node in view.nodes(QUANTIZE, DEQUANTIZE):
        scale = view.scale(node)
        if scale is None:
            continue
        with np.errstate(over="ignore"):
            half = scale.astype(np.float16).astype(np.float64)
        wrong = scale.astype(np.float64)[half != scale]
        if wrong.size:
            raise ExportError(
                f"{wrong.size} scale(s) of '{node.name}' are not exact in FP16, such as {wrong.ravel()[0]:.9g}: "
                "PyTorch, ONNX Runtime and TensorRT would each quantize a little differently. Round scales to eight "
                "significant bits (quant.quantizer.round_scale), or keep the rest of the graph in FP32."
            )


def _split_transposed_biases(model: onnx.ModelProto) -> None:
    import onnx

    view = GraphView.of(model)
    nodes = []
    for node in view.order:
        nodes.append(node)
        if node.op_type != "ConvTranspose" or len(node.input) < 3 or view.weight_dequantizer(node) is None:
            continue
        name, bias = node.output[0], view.initializers[node.input[2]]
        value = onnx.numpy_helper.to_array(bias).reshape(1, -1, 1, 1)
        bias.CopyFrom(onnx.numpy_helper.from_array(value, bias.name))
        node.output[0] = f"{node.name}.product"
        nodes.append(onnx.helper.make_node("Add", [node.output[0], node.input[2]], [name], f"{node.name}.bias/Add"))
        del node.input[2]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _on_paper(view: GraphView) -> set[str]:
    """Names of the nodes all of whose float tensors are fused away, but for the DQ nodes in front of them."""
    kept: set[str] = set()
    for quantize in view.nodes(QUANTIZE):
        tensor, path = quantize.input[0], [quantize]
        while _read_once(view, tensor):
            node = view.producers.get(tensor)
            if node is None or node.op_type not in _FUSED:
                break
            path.append(node)
            tensor = node.input[0]
        if not _read_once(view, tensor):
            continue
        producer = view.producers.get(tensor)
        if producer is None:
            kept.update(node.name for node in path)
            continue
        weight = view.weight_dequantizer(producer)
        sources = list(producer.input)
        if producer.op_type in INTEGER_OPS and producer.op_type != "ConvTranspose" and weight is not None:
            sources = sources[:1]
            path.append(weight)
        elif producer.op_type != "Concat":
            continue
        if all(view.producer(name, DEQUANTIZE) is not None for name in sources):
            kept.update(node.name for node in (*path, producer))
    return kept


def _read_once(view: GraphView, tensor: str) -> bool:
    return len(view.readers(tensor)) == 1 and tensor not in view.outputs


def _split_dequantizers(model: onnx.ModelProto, kept: set[str]) -> frozenset[str]:
    """Adds the DQ nodes that kept nodes read; one that others read as well gets a twin for those, ending in `_fp16`."""
    import onnx

    view = GraphView.of(model)
    nodes, more = [], set()
    for node in view.order:
        nodes.append(node)
        readers = view.readers(node.output[0]) if node.op_type == DEQUANTIZE else []
        if node.name in kept or not any(reader.name in kept for reader in readers):
            continue
        more.add(node.name)
        others = [reader for reader in readers if reader.name not in kept]
        if not others:
            continue
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{node.name}_fp16"
        twin.output[0] = f"{twin.name}_output_0"
        for index, slot in ((1, "scale"), (2, "zero_point")):
            copy = onnx.TensorProto()
            copy.CopyFrom(view.initializers[node.input[index]])
            copy.name = twin.input[index] = f"{twin.name}.{slot}"
            model.graph.initializer.append(copy)
        for reader in others:
            for index, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[index] = twin.output[0]
        nodes.append(twin)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return frozenset(kept | more)
