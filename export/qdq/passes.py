"""Traced Q/DQ graphs brought into the form that integer kernels are matched on.

A trace repeats what PyTorch does: each quantizer a QuantizeLinear and a DequantizeLinear with constants of its own,
weights quantized anew at every run. `arrange_qdq` keeps what the graph computes and leaves

* weights as INT8 constants behind one DequantizeLinear, rounded half to even as QuantizeLinear does,
* one pair for each tensor and scale, whichever of its consumers asked for it,
* the same scale on every input of a concatenation and on its output, which is then a copy of codes,
* no pair whose values no integer kernel reads.

Pairs are named after their tensor: `/pts_backbone/blocks.0/blocks.0.2/Relu/QuantizeLinear`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ExportError
from export.qdq.view import DEQUANTIZE, INTEGER_OPS, QUANTIZE, GraphView, axis_of, is_quantized

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

__all__ = ["arrange_qdq", "quantize_weights"]

_logger = logging.getLogger(__name__)
_CODES = (-128, 127)


@dataclass
class _Draft:
    """A graph under way."""

    nodes: list[onnx.NodeProto]
    initializers: dict[str, onnx.TensorProto]
    outputs: tuple[str, ...]

    def view(self) -> GraphView:
        return GraphView(self.nodes, self.initializers, self.outputs)

    def add_initializer(self, name: str, value: npt.NDArray[np.generic]) -> None:
        import onnx

        self.initializers[name] = onnx.numpy_helper.from_array(value, name)

    def redirect(self, renamed: Mapping[str, str]) -> None:
        """Readers of a tensor read another one."""
        lost = sorted(set(self.outputs) & set(renamed))
        if lost:
            raise ExportError(
                f"Graph output(s) {', '.join(lost)} are quantized; a graph must end in floating point. Leave the last "
                "layers out of quantization, or let no quantizer follow them."
            )
        for node in self.nodes:
            for index, name in enumerate(node.input):
                while name in renamed:
                    name = renamed[name]
                node.input[index] = name

    def keep(self, wanted: Callable[[onnx.NodeProto], bool]) -> None:
        self.nodes = [node for node in self.nodes if wanted(node)]


def arrange_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a traced graph with its pairs arranged; a graph without pairs comes back as it is.

    Args:
        model: Valid ONNX, opset 13 or newer, FP32 beside the codes, scales and zero points constant.

    Raises:
        ExportError: a scale or zero point is no constant, or a graph output is quantized.
    """
    import onnx

    result: onnx.ModelProto = onnx.ModelProto()
    result.CopyFrom(model)
    if not is_quantized(result):
        return result
    graph = result.graph
    draft = _Draft(
        nodes=[_copy(node) for node in graph.node],
        initializers={tensor.name: tensor for tensor in model.graph.initializer},
        outputs=tuple(value.name for value in graph.output),
    )
    _own_constants(draft)
    _fold_weights(draft)
    _merge_pairs(draft)
    _share_concat_scales(draft)
    _merge_pairs(draft)
    _drop_idle_pairs(draft)
    _name_pairs(draft)
    used = {name for node in draft.nodes for name in node.input} | set(draft.outputs)
    kept = [tensor for name, tensor in draft.initializers.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(draft.nodes)
    graph.initializer.extend(kept)
    return result


def quantize_weights(
    weight: npt.NDArray[np.generic], scale: npt.NDArray[np.generic], axis: int
) -> npt.NDArray[np.int8]:
    """INT8 codes of a weight as QuantizeLinear computes them in FP32: w / s, halves to even, cut to -128 … 127.

    Args:
        weight: FP32, any shape.
        scale: Shape () or (weight.shape[axis],).
        axis: Dimension along which the scale varies.
    """
    import numpy as np

    shape = [1] * weight.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    codes = np.rint(weight.astype(np.float32) / scale.astype(np.float32).reshape(shape))
    result: npt.NDArray[np.int8] = np.clip(codes, *_CODES).astype(np.int8)
    return result


def _own_constants(draft: _Draft) -> None:
    """Scales and zero points become initializers."""
    view = draft.view()
    for node in view.nodes(QUANTIZE, DEQUANTIZE):
        for name in node.input[1:]:
            value = view.constant(name)
            if value is None:
                raise ExportError(
                    f"Node '{node.name}' ({node.op_type}) reads '{name}', which is no constant. Scales and zero points "
                    "must be fixed before the export: calibrate the model first."
                )
            draft.add_initializer(name, value)
    draft.keep(lambda node: node.op_type != "Constant" or node.output[0] not in draft.initializers)


def _fold_weights(draft: _Draft) -> None:
    view = draft.view()
    folded = set()
    for quantize in view.nodes(QUANTIZE):
        weight, scale = view.constant(quantize.input[0]), view.scale(quantize)
        if weight is None or scale is None:
            continue
        draft.add_initializer(quantize.output[0], quantize_weights(weight, scale, axis_of(quantize)))
        folded.add(quantize.output[0])
    draft.keep(lambda node: node.output[0] not in folded)
    _fold_transposes(draft)
    # A weight that several layers share gets a DQ node for each of them: kernels are matched layer by layer.
    view = draft.view()
    nodes, replaced = [], set()
    for node in draft.nodes:
        dequantize = view.weight_dequantizer(node)
        if dequantize is not None:
            own = _copy(dequantize)
            own.name = f"{node.name}.weight/{DEQUANTIZE}"
            own.output[0] = f"{own.name}_output_0"
            replaced.add(dequantize.output[0])
            node.input[1] = own.output[0]
            nodes.append(own)
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    draft.nodes = [node for node in nodes if node.output[0] not in replaced or node.output[0] in read]


def _fold_transposes(draft: _Draft) -> None:
    """The weight of a linear layer is transposed behind its DQ node; its codes can be instead."""
    import numpy as np
    import onnx

    view = draft.view()
    renamed = {}
    for transpose in view.nodes("Transpose"):
        dequantize = view.producer(transpose.input[0], DEQUANTIZE)
        codes = view.constant(dequantize.input[0]) if dequantize is not None else None
        if dequantize is None or codes is None:
            continue
        order = next(list(attribute.ints) for attribute in transpose.attribute if attribute.name == "perm")
        own = _copy(dequantize)
        own.input[0], own.output[0] = f"{transpose.output[0]}/codes", f"{transpose.output[0]}/values"
        draft.add_initializer(own.input[0], np.transpose(codes, order))
        del own.attribute[:]
        own.attribute.append(onnx.helper.make_attribute("axis", order.index(axis_of(dequantize))))
        draft.nodes[next(index for index, node in enumerate(draft.nodes) if node is transpose)] = own
        renamed[transpose.output[0]] = own.output[0]
    draft.redirect(renamed)
    read = {name for node in draft.nodes for name in node.input} | set(draft.outputs)
    draft.keep(lambda node: node.op_type != DEQUANTIZE or node.output[0] in read)


def _merge_pairs(draft: _Draft) -> None:
    """One Q for each tensor and scale, one DQ for each Q and scale; the first in graph order stays."""
    for op_type in (QUANTIZE, DEQUANTIZE):
        view = draft.view()
        renamed: dict[str, str] = {}
        for tensor, readers in view.consumers.items():
            kept: list[onnx.NodeProto] = []
            for node in readers:
                if node.op_type != op_type or node.input[0] != tensor or tensor in view.initializers:
                    continue
                twin = next((other for other in kept if view.same_scale(other, node)), None)
                if twin is None:
                    kept.append(node)
                else:
                    renamed[node.output[0]] = twin.output[0]
        draft.redirect(renamed)
        draft.keep(lambda node, gone=renamed: node.output[0] not in gone)  # type: ignore[misc]


def _share_concat_scales(draft: _Draft) -> None:
    """Quantizing element by element commutes with concatenation, so neither direction changes a value."""
    for name in [node.output[0] for node in draft.view().nodes("Concat")]:
        view = draft.view()
        concat, readers = view.producers[name], view.readers(name)
        sources = [view.producer(tensor, DEQUANTIZE) for tensor in concat.input]
        if readers and name not in view.outputs and all(node.op_type == QUANTIZE for node in readers):
            for index, source in enumerate(sources):
                if source is None or not view.same_scale(source, readers[0]):
                    concat.input[index] = _insert_pair(draft, concat.input[index], readers[0], before=concat)
            continue
        first = sources[0]
        if first is not None and all(source is not None and view.same_scale(source, first) for source in sources):
            # The reader of the codes, if any, sits behind the concatenation.
            if not any(reader.op_type in INTEGER_OPS and view.weight_dequantizer(reader) for reader in readers):
                continue
            position = next(index for index, node in enumerate(draft.nodes) if node is concat) + 1
            dequantized = _insert_pair(draft, name, first, before=draft.nodes[position])
            for node in readers:
                for index, tensor in enumerate(node.input):
                    if tensor == name:
                        node.input[index] = dequantized


def _insert_pair(draft: _Draft, tensor: str, like: onnx.NodeProto, *, before: onnx.NodeProto) -> str:
    """Puts a pair with the scale of `like` on `tensor`; returns the dequantized tensor."""
    import onnx

    stem = f"{tensor}/{len(draft.nodes)}"
    codes, values = f"{stem}/codes", f"{stem}/values"
    constants = list(like.input[1:])
    position = next(index for index, node in enumerate(draft.nodes) if node is before)
    draft.nodes[position:position] = [
        onnx.helper.make_node(QUANTIZE, [tensor, *constants], [codes], f"{stem}/{QUANTIZE}"),
        onnx.helper.make_node(DEQUANTIZE, [codes, *constants], [values], f"{stem}/{DEQUANTIZE}"),
    ]
    return values


def _drop_idle_pairs(draft: _Draft) -> None:
    while True:
        view = draft.view()
        renamed = {}
        for quantize, dequantize in view.activation_pairs():
            if not view.feeds_integers(dequantize):
                renamed[dequantize.output[0]] = quantize.input[0]
                _logger.info("no integer kernel reads '%s'; its Q/DQ pair is left out", quantize.input[0])
        if not renamed:
            return
        draft.redirect(renamed)
        draft.keep(lambda node, gone=renamed: node.output[0] not in gone)  # type: ignore[misc]
        read = {name for node in draft.nodes for name in node.input}
        draft.keep(lambda node, used=read: node.op_type != QUANTIZE or node.output[0] in used)  # type: ignore[misc]


def _name_pairs(draft: _Draft) -> None:
    view = draft.view()
    taken: set[str] = set()
    renamed: dict[str, str] = {}
    for quantize in view.nodes(QUANTIZE):
        stem = "/" + quantize.input[0].removesuffix("_output_0").lstrip("/")
        suffix, number = "", 0
        while f"{stem}/{QUANTIZE}{suffix}" in taken:
            number += 1
            suffix = f"_{number}"
        quantize.name = f"{stem}/{QUANTIZE}{suffix}"
        taken.add(quantize.name)
        renamed[quantize.output[0]] = f"{quantize.name}_output_0"
        for reader in view.readers(quantize.output[0]):
            if reader.op_type == DEQUANTIZE:
                reader.name = f"{stem}/{DEQUANTIZE}{suffix}"
                renamed[reader.output[0]] = f"{reader.name}_output_0"
    for node in draft.nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    copy: onnx.NodeProto = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
