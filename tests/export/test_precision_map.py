"""Precision, work and traffic of each layer, against numbers that follow from its shapes by hand."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from base.errors import ExportError
from export.onnx_graph import canonicalize_
from export.qdq.float_precision import convert_qdq_precision
from export.qdq.passes import arrange_qdq
from export.qdq.precision_map import precision_map
from tests.export.quantized_toy import QuantizedToy, trace


@pytest.fixture(scope="module")
def arranged() -> onnx.ModelProto:
    model = trace(QuantizedToy())
    canonicalize_(model, "toy")
    model = arrange_qdq(model)
    canonicalize_(model, "toy")
    return model


# Path -> operator, kernel, precision, written, multiplications, bytes of weights, read, written; what it reads.
# The input has 4 channels of 16 x 16; both blocks halve, the second branch doubles again.
LAYERS = {
    "block0": ("Conv", (3, 3), "int8", "int8", 8 * 8 * 8 * 4 * 9, 8 * 4 * 9, 4 * 16 * 16, 8 * 8 * 8, ("",)),
    "block1": ("Conv", (3, 3), "int8", "int8", 8 * 4 * 4 * 8 * 9, 8 * 8 * 9, 8 * 8 * 8, 8 * 4 * 4, ("block0",)),
    "branch0": ("Conv", (1, 1), "int8", "int8", 8 * 8 * 8 * 8, 8 * 8, 8 * 8 * 8, 8 * 8 * 8, ("block0",)),
    # Each of 8 x 4 x 4 values meets 6 channels of 2 x 2.
    "branch1": ("ConvTranspose", (2, 2), "int8", "int8", 8 * 4 * 4 * 24, 8 * 24, 8 * 4 * 4, 6 * 8 * 8, ("block1",)),
    "shared": (
        "Conv", (3, 3), "int8", "fp32", 8 * 8 * 8 * 14 * 9, 8 * 14 * 9, 14 * 8 * 8, 4 * 8 * 8 * 8,
        ("branch0", "branch1"),
    ),
    "last": ("Conv", (1, 1), "fp32", "fp32", 2 * 8 * 8 * 8, 4 * 2 * 8, 4 * 8 * 8 * 8, 4 * 2 * 8 * 8, ("shared",)),
}  # fmt: skip


def test_every_layer_of_a_quantized_graph(arranged: onnx.ModelProto) -> None:
    found = precision_map(arranged)
    assert found.graph == "toy"
    assert {
        layer.path: (
            layer.op, layer.kernel, layer.precision, layer.output_precision, layer.macs, layer.weight_bytes,
            layer.input_bytes, layer.output_bytes, layer.inputs,
        )
        for layer in found.layers
    } == LAYERS  # fmt: skip
    assert {layer.node for layer in found.layers} == {f"/{path}/{row[0]}" for path, row in LAYERS.items()}
    whole = sum(row[4] for row in LAYERS.values())
    assert found.share_of_macs("fp32") == LAYERS["last"][4] / whole
    assert found.share_of_macs("int8") + found.share_of_macs("fp32") == pytest.approx(1)
    assert found.share_of_macs("fp16") == 0
    assert found.total("macs") == whole
    assert found.total("weight_bytes", ["fp32"]) == LAYERS["last"][5]
    assert found.total("input_bytes", ["int8", "fp16"]) == sum(row[6] for row in LAYERS.values() if row[2] == "int8")


def test_the_rest_of_it_in_fp16(arranged: onnx.ModelProto) -> None:
    found = {layer.path: layer for layer in precision_map(convert_qdq_precision(arranged, "fp16")).layers}
    assert [layer.precision for layer in found.values()] == ["int8"] * 5 + ["fp16"]
    assert (found["shared"].output_precision, found["shared"].output_bytes) == ("fp16", 2 * 8 * 8 * 8)
    assert (found["last"].weight_bytes, found["last"].input_bytes) == (2 * 2 * 8, 2 * 8 * 8 * 8)


def linear(element: int, rows: int | str) -> onnx.ModelProto:
    """y = x · w, of (rows, 3) and (3, 5)."""
    weight = helper.make_tensor("w", element, (3, 5), [1] * 15)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="/linear/MatMul")
    values = [helper.make_tensor_value_info(name, element, [rows, size]) for name, size in (("x", 3), ("y", 5))]
    graph = helper.make_graph([node], "encoder", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("rows", [7, "num_voxels"])
@pytest.mark.parametrize(
    ("element", "name", "size"), [(TensorProto.FLOAT, "fp32", 4), (TensorProto.FLOAT16, "fp16", 2)]
)
def test_a_matrix_of_as_many_rows_as_are_asked_for(rows: int | str, element: int, name: str, size: int) -> None:
    (layer,) = precision_map(linear(element, rows), rows=7).layers
    assert (layer.kernel, layer.precision, layer.output_precision) == ((), name, name)
    assert (layer.macs, layer.weight_bytes) == (7 * 3 * 5, size * 15)
    assert (layer.input_bytes, layer.output_bytes) == (size * 7 * 3, size * 7 * 5)
    (layer,) = precision_map(linear(element, "num_voxels")).layers
    assert layer.macs == 3 * 5


def test_other_types_are_refused() -> None:
    with pytest.raises(
        ExportError, match=r"MatMul.* tensor 'y' is of DOUBLE; layers of INT8, FLOAT16, FLOAT are known"
    ):
        precision_map(linear(TensorProto.DOUBLE, 7))


def test_a_graph_without_layers() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="/act/Relu")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy"]
    graph = helper.make_graph([node], "nothing", values[:1], values[1:])
    found = precision_map(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert (found.layers, found.share_of_macs("int8"), found.total("macs")) == ((), 0.0, 0)
