from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from base.errors import ExportError
from export.onnx_checks import check_model
from export.onnx_graph import canonicalize_
from export.qdq.float_precision import convert_qdq_precision
from export.qdq.passes import arrange_qdq, quantize_weights
from export.qdq.rules import check_qdq
from export.qdq.view import GraphView, module_path
from tests.export.quantized_toy import (
    BLOCK_SCALE,
    CONCAT_SCALE,
    INPUT_SCALE,
    Quantized,
    QuantizedToy,
    run_plainly,
    sample,
    trace,
)


def _arranged(module: nn.Module, **kwargs: Any) -> onnx.ModelProto:
    model = trace(module, **kwargs)
    canonicalize_(model, "toy")
    model = arrange_qdq(model)
    canonicalize_(model, "toy")
    check_model(model, "toy")
    return model


def _scale(view: GraphView, node: onnx.NodeProto | None) -> NDArray[Any]:
    """The scales of a quantizer that is there and has constant ones."""
    assert node is not None
    scale = view.scale(node)
    assert scale is not None
    return scale


@pytest.fixture(scope="module")
def toy() -> QuantizedToy:
    torch.set_num_threads(1)
    return QuantizedToy().eval()


@pytest.fixture(scope="module")
def arranged(toy: QuantizedToy) -> onnx.ModelProto:
    return _arranged(toy)


def test_the_arranged_graph_computes_what_pytorch_fake_quantizes(toy: QuantizedToy, arranged: onnx.ModelProto) -> None:
    x = sample()
    expected = toy(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(run_plainly(trace(toy), x), expected, atol=2e-6)
    np.testing.assert_allclose(run_plainly(arranged, x), expected, atol=2e-6)


def test_one_pair_for_a_tensor_however_many_layers_read_it(arranged: onnx.ModelProto) -> None:
    view = GraphView.of(arranged)
    tensors = [node.input[0] for node in view.nodes("QuantizeLinear")]
    assert max(Counter(tensors).values()) == 1
    # The input, two blocks, two branches before the concatenation, the concatenation.
    assert len(tensors) == 6
    (shared,) = [node for node in view.nodes("DequantizeLinear") if node.name == "/Relu/DequantizeLinear"]
    assert sorted(node.name for node in view.readers(shared.output[0])) == ["/block1/Conv", "/branch0/Conv"]


def test_weights_are_codes_rounded_as_pytorch_rounds(toy: QuantizedToy, arranged: onnx.ModelProto) -> None:
    view = GraphView.of(arranged)
    layers = {"/block0/Conv": toy.block0, "/branch1/ConvTranspose": toy.branch1, "/shared/Conv": toy.shared}
    for name, layer in layers.items():
        (node,) = [node for node in view.order if node.name == name]
        dequantize = view.weight_dequantizer(node)
        assert dequantize is not None
        assert dequantize.name == f"{name}.weight/DequantizeLinear"
        codes = view.constant(dequantize.input[0])
        assert codes is not None
        assert codes.dtype == np.int8
        scale = _scale(view, dequantize)
        shape = [-1 if axis == layer.axis else 1 for axis in range(4)]
        np.testing.assert_array_equal(codes * scale.reshape(shape), layer.quantized_weight().detach().numpy())
    floats = {tensor.name for tensor in arranged.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert {name for name in floats if name.endswith(".weight")} == {"/last/Conv.weight"}


def test_halves_round_to_even_and_codes_are_cut() -> None:
    weight = np.array([[0.5, 1.5, 2.5, -0.5, -1.5], [254.0, 255.0, 256.0, -257.0, -1e9]], np.float32)
    codes = quantize_weights(weight, np.array([1.0, 2.0], np.float32), 0)
    assert codes.tolist() == [[0, 2, 2, 0, -2], [127, 127, 127, -128, -128]]


@pytest.mark.parametrize("axis", [0, 1])
def test_codes_are_those_of_quantize_linear(axis: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 6, 3, 3)).astype(np.float32)
    scale = rng.uniform(1e-3, 4e-2, 6).astype(np.float32)
    nodes = [onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=axis)]
    graph = onnx.helper.make_graph(
        nodes,
        "q",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, weight.shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT8, weight.shape)],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(np.zeros(6, np.int8), "z")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    np.testing.assert_array_equal(quantize_weights(weight, scale, axis), run_plainly(model, weight))


def test_a_pair_that_no_integer_kernel_reads_is_left_out() -> None:
    stray = QuantizedToy(stray=True).eval()
    model = _arranged(stray)
    assert len(GraphView.of(model).nodes("QuantizeLinear")) == 6
    # What is left is the network without that pair.
    x = sample()
    expected = QuantizedToy()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(run_plainly(model, x), expected, atol=2e-6)


class _PlainConcat(nn.Module):
    """A concatenation of which only the result is quantized, by its reader."""

    def __init__(self, inputs_too: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left = Quantized(nn.Conv2d(4, 3, 1), INPUT_SCALE)
        self.right = Quantized(nn.Conv2d(4, 5, 1), INPUT_SCALE)
        self.inputs_too = inputs_too
        self.reader = Quantized(nn.Conv2d(8, 2, 1), 0.0 if inputs_too else CONCAT_SCALE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [self.left(x), self.right(x)]
        if self.inputs_too:
            branches = [torch.fake_quantize_per_tensor_affine(item, CONCAT_SCALE, 0, -128, 127) for item in branches]
        out: torch.Tensor = self.reader(torch.cat(branches, 1))
        return out


class _ConcatOfScales(nn.Module):
    """A concatenation whose first input has codes of its own scale, which another layer reads as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.left = Quantized(nn.Conv2d(4, 8, 1), INPUT_SCALE)
        self.right = Quantized(nn.Conv2d(4, 4, 1), INPUT_SCALE)
        self.deeper = Quantized(nn.Conv2d(8, 4, 1), 0.0)
        self.reader = Quantized(nn.Conv2d(12, 4, 1), CONCAT_SCALE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = torch.fake_quantize_per_tensor_affine(self.left(x), BLOCK_SCALE, 0, -128, 127)
        out: torch.Tensor = self.reader(torch.cat([left, self.right(x)], 1)) + self.deeper(left)
        return out


def test_a_concatenation_rescales_an_input_that_has_another_scale() -> None:
    """The engine stores a concatenation once, on one scale: an input on its own scale would be read as if on that."""
    module = _ConcatOfScales().eval()
    model = _arranged(module)
    view = GraphView.of(model)
    (concat,) = view.nodes("Concat")
    before = [view.producer(name, "DequantizeLinear") for name in concat.input]
    (after,) = view.readers(concat.output[0])
    assert [float(_scale(view, node)) for node in (*before, after)] == [CONCAT_SCALE] * 3
    # The first input's own codes stay: the other layer reads them.
    assert before[0] is not None
    quantize = view.producer(before[0].input[0], "QuantizeLinear")
    assert quantize is not None
    own = view.producer(quantize.input[0], "DequantizeLinear")
    assert float(_scale(view, own)) == BLOCK_SCALE
    assert check_qdq(model) == ()
    x = sample()
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(run_plainly(model, x), expected, atol=2e-6)


@pytest.mark.parametrize("inputs_too", [False, True])
def test_a_concatenation_gets_its_scale_on_every_side(inputs_too: bool) -> None:
    module = _PlainConcat(inputs_too).eval()
    model = _arranged(module)
    view = GraphView.of(model)
    (concat,) = view.nodes("Concat")
    before = [view.producer(name, "DequantizeLinear") for name in concat.input]
    (after,) = view.readers(concat.output[0])
    assert after.op_type == "QuantizeLinear"
    assert [float(_scale(view, node)) for node in (*before, after)] == [CONCAT_SCALE] * 3
    assert check_qdq(model) == ()
    x = sample()
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(run_plainly(model, x), expected, atol=2e-6)


class _Shared(nn.Module):
    """Two layers with one weight, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = Quantized(nn.Conv2d(4, 4, 1), BLOCK_SCALE)
        self.linear = nn.Linear(4, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(torch.relu(self.layer(x))).permute(0, 2, 3, 1)
        scale = torch.full((3,), 2.0**-8)
        weight = torch.fake_quantize_per_channel_affine(
            self.linear.weight, scale, torch.zeros(3, dtype=torch.int32), 0, -128, 127
        )
        return torch.nn.functional.linear(torch.fake_quantize_per_tensor_affine(x, 0.01, 0, -128, 127), weight)


def test_shared_and_transposed_weights_have_codes_of_their_own() -> None:
    module = _Shared().eval()
    model = _arranged(module)
    view = GraphView.of(model)
    first, second = view.nodes("Conv")
    assert first.input[1] != second.input[1]
    (product,) = view.nodes("MatMul")
    dequantize = view.weight_dequantizer(product)
    assert dequantize is not None
    codes = view.constant(dequantize.input[0])
    assert codes is not None
    assert codes.shape == (4, 3)
    assert _scale(view, dequantize).shape == (3,)
    assert check_qdq(model) == ()
    x = sample()
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(run_plainly(model, x), expected, atol=2e-6)


def _with_second_pair(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """`/branch0/Conv` reads `/Relu` through a pair with constants of its own; its scale is `factor` times the other."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = {node.name: node for node in result.graph.node}
    position = next(i for i, node in enumerate(result.graph.node) if node.name == "/branch0/Conv")
    pair = []
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        copy = onnx.NodeProto()
        copy.CopyFrom(nodes[f"/Relu/{op_type}"])
        copy.name, copy.output[0] = f"own/{op_type}", f"own/{op_type}_output"
        for index in (1, 2):
            (constant,) = [item for item in model.graph.initializer if item.name == copy.input[index]]
            value = numpy_helper.to_array(constant)
            copy.input[index] = f"own/{op_type}.{index}"
            changed = (value * factor).astype(value.dtype) if index == 1 else value
            result.graph.initializer.append(numpy_helper.from_array(np.asarray(changed), copy.input[index]))
        pair.append(copy)
    pair[1].input[0] = pair[0].output[0]
    nodes["/branch0/Conv"].input[0] = pair[1].output[0]
    kept = list(result.graph.node)
    del result.graph.node[:]
    result.graph.node.extend([*kept[:position], *pair, *kept[position:]])
    check_model(result, "toy")
    return result


def test_pairs_of_one_scale_become_one_and_pairs_of_two_stay(arranged: onnx.ModelProto) -> None:
    same = arrange_qdq(_with_second_pair(arranged, 1.0))
    canonicalize_(same, "toy")
    assert {node.name: node for node in same.graph.node} == {node.name: node for node in arranged.graph.node}
    other = GraphView.of(arrange_qdq(_with_second_pair(arranged, 2.0)))
    scales = sorted(float(_scale(other, node)) for node in other.readers("/Relu_output_0"))
    (own,) = [float(_scale(GraphView.of(arranged), node)) for node in GraphView.of(arranged).readers("/Relu_output_0")]
    assert scales == [own, 2.0 * own]


def test_a_layer_reads_quantized_weights_before_and_after_they_are_folded(
    toy: QuantizedToy, arranged: onnx.ModelProto
) -> None:
    """As traced, a weight goes through a Q and a DQ node; arranged, through a DQ node alone."""
    traced = trace(toy)
    canonicalize_(traced, "toy")
    for model, through in ((traced, "QuantizeLinear"), (arranged, None)):
        view = GraphView.of(model)
        layers = {node.name: view.weight_dequantizer(node) for node in view.nodes("Conv", "ConvTranspose")}
        assert layers.pop("/last/Conv") is None
        assert len(layers) == 5
        for dequantize in layers.values():
            assert dequantize is not None
            quantize = view.producer(dequantize.input[0], "QuantizeLinear")
            assert (quantize.op_type if quantize else None) == through


def test_names_tell_the_tensor_and_equal_models_give_equal_bytes(arranged: onnx.ModelProto) -> None:
    names = {node.name for node in arranged.graph.node}
    assert {"/x/QuantizeLinear", "/Concat/DequantizeLinear", "/block0/Conv.weight/DequantizeLinear"} <= names
    assert len(names) == len(arranged.graph.node)
    scales = {tensor.name for tensor in arranged.graph.initializer}
    assert {"/x/QuantizeLinear.scale", "/block0/Conv.weight/DequantizeLinear.codes"} <= scales
    again = _arranged(QuantizedToy())
    assert again.SerializeToString(deterministic=True) == arranged.SerializeToString(deterministic=True)


def test_a_float_graph_comes_back_as_it_is() -> None:
    model = trace(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
    assert arrange_qdq(model) == model


def _types(model: onnx.ModelProto) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in check_model(model, "toy").graph.value_info}


def test_fp16_for_every_float_tensor_that_a_kernel_writes(
    toy: QuantizedToy, arranged: onnx.ModelProto, run_onnx: Callable[..., list[Any]]
) -> None:
    half = convert_qdq_precision(arranged, "fp16")
    assert check_qdq(half) == ()
    # The last integer layer writes floats, for the layer behind it, and so does the transposed one.
    fp16 = {name for name, kind in _types(half).items() if kind == onnx.TensorProto.FLOAT16}
    assert fp16 == {
        "/Concat/DequantizeLinear_output_0",
        "/shared/Conv.weight/DequantizeLinear_output_0",
        "/shared/Conv_output_0",
        "/Relu_4_output_0",
        "y_fp16",
        "/Relu_1/DequantizeLinear_output_0",
        "/branch1/ConvTranspose.weight/DequantizeLinear_output_0",
        "/branch1/ConvTranspose.product",
        "/branch1/ConvTranspose_output_0",
        "/Relu_3_output_0",
    }
    # The input goes into its quantizer as it is; only the output is cast.
    assert [(node.input[0], node.output[0]) for node in GraphView.of(half).nodes("Cast")] == [("y_fp16", "y")]
    x = sample()
    expected = toy(torch.from_numpy(x)).detach().numpy()
    (found,) = run_onnx(half, {"x": x})
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)
    assert convert_qdq_precision(arranged, "fp32") == arranged


def test_onnx_runtime_s_rounding_of_large_biases_survives_fp16(run_onnx: Callable[..., list[Any]]) -> None:
    """Its INT32 biases are b / (s_x s_w): 20 / (2**-6 · 2**-10) is beyond FP16."""
    module = QuantizedToy().eval()
    for layer in (module.block0, module.block1, module.branch1):
        assert layer.layer.bias is not None
        torch.nn.init.constant_(layer.layer.bias, 20.0)
    x = sample()
    expected = module(torch.from_numpy(x)).detach().numpy()
    (found,) = run_onnx(convert_qdq_precision(_arranged(module), "fp16"), {"x": x})
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)


class _TwoReaders(nn.Module):
    """One tensor read by an integer layer that writes codes and by one that writes floats."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.codes = Quantized(nn.Conv2d(4, 4, 1), INPUT_SCALE)
        self.floats = Quantized(nn.Conv2d(4, 4, 1), INPUT_SCALE)
        self.reader = Quantized(nn.Conv2d(4, 2, 1), BLOCK_SCALE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.reader(torch.relu(self.codes(x))) + self.floats(x)[:, :2]
        return out


def test_two_types_of_one_tensor_come_from_one_quantizer() -> None:
    half = convert_qdq_precision(_arranged(_TwoReaders()), "fp16")
    types, view = _types(half), GraphView.of(half)
    (quantize,) = [node for node in view.nodes("QuantizeLinear") if node.input[0] == "x"]
    readers = {node.name: types[node.output[0]] for node in view.readers(quantize.output[0])}
    assert readers == {
        "/x/DequantizeLinear": onnx.TensorProto.FLOAT,
        "/x/DequantizeLinear_fp16": onnx.TensorProto.FLOAT16,
    }
    assert check_qdq(half) == ()


def test_a_scale_that_fp16_does_not_hold_is_refused(arranged: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(arranged)
    (tensor,) = [item for item in model.graph.initializer if item.name == "/x/QuantizeLinear.scale"]
    tensor.CopyFrom(numpy_helper.from_array(np.array(0.01, np.float32), tensor.name))
    with pytest.raises(ExportError, match=r"of '/x/QuantizeLinear' are not exact in FP16, such as 0.00999999978"):
        convert_qdq_precision(model, "fp16")


def test_a_quantized_graph_output_and_a_computed_scale_are_refused(arranged: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(arranged)
    quantize = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    quantize.input[1] = "y"
    with pytest.raises(ExportError, match=r"'/x/QuantizeLinear' .QuantizeLinear. reads 'y', which is no constant"):
        arrange_qdq(model)

    class Quantizes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fake_quantize_per_tensor_affine(torch.relu(x), 0.5, 0, -128, 127)

    with pytest.raises(ExportError, match=r"Graph output\(s\) y are quantized"):
        arrange_qdq(trace(Quantizes()))


@pytest.mark.parametrize(
    ("node", "path"),
    [
        ("/pts_backbone/blocks.0/blocks.0.3/Conv", "pts_backbone.blocks.0.3"),
        ("/pts_bbox_head/task_heads.0/heatmap/heatmap.0/conv/Conv", "pts_bbox_head.task_heads.0.heatmap.0.conv"),
        ("/pts_bbox_head/shared_conv/conv/Conv", "pts_bbox_head.shared_conv.conv"),
        ("/last/Conv", "last"),
    ],
)
def test_a_node_s_module(node: str, path: str) -> None:
    assert module_path(node) == path
