"""Each rule, broken once in an otherwise good graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from base.errors import ExportError
from export.onnx_graph import canonicalize_
from export.qdq.passes import arrange_qdq
from export.qdq.rules import RULES, check_qdq, require_rules
from tests.export.quantized_toy import QuantizedToy, trace

LAYERS = {"block0": True, "block1": True, "branch0": True, "branch1": True, "shared": True, "last": False}


@pytest.fixture(scope="module")
def good() -> onnx.ModelProto:
    torch.set_num_threads(1)
    model = trace(QuantizedToy())
    canonicalize_(model, "toy")
    model = arrange_qdq(model)
    canonicalize_(model, "toy")
    return model


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    node: onnx.NodeProto
    (node,) = [node for node in model.graph.node if node.name == name]
    return node


def _set(model: onnx.ModelProto, name: str, value: Any) -> None:
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def _drop(model: onnx.ModelProto, name: str, reads: str) -> None:
    """Without a node; its readers read another tensor."""
    node = _node(model, name)
    for reader in model.graph.node:
        for index, tensor in enumerate(reader.input):
            if tensor == node.output[0]:
                reader.input[index] = reads
    model.graph.node.remove(node)


def _float_activation(model: onnx.ModelProto) -> None:
    _node(model, "/shared/Conv").input[0] = "/Concat_output_0"


def _float_weight(model: onnx.ModelProto) -> None:
    # As many values as codes.
    codes = next(t for t in model.graph.initializer if t.name == "/block1/Conv.weight/DequantizeLinear.codes")
    model.graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(codes).astype(np.float32), "float_weight")
    )
    _drop(model, "/block1/Conv.weight/DequantizeLinear", "float_weight")


def _wide_codes(model: onnx.ModelProto) -> None:
    name = "/block1/Conv.weight/DequantizeLinear.codes"
    codes = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
    _set(model, name, codes.astype(np.uint8))


def _second_quantizer(model: onnx.ModelProto) -> None:
    for old in ("/Relu/QuantizeLinear", "/Relu/DequantizeLinear"):
        copy = model.graph.node.add()
        copy.CopyFrom(_node(model, old))
        copy.name, copy.output[0] = f"{old}_1", f"{old}_1_output_0"
    _node(model, "/Relu/DequantizeLinear_1").input[0] = "/Relu/QuantizeLinear_1_output_0"
    _node(model, "/branch0/Conv").input[0] = "/Relu/DequantizeLinear_1_output_0"


def _other_concat_scale(model: onnx.ModelProto) -> None:
    for side in ("Quantize", "Dequantize"):
        _set(model, f"/Relu_2/{side}Linear.scale", np.float32(0.25))


def _unquantized_concat_input(model: onnx.ModelProto) -> None:
    _drop(model, "/Relu_2/DequantizeLinear", "/Relu_2_output_0")
    model.graph.node.remove(_node(model, "/Relu_2/QuantizeLinear"))


def _zero_scale(model: onnx.ModelProto) -> None:
    name = "/block0/Conv.weight/DequantizeLinear.scale"
    scale = next(numpy_helper.to_array(t).copy() for t in model.graph.initializer if t.name == name)
    scale[3] = 0
    _set(model, name, scale)


def _infinite_scale(model: onnx.ModelProto) -> None:
    for side in ("Quantize", "Dequantize"):
        _set(model, f"/x/{side}Linear.scale", np.float32(np.inf))


def _shifted_zero_point(model: onnx.ModelProto) -> None:
    for side in ("Quantize", "Dequantize"):
        _set(model, f"/Relu_1/{side}Linear.zero_point", np.int8(-128))


def _unlike_partner(model: onnx.ModelProto) -> None:
    _set(model, "/Relu_1/DequantizeLinear.scale", np.float32(0.5))


def _codes_without_reader(model: onnx.ModelProto) -> None:
    _drop(model, "/x/DequantizeLinear", "x")


def _idle_pair(model: onnx.ModelProto) -> None:
    scale, zero_point = _node(model, "/x/QuantizeLinear").input[1:]
    codes, values = "idle_codes", "idle_values"
    tensor = _node(model, "/last/Conv").input[0]
    model.graph.node.append(helper.make_node("QuantizeLinear", [tensor, scale, zero_point], [codes], "/idle/Q"))
    model.graph.node.append(helper.make_node("DequantizeLinear", [codes, scale, zero_point], [values], "/idle/DQ"))
    _node(model, "/last/Conv").input[0] = values


Spoil = Callable[[onnx.ModelProto], None]
BREAKS: list[tuple[str, Spoil, str, str]] = [
    ("both_inputs", _float_activation, "/shared/Conv", "the activation of this Conv is not quantized"),
    ("both_inputs", _float_weight, "/block1/Conv", "the weight of this Conv is not quantized"),
    ("int8_weights", _wide_codes, "/block1/Conv", "its weight is UINT8, not a constant of INT8 codes"),
    ("one_quantizer", _second_quantizer, "/Relu/QuantizeLinear_1", "'/Relu_output_0' is quantized 2 times"),
    ("concat_scale", _other_concat_scale, "/Concat", "on different scales: 0.0136719, 0.25"),
    ("concat_scale", _unquantized_concat_input, "/Concat", "its inputs lack a pair"),
    ("scales", _zero_scale, "/block0/Conv.weight/DequantizeLinear", "1 of 8 scales are 0, not positive"),
    ("scales", _infinite_scale, "/x/QuantizeLinear", "1 of 1 scales are inf"),
    ("zero_points", _shifted_zero_point, "/Relu_1/QuantizeLinear", "its zero point is int8, up to 128, not INT8 zero"),
    ("whole_pairs", _unlike_partner, "/Relu_1/QuantizeLinear", "no DequantizeLinear of its scale"),
    ("whole_pairs", _codes_without_reader, "/x/QuantizeLinear", "no DequantizeLinear of its scale"),
    ("idle_pairs", _idle_pair, "/idle/DQ", "no integer kernel reads these values"),
]


def test_a_good_graph_breaks_no_rule(good: onnx.ModelProto) -> None:
    assert check_qdq(good, LAYERS) == ()
    require_rules(good, "toy", LAYERS)


def test_every_rule_is_broken_here() -> None:
    assert {rule for rule, *_ in BREAKS} == set(RULES)


@pytest.mark.parametrize(("rule", "spoil", "node", "message"), BREAKS, ids=[spoil.__name__ for _, spoil, *_ in BREAKS])
def test_a_broken_rule_names_its_node(good: onnx.ModelProto, rule: str, spoil: Spoil, node: str, message: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(good)
    spoil(model)
    found = [item for item in check_qdq(model) if item.rule == rule]
    assert any(node in item.nodes and message in item.message for item in found), check_qdq(model)
    with pytest.raises(ExportError, match=r"The quantized graph of 'toy' breaks \d+ rule"):
        require_rules(model, "toy")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({**LAYERS, "block1": False}, "'block1' is to stay in floating point"),
        ({**LAYERS, "last": True}, "it is in floating point, but 'last' is to be quantized"),
        ({**LAYERS, "block9": True}, "this layer is to be quantized and is not in the graph"),
    ],
)
def test_layers_that_differ_from_the_plan(good: onnx.ModelProto, layers: dict[str, bool], message: str) -> None:
    (violation,) = check_qdq(good, layers)
    assert violation.rule == "planned_layers"
    assert message in violation.message


def test_a_float_graph_keeps_every_rule() -> None:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        "g",
        [tensor("x", TensorProto.FLOAT, [1])],
        [tensor("y", TensorProto.FLOAT, [1])],
    )
    assert check_qdq(helper.make_model(graph)) == ()


def test_values_that_leave_the_graph_need_no_reader(good: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(good)
    pair = _node(model, "/Relu/DequantizeLinear")
    for reader in model.graph.node:
        for index, tensor in enumerate(reader.input):
            if tensor == pair.output[0]:
                reader.input[index] = "/Relu_output_0"
    unread = [item.nodes for item in check_qdq(model) if item.rule == "whole_pairs"]
    assert unread == [("/Relu/DequantizeLinear",)]
    model.graph.output.append(helper.make_tensor_value_info(pair.output[0], TensorProto.FLOAT, None))
    assert [item for item in check_qdq(model) if item.rule == "whole_pairs"] == []
