"""ONNX graphs as plans: every value that a plan takes from its graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.spec import HeadSpec
from tests.runtime.qdq_graphs import (
    BLOCK0_SCALE,
    BLOCK1_SCALE,
    CANVAS_SCALE,
    CONCAT_SCALE,
    SHARED_SCALE,
    graph_spec,
    insert,
    node,
    plan_of,
    second_pair,
    set_value,
    small_graph,
    value,
)

SPEC = graph_spec()


@pytest.fixture
def model() -> onnx.ModelProto:
    return small_graph(SPEC)


def test_maps_of_an_int8_graph(model: onnx.ModelProto, tmp_path: Path) -> None:
    plan = plan_of(model, SPEC, tmp_path)
    found = {item.name: (item.type, item.channels, item.height, item.width, item.scale) for item in plan.maps.values()}
    assert found == {
        "/spatial_features/QuantizeLinear_output_0": ("int8", 32, 16, 20, CANVAS_SCALE),
        "/block0/Relu/QuantizeLinear_output_0": ("int8", 32, 8, 10, BLOCK0_SCALE),
        "/block1/Relu/QuantizeLinear_output_0": ("int8", 64, 4, 5, BLOCK1_SCALE),
        "/join/Concat/QuantizeLinear_output_0": ("int8", 64, 8, 10, CONCAT_SCALE),
        "/shared/Relu/QuantizeLinear_output_0": ("int8", 32, 8, 10, SHARED_SCALE),
    }
    assert plan.canvas is plan.maps["/spatial_features/QuantizeLinear_output_0"]
    assert all(name == item.name for name, item in plan.maps.items())


def test_layers_of_an_int8_graph(model: onnx.ModelProto, tmp_path: Path) -> None:
    plan = plan_of(model, SPEC, tmp_path)
    nodes = ["/block0/Conv", "/side/Conv", "/block1/Conv", "/up/ConvTranspose", "/shared/Conv"]
    assert [conv.node for conv in plan.convs] == nodes
    geometry = [(conv.kernel, conv.stride, conv.padding, conv.upsample, conv.relu) for conv in plan.convs]
    assert geometry == [
        (3, 2, 1, 1, True),
        (1, 1, 0, 1, True),
        (3, 2, 1, 1, True),
        (2, 1, 0, 2, True),
        (3, 1, 1, 1, True),
    ]
    for conv in plan.convs:
        codes = value(model, f"{conv.node}.weight/DequantizeLinear.codes")
        expected = codes.transpose(1, 0, 2, 3) if conv.upsample > 1 else codes
        assert conv.weight.dtype == np.int8
        assert conv.weight.flags.c_contiguous
        np.testing.assert_array_equal(conv.weight, expected)
        np.testing.assert_array_equal(conv.weight_scale, value(model, f"{conv.node}.weight/DequantizeLinear.scale"))
        np.testing.assert_array_equal(conv.bias, value(model, f"{conv.node}.bias"))
        assert conv.weight_scale is not None
        assert conv.weight_scale.dtype == conv.bias.dtype == np.float32
        assert plan.maps[conv.source].channels == conv.in_channels


def test_a_concatenation_is_written_in_place(model: onnx.ModelProto, tmp_path: Path) -> None:
    plan = plan_of(model, SPEC, tmp_path)
    joined = "/join/Concat/QuantizeLinear_output_0"
    writers = {conv.node: (conv.target_channel, conv.out_channels) for conv in plan.convs if conv.target == joined}
    assert writers == {"/side/Conv": (0, 32), "/up/ConvTranspose": (32, 32)}
    (reader,) = (conv.node for conv in plan.convs if conv.source == joined)
    assert reader == "/shared/Conv"


def test_a_concatenation_of_a_concatenation_is_written_in_place(tmp_path: Path) -> None:
    model = small_graph(SPEC, floats=("block0", "block1", "side", "up", "shared", "hidden"))
    # [[side, up]] read through two nodes.
    insert(model, "/shared/Conv", 0, "Concat", axis=1)
    assert [conv.target_channel for conv in plan_of(model, SPEC, tmp_path).convs] == [0, 0, 0, 32, 0]


def test_heads_of_an_int8_graph(model: onnx.ModelProto, tmp_path: Path) -> None:
    (heads,) = plan_of(model, SPEC, tmp_path).heads
    assert heads.source == "/shared/Relu/QuantizeLinear_output_0"
    assert [branch.output for branch in heads.branches] == ["heatmap", "reg"]
    for branch in heads.branches:
        first, last = f"/hidden_{branch.output}/Conv", f"/last_{branch.output}/Conv"
        assert branch.hidden_node == first
        codes = value(model, f"{first}.weight/DequantizeLinear.codes")
        np.testing.assert_array_equal(branch.hidden_weight, codes[:, :, 0, 0])
        np.testing.assert_array_equal(
            branch.hidden_weight_scale, value(model, f"{first}.weight/DequantizeLinear.scale")
        )
        np.testing.assert_array_equal(branch.hidden_bias, value(model, f"{first}.bias"))
        assert branch.last_weight.dtype == np.float16
        np.testing.assert_array_equal(branch.last_weight, value(model, f"{last}.weight")[:, :, 0, 0].astype(np.float16))
        np.testing.assert_array_equal(branch.last_bias, value(model, f"{last}.bias"))


@pytest.mark.parametrize(
    ("floats", "weights", "maps"),
    [
        (("block0",), "fiiii", "fiiii"),
        (("up",), "iiifi", "iifii"),
        (("side", "block1"), "iffii", "ifiii"),
        (("shared",), "iiiif", "iiifi"),
        (("hidden",), "iiiii", "iiiif"),
        (("block0", "side", "block1", "up", "shared", "hidden"), "fffff", "fffff"),
    ],
)
def test_layers_in_floating_point(
    floats: tuple[str, ...], weights: str, maps: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(small_graph(SPEC, floats), SPEC, tmp_path)
    assert "".join(conv.weight.dtype.name[0] for conv in plan.convs) == weights
    order = [plan.canvas.name, *dict.fromkeys(conv.target for conv in plan.convs)]
    assert {plan.maps[name].type for name in order if plan.maps[name].scale is None} <= {"float16"}
    found = {name.split("/")[1] if "/" in name else name: plan.maps[name].type[0] for name in order}
    assert "".join(found[name] for name in ("spatial_features", "block0", "block1", "join", "shared")) == maps
    assert {branch.hidden_weight.dtype.name for branch in plan.heads[0].branches} == {
        "float16" if "hidden" in floats else "int8"
    }
    assert all((conv.weight_scale is None) == (conv.weight.dtype == np.float16) for conv in plan.convs)
    number = weights.count("f") + (4 if "hidden" in floats else 2)
    assert f"computes {number} layer(s) in FP32; the engine runs them in float16" in caplog.text


@pytest.mark.parametrize(
    ("floats", "twice", "types"),
    [
        ("side", "/block0/Conv", ["float16", "int8"]),
        ("block1", "/block0/Conv", ["int8", "float16"]),
        ("hidden_reg", "/shared/Conv", ["int8", "float16"]),
    ],
)
def test_a_map_that_readers_want_in_two_forms_is_made_twice(
    floats: str, twice: str, types: list[str], tmp_path: Path
) -> None:
    """The layer in front of it runs once for each, and no other does."""
    plan, whole = plan_of(small_graph(SPEC, (floats,)), SPEC, tmp_path), plan_of(small_graph(SPEC), SPEC, tmp_path)
    made = [conv for conv in plan.convs if conv.node.startswith(twice)]
    assert [conv.node for conv in made] == [twice, f"{twice} (form 2)"]
    assert [plan.target(conv).type for conv in made] == types
    np.testing.assert_array_equal(made[0].weight, made[1].weight)
    assert [conv.node for conv in plan.convs if conv not in made[1:]] == [conv.node for conv in whole.convs]
    read = {conv.source for conv in plan.convs} | {layer.source for layer in plan.heads}
    assert read == set(plan.maps)


def test_codes_of_two_scales_are_two_maps(model: onnx.ModelProto, tmp_path: Path) -> None:
    second_pair(model, "/block0/Relu", "/block1/Conv", 0.25)
    plan = plan_of(model, SPEC, tmp_path)
    found = {conv.target: plan.target(conv).scale for conv in plan.convs if conv.node.startswith("/block0")}
    assert found == {"/block0/Relu/QuantizeLinear_output_0": BLOCK0_SCALE, "second_q": 0.25}


def test_a_part_of_a_concatenation_that_is_read_by_itself_is_a_map_too(model: onnx.ModelProto, tmp_path: Path) -> None:
    node(model, "/hidden_reg/Conv").input[0] = "/side/Relu/DequantizeLinear_output_0"
    plan = plan_of(model, SPEC, tmp_path)
    places = {conv.node: (conv.target, conv.target_channel) for conv in plan.convs if conv.node.startswith("/side")}
    joined, alone = "/join/Concat/QuantizeLinear_output_0", "/side/Relu/QuantizeLinear_output_0"
    assert places == {"/side/Conv": (joined, 0), "/side/Conv (form 2)": (alone, 0)}
    assert [layer.source for layer in plan.heads] == ["/shared/Relu/QuantizeLinear_output_0", alone]


def test_a_map_that_is_joined_twice_is_written_to_both_places(model: onnx.ModelProto, tmp_path: Path) -> None:
    node(model, "/join/Concat").input[1] = "/side/Relu/DequantizeLinear_output_0"
    plan = plan_of(model, SPEC, tmp_path)
    assert [conv.target_channel for conv in plan.convs if conv.node.startswith("/side")] == [0, 32]


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_bias_and_batch_norm_behind_a_convolution_are_folded(precision: str, tmp_path: Path) -> None:
    floats = () if precision == "int8" else ("block0", "side", "block1", "up", "shared", "hidden")
    model = small_graph(SPEC, floats)
    rng = np.random.default_rng(1)
    factors = {
        "gain": rng.uniform(0.5, 1.5, 32),
        "shift": rng.normal(0, 1, 32),
        "mean": rng.normal(0, 1, 32),
        "variance": rng.uniform(0.5, 2, 32),
        "added": rng.normal(0, 1, (1, 32, 1, 1)),
    }
    factors = {name: array.astype(np.float32) for name, array in factors.items()}
    for name, array in factors.items():
        set_value(model, name, array)
    # Conv, Add, BatchNormalization, ReLU
    insert(model, "/up/Relu", 0, "Add", "added")
    insert(model, "/up/Relu", 0, "BatchNormalization", "gain", "shift", "mean", "variance", epsilon=1e-3)
    before = {conv.node: conv for conv in plan_of(small_graph(SPEC, floats), SPEC, tmp_path).convs}["/up/ConvTranspose"]
    conv = {conv.node: conv for conv in plan_of(model, SPEC, tmp_path).convs}["/up/ConvTranspose"]
    factor = factors["gain"] / np.sqrt(factors["variance"] + 1e-3)
    bias = (before.bias + factors["added"].ravel() - factors["mean"]) * factor + factors["shift"]
    np.testing.assert_allclose(conv.bias, bias, rtol=1e-5, atol=1e-6)
    if precision == "int8":
        np.testing.assert_array_equal(conv.weight, before.weight)
        assert conv.weight_scale is not None
        assert before.weight_scale is not None
        np.testing.assert_allclose(conv.weight_scale, before.weight_scale * factor, rtol=1e-6)
    else:
        np.testing.assert_allclose(conv.weight, before.weight * factor[:, None, None, None], rtol=2e-3, atol=1e-7)


def test_one_scale_for_all_channels_and_no_bias(model: onnx.ModelProto, tmp_path: Path) -> None:
    set_value(model, "/block0/Conv.weight/DequantizeLinear.scale", np.array(0.5, np.float16))
    del node(model, "/block0/Conv").input[2]
    conv = plan_of(model, SPEC, tmp_path).convs[0]
    np.testing.assert_array_equal(conv.weight_scale, np.full(32, 0.5, np.float32))
    np.testing.assert_array_equal(conv.bias, np.zeros(32, np.float32))


FORMS: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
    "3x3": ({"head_kernels": (3, 3)}, [["heatmap 3", "reg 3"], []]),
    "3x3 and 1x1": ({"head_kernels": (3, 1)}, [["heatmap 1", "reg 1"], []]),
    "one layer": ({"head_kernels": (3,)}, [["heatmap 3", "reg 3"], []]),
    "three layers": ({"head_kernels": (1, 3, 1)}, [["heatmap 1", "reg 1"], []]),
    "no ReLU": ({"head_relu": False}, [["heatmap 1", "reg 1"], []]),
    "quantized": ({"quantized_last": True}, [["heatmap 1", "reg 1"], []]),
    "two 1x1": ({}, [[], ["heatmap", "reg"]]),
}


@pytest.mark.parametrize("name", FORMS)
def test_heads_of_every_form(name: str, tmp_path: Path) -> None:
    """Which layers write the outputs, and which branches are computed in one pass."""
    form, (written, together) = FORMS[name]
    plan = plan_of(small_graph(SPEC, **form), SPEC, tmp_path)
    last = [f"{conv.target} {conv.kernel}" for conv in plan.convs if conv.target in plan.outputs]
    assert last == written
    assert [branch.output for layer in plan.heads for branch in layer.branches] == together
    assert {item.name: (item.channels, item.height, item.width) for item in plan.outputs.values()} == {
        "heatmap": (5, 8, 10),
        "reg": (2, 8, 10),
    }
    assert {item.type for item in plan.outputs.values()} == {"float32"}


def test_first_layers_of_branches_are_one(tmp_path: Path) -> None:
    model = small_graph(SPEC, head_kernels=(3, 3))
    plan = plan_of(model, SPEC, tmp_path)
    merged = next(conv for conv in plan.convs if conv.node == "/hidden_heatmap/Conv (+1)")
    parts = ["/hidden_heatmap/Conv", "/hidden_reg/Conv"]
    codes = [value(model, f"{part}.weight/DequantizeLinear.codes") for part in parts]
    np.testing.assert_array_equal(merged.weight, np.concatenate(codes))
    scales = [value(model, f"{part}.weight/DequantizeLinear.scale") for part in parts]
    np.testing.assert_array_equal(merged.weight_scale, np.concatenate(scales))
    np.testing.assert_array_equal(merged.bias, np.concatenate([value(model, f"{part}.bias") for part in parts]))
    readers = {conv.target: conv.source_channel for conv in plan.convs if conv.source == merged.target}
    assert readers == {"heatmap": 0, "reg": 32}
    assert plan.maps[merged.target].channels == 64
    # Codes of two scales are two maps.
    apart = plan_of(small_graph(SPEC, head_kernels=(3, 3), quantized_last=True), SPEC, tmp_path)
    assert [conv.node for conv in apart.convs if "hidden" in conv.node] == ["/hidden_heatmap/Conv (+1)"]
    model = small_graph(SPEC, head_kernels=(3, 3), quantized_last=True)
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        set_value(model, f"/last_reg/{op_type}.scale", np.array(0.25, np.float32))
    apart = plan_of(model, SPEC, tmp_path)
    assert [conv.node for conv in apart.convs if "hidden" in conv.node] == parts


def test_many_branches_are_computed_a_few_at_a_time(tmp_path: Path) -> None:
    spec = graph_spec(heads=tuple(HeadSpec(f"head{number}", 2) for number in range(13)))
    plan = plan_of(small_graph(spec), spec, tmp_path)
    assert [len(layer.branches) for layer in plan.heads] == [4, 4, 5]
    assert [branch.output for layer in plan.heads for branch in layer.branches] == [head.name for head in spec.heads]
