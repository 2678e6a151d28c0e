from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from base.errors import ExportError
from export.onnx_checks import check_model
from export.precision import convert_precision, graph_precision, weight_rounding

FILES = ("pts_voxel_encoder.onnx", "pts_backbone_neck_head.onnx")


def _graph(
    weight: Any, nodes: Sequence[onnx.NodeProto] | None = None, opset: int = 17, extra: Sequence[onnx.TensorProto] = ()
) -> onnx.ModelProto:
    """x (1, 4) times a (4, 3) weight."""
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], "mul")]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.asarray(weight, np.float32), "w"), *extra],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("name", FILES)
def test_fp16_graph_is_close_to_fp32_and_valid(tiny_onnx: Path, run_onnx: Callable[..., list[Any]], name: str) -> None:
    full = onnx.load(tiny_onnx / name)
    half = convert_precision(full, "fp16")
    check_model(half, name)
    value = full.graph.input[0]
    shape = [d.dim_value or 11 for d in value.type.tensor_type.shape.dim]
    inputs = {value.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    for reference, found in zip(run_onnx(full, inputs), run_onnx(half, inputs), strict=True):
        assert found.dtype == np.float32
        assert not np.array_equal(reference, found)
        # Rounding to 11 bits in a dozen layers: a few times 2**-11, relative to the tensor.
        assert np.linalg.norm(found - reference) < 4e-3 * np.linalg.norm(reference)


@pytest.mark.parametrize("name", FILES)
def test_everything_inside_is_fp16_with_casts_at_the_borders_alone(tiny_onnx: Path, name: str) -> None:
    half = convert_precision(onnx.load(tiny_onnx / name), "fp16")
    inferred = check_model(half, name)
    borders = {value.name for value in (*half.graph.input, *half.graph.output)}
    inner = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert TensorProto.FLOAT not in {kind for tensor, kind in inner.items() if tensor not in borders}
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in half.graph.initializer}
    assert sum(node.op_type == "Cast" for node in half.graph.node) == len(borders)
    assert graph_precision(half) == "fp16"


def test_conversion_is_deterministic_and_leaves_its_input(tiny_onnx: Path) -> None:
    full = onnx.load(tiny_onnx / FILES[0])
    before = full.SerializeToString(deterministic=True)
    first, second = (convert_precision(full, "fp16").SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert full.SerializeToString(deterministic=True) == before
    assert convert_precision(full, "fp32").SerializeToString(deterministic=True) == before


def test_weight_rounding_counts_what_fp16_loses() -> None:
    # 70000 > 65504; 1e-9 < 2**-25; 1e-5 < 2**-14; 1 and 0 are exact.
    (entry,) = weight_rounding(_graph([[70000.0, 1e-9, 1e-5], [1, 0, -1], [0, 0, 0], [0, 0, 0]]))
    assert (entry.name, entry.size, entry.overflowed, entry.vanished, entry.subnormal) == ("w", 12, 1, 1, 1)
    assert entry.max_abs == 70000.0


def test_an_overflowing_weight_is_named_with_its_value() -> None:
    weight = np.zeros((4, 3), np.float32)
    weight[2, 1] = -1e5
    with pytest.raises(ExportError, match=r"'w' with \|w\| up to 100000 \(1 of 12\)"):
        convert_precision(_graph(weight), "fp16")


def test_vanishing_weights_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    convert_precision(_graph(np.full((4, 3), 1e-9)), "fp16")
    assert "of 12 weights 12 become 0, 0 keep fewer digits" in caplog.text


def test_a_tensor_used_as_output_and_inside(run_onnx: Callable[..., list[Any]]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], "mul"),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
    ]
    model = _graph(np.ones((4, 3)), nodes)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3]))
    half = convert_precision(model, "fp16")
    check_model(half, "two outputs")
    y, z = run_onnx(half, {"x": np.array([[1, 2, 3, -16]], np.float32)})
    assert y.tolist() == [[-10.0] * 3]
    assert z.tolist() == [[0.0] * 3]


def test_integer_tensors_keep_their_type(run_onnx: Callable[..., list[Any]]) -> None:
    shape = numpy_helper.from_array(np.array([3, 1], np.int64), "shape")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "mul"),
        helper.make_node("Reshape", ["m", "shape"], ["y"], "reshape"),
    ]
    model = _graph(np.ones((4, 3)), nodes, extra=[shape])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 1]))
    half = convert_precision(model, "fp16")
    check_model(half, "reshape")
    assert run_onnx(half, {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[4.0]] * 3


def _quantized(opset: int) -> onnx.ModelProto:
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantize"),
        helper.make_node("MatMul", ["d", "w"], ["y"], "mul"),
    ]
    return _graph(np.ones((4, 3)), nodes, opset, [scale, zero])


def test_quantized_graphs_keep_their_pairs_and_run_the_rest_in_fp16(run_onnx: Callable[..., list[Any]]) -> None:
    half = convert_precision(_quantized(19), "fp16")
    check_model(half, "quantized")
    assert graph_precision(half) == "int8"
    # 0.3 rounds to 0.5 on a grid of 0.5.
    assert run_onnx(half, {"x": np.full((1, 4), 0.3, np.float32)})[0].tolist() == [[2.0] * 3]


def test_quantized_graphs_of_an_old_opset_are_refused() -> None:
    with pytest.raises(ExportError, match=r"'quantize' is a QuantizeLinear in opset 17.*opset_version=19"):
        convert_precision(_quantized(17), "fp16")


def test_graph_precision_tells_the_four_kinds() -> None:
    full = _graph(np.ones((4, 3)))
    half = convert_precision(full, "fp16")
    mixed = onnx.ModelProto()
    mixed.CopyFrom(half)
    mixed.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "other"))
    assert [graph_precision(m) for m in (full, half, mixed, _quantized(19))] == ["fp32", "fp16", "mixed", "int8"]


def test_precision_is_never_invented() -> None:
    half = convert_precision(_graph(np.ones((4, 3))), "fp16")
    with pytest.raises(ExportError, match="is fp16; what was rounded away cannot be brought back"):
        convert_precision(half, "fp32")
    with pytest.raises(ExportError, match="is fp16 already"):
        convert_precision(half, "fp16")
    with pytest.raises(ExportError, match="precision is 'int4'; a graph can be converted to fp32 or fp16"):
        convert_precision(half, "int4")


def test_subgraphs_are_refused_by_name() -> None:
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["v"])], "branch", [], [value])
    condition = numpy_helper.from_array(np.array(True), "condition")
    nodes = [
        helper.make_node("If", ["condition"], ["i"], "choose", then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["i", "w"], ["y"], "mul"),
    ]
    with pytest.raises(ExportError, match=r"Node 'choose' \(If\) holds a subgraph"):
        convert_precision(_graph(np.ones((4, 3)), nodes, extra=[condition]), "fp16")
