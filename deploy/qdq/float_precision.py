"""What a quantized graph computes in beside its codes: FP32, or FP16 with FP32 inputs and outputs.

In FP16 two places stay FP32, where a float tensor exists on paper only:

* a graph input that is quantized at once is quantized from FP32, without a rounding to FP16 before it;
* between the DQ and Q nodes of a concatenation, which a builder turns into a copy of codes. (ONNX Runtime's fused
  operator for it takes FP32 scales alone, and refuses the whole model otherwise.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.errors import ExportError
from deploy.precision import convert_precision
from deploy.qdq.view import DEQUANTIZE, QUANTIZE, GraphView

if TYPE_CHECKING:
    import onnx

__all__ = ["convert_qdq_precision"]


def convert_qdq_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of an arranged FP32 graph in the asked precision beside its codes.

    Args:
        model: What `arrange_qdq` returns, with an initializer of its own for every node; opset 19 or newer for "fp16".
        precision: "fp32" or "fp16".

    Raises:
        ExportError: a scale is not exact in FP16, or what `convert_precision` refuses.
    """
    if precision == "fp16":
        _check_scales(model)
    result = convert_precision(model, precision)
    if precision == "fp16":
        _quantize_inputs_from_fp32(result)
        _keep_concats_in_fp32(result)
    return result


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


def _quantize_inputs_from_fp32(model: onnx.ModelProto) -> None:
    view = GraphView.of(model)
    unused = set()
    for cast in view.nodes("Cast"):
        readers = view.readers(cast.output[0])
        if cast.input[0] in view.producers or not readers or any(node.op_type != QUANTIZE for node in readers):
            continue
        for node in readers:
            node.input[0] = cast.input[0]
            _to_fp32(view, node)
        unused.add(cast.output[0])
    nodes = [node for node in view.order if node.output[0] not in unused]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _keep_concats_in_fp32(model: onnx.ModelProto) -> None:
    view = GraphView.of(model)
    for concat in view.nodes("Concat"):
        before = [view.producer(name, DEQUANTIZE) for name in concat.input]
        after = view.readers(concat.output[0])
        sources = [node for node in before if node is not None]
        own = all(len(view.readers(node.output[0])) == 1 for node in sources)
        if len(sources) == len(before) and own and after and all(node.op_type == QUANTIZE for node in after):
            for node in (*sources, *after):
                _to_fp32(view, node)


def _to_fp32(view: GraphView, node: onnx.NodeProto) -> None:
    """FP32 for the scale of one node, which decides the type of its float side; exact for scales that FP16 holds."""
    import numpy as np
    import onnx

    tensor = view.initializers[node.input[1]]
    value = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
