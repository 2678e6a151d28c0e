"""Pillar encoders as ONNX files, written node by node."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.spec import INPUT_FEATURES, PILLAR_FEATURES
from runtime.pillar_weights import PfnLayer, PillarWeights

__all__ = ["encoder_weights", "write_encoder"]


def encoder_weights(features: int, channels: tuple[int, ...]) -> PillarWeights:
    """Random layers with the given channels, the first on so many features of a point."""
    rng = np.random.default_rng(0)
    sizes = (features, *(2 * size for size in channels[:-1]))
    layers = (
        PfnLayer(rng.normal(0, 0.3, (rows, columns)).astype(np.float32), rng.normal(0, 0.5, columns).astype(np.float32))
        for rows, columns in zip(sizes, channels, strict=True)
    )
    return PillarWeights(tuple(layers))


def write_encoder(
    path: Path,
    weights: PillarWeights,
    *,
    slots_per_pillar: int = 32,
    reduce: str = "ReduceMax",
    begin: str = "",
    end: str = "",
) -> None:
    """An encoder as the quantization writes it, with the given nodes in its place of theirs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, slots = [], [], INPUT_FEATURES
    if begin:
        nodes.append(helper.make_node(begin, [slots], ["begun"], "begin"))
        slots = "begun"
    last = len(weights.layers) - 1
    for index, layer in enumerate(weights.layers):
        constants += [
            numpy_helper.from_array(layer.weight, f"w{index}"),
            numpy_helper.from_array(layer.bias, f"b{index}"),
        ]
        nodes += [
            helper.make_node("MatMul", [slots, f"w{index}"], [f"p{index}"], f"product_{index}"),
            helper.make_node("Add", [f"p{index}", f"b{index}"], [f"s{index}"], f"sum_{index}"),
            helper.make_node("Relu", [f"s{index}"], [f"r{index}"], f"relu_{index}"),
            helper.make_node(reduce, [f"r{index}"], [f"m{index}"], f"largest_{index}", axes=[1]),
        ]
        if index < last:
            nodes += [
                helper.make_node("Shape", [f"r{index}"], [f"shape{index}"], f"shape_{index}"),
                helper.make_node("Expand", [f"m{index}", f"shape{index}"], [f"e{index}"], f"expand_{index}"),
                helper.make_node("Concat", [f"r{index}", f"e{index}"], [f"c{index}"], f"join_{index}", axis=2),
            ]
        slots = f"c{index}"
    nodes.append(helper.make_node(end or "Identity", [f"m{last}"], [PILLAR_FEATURES], "end"))
    value = helper.make_tensor_value_info
    inputs = [value(INPUT_FEATURES, TensorProto.FLOAT, ["n", slots_per_pillar, weights.features])]
    outputs = [value(PILLAR_FEATURES, TensorProto.FLOAT, ["n", 1, weights.channels])]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
