"""Exported graphs brought to one form: equal models give equal bytes, and a file knows what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["METADATA_PREFIX", "PRODUCER", "canonicalize_", "metadata", "set_metadata_"]

METADATA_PREFIX = "centerpoint."

PRODUCER = "centerpoint-deploy"
# Input slot of an operator -> what the initializer in it is called.
_SLOT_NAMES = {
    "Conv": ("input", "weight", "bias"),
    "ConvTranspose": ("input", "weight", "bias"),
    "BatchNormalization": ("input", "weight", "bias", "running_mean", "running_var"),
    "QuantizeLinear": ("input", "scale", "zero_point"),
    "DequantizeLinear": ("codes", "scale", "zero_point"),
}


def canonicalize_(model: onnx.ModelProto, graph_name: str) -> None:
    """Removes what depends on the run, the exporter's version or the order of its passes; changes `model` in place.

    Weights are named after the node that reads them (`/pts_backbone/blocks.0/blocks.0.0/Conv.weight`), each node with a
    copy of its own: the exporter shares equal tensors through Identity nodes, which would tie weights together that
    are equal by accident and hide them from builders that want constants.
    """
    graph = model.graph
    model.producer_name, model.producer_version = PRODUCER, ""
    model.domain, model.doc_string, model.model_version = "", "", 1
    graph.name, graph.doc_string = graph_name, ""
    for node in graph.node:
        node.doc_string = ""
        node.ClearField("metadata_props")
    for tensor in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        tensor.doc_string = ""
    # Shapes of inner tensors are inferred afresh wherever they are wanted.
    del graph.value_info[:]
    _name_initializers(graph)


def _name_initializers(graph: onnx.GraphProto) -> None:
    import onnx

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    kept, source = [], {name: name for name in tensors}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        else:
            kept.append(node)
    # An initializer that is a graph output itself must keep its name and its Identity.
    outputs = {value.name for value in graph.output}
    if outputs & (set(source) - set(tensors)):
        return
    named: dict[str, onnx.TensorProto] = {}
    for node in kept:
        slots = _SLOT_NAMES.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name not in source:
                continue
            slot = slots[index] if index < len(slots) else f"input_{index}"
            copy = onnx.TensorProto()
            copy.CopyFrom(tensors[source[name]])
            copy.name = f"{node.name}.{slot}"
            named[copy.name] = copy
            node.input[index] = copy.name
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(named.values())


def set_metadata_(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Sets `centerpoint.<key>` in the file's metadata, sorted by key; other entries of that prefix are kept."""
    merged = {**metadata(model), **values}
    del model.metadata_props[:]
    for key in sorted(merged):
        model.metadata_props.add(key=METADATA_PREFIX + key, value=merged[key])


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """This project's entries in the file's metadata, without their prefix."""
    return {
        entry.key.removeprefix(METADATA_PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(METADATA_PREFIX)
    }
