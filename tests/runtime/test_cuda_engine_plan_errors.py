"""Graphs that the engine does not run: what each is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from base.errors import ConfigError, ExportError, UserError
from models.spec import HeadSpec, ModelSpec
from runtime.cuda_engine.from_onnx import plan_from_onnx
from tests.runtime.qdq_graphs import (
    graph_spec,
    insert,
    node,
    plan_of,
    second_pair,
    set_attribute,
    set_value,
    small_graph,
    value,
)

SPEC = graph_spec()
Change = Callable[[onnx.ModelProto], object]


@pytest.fixture
def model() -> onnx.ModelProto:
    return small_graph(SPEC)


# What is done to the graph, and the error's text.
def _input(name: str, index: int, tensor: str) -> Change:
    return lambda model: node(model, name).input.__setitem__(index, tensor)


def _value(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    return lambda model: set_value(model, name, change(value(model, name)))


def _attribute(node_name: str, name: str, new: Any) -> Change:
    return lambda model: set_attribute(model, node_name, name, new)


def _insert(reader: str, index: int, op_type: str, **attributes: Any) -> Change:
    return lambda model: insert(model, reader, index, op_type, **attributes)


def _negative_gain(model: onnx.ModelProto) -> None:
    for name, array in (("gain", -np.ones(32)), ("zeros", np.zeros(32)), ("ones", np.ones(32))):
        set_value(model, name, array.astype(np.float32))
    insert(model, "/up/Relu", 0, "BatchNormalization", "gain", "zeros", "zeros", "ones")


def _joins_one_scale_of_two(model: onnx.ModelProto) -> None:
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        set_value(model, f"/side/Relu/{op_type}.scale", np.array(0.5, np.float32))


def _reads_a_constant(model: onnx.ModelProto) -> None:
    set_value(model, "constant", np.zeros((1, 32, 16, 20), np.float32))
    node(model, "/spatial_features/QuantizeLinear").input[0] = "constant"


def _wide(layer: str, channels: int, kernel: int = 1) -> Change:
    """Gives a layer another number of output channels."""

    def change(model: onnx.ModelProto) -> None:
        name = f"/{layer}/Conv.weight/DequantizeLinear"
        inputs = value(model, f"{name}.codes").shape[1]
        set_value(model, f"{name}.codes", np.zeros((channels, inputs, kernel, kernel), np.int8))
        set_value(model, f"{name}.scale", np.ones(channels, np.float32))
        set_value(model, f"{name}.zero_point", np.zeros(channels, np.int8))
        set_value(model, f"/{layer}/Conv.bias", np.zeros(channels, np.float32))

    return change


def _narrow(model: onnx.ModelProto) -> None:
    _wide("shared", 16, 3)(model)
    for head in ("heatmap", "reg"):
        name = f"/hidden_{head}/Conv.weight/DequantizeLinear.codes"
        set_value(model, name, value(model, name)[:, :16])


RELU0 = "/block0/Relu_output_0"
DQ0 = "/block0/Relu/DequantizeLinear"
WEIGHT = "/block1/Conv.weight/DequantizeLinear"
HALF_SCALE = np.array(0.5, np.float32)
ERRORS = {
    "operator": (_insert("/block1/Relu", 0, "Sigmoid"), r"'/inserted/Sigmoid' \(Sigmoid\) has an operator that"),
    "cast": (_insert("/block1/Relu", 0, "Cast", to=6), r"'/inserted/Cast' \(Cast\) casts to a type that is no float"),
    "read in front of ReLU": (
        _input("/block1/Conv", 0, "/block0/Conv_output_0"),
        r"'/block0/Relu' \(Relu\) is fused .* '/block0/Conv_output_0'.* but Node '/block1/Conv' \(Conv\) reads it too",
    ),
    "output in front of ReLU": (
        _input("/hidden_reg/Relu", 0, "heatmap"),
        r"'/hidden_reg/Relu' \(Relu\) is fused .* 'heatmap'.*, but it is an output of the graph too",
    ),
    "no quantizer": (
        _input(DQ0, 0, RELU0),
        rf"'{DQ0}' \(DequantizeLinear\) reads codes that no QuantizeLinear makes",
    ),
    "pair of two scales": (
        _value(f"{DQ0}.scale", lambda _: HALF_SCALE),
        rf"'{DQ0}' .* the scale 0\.5, but its codes are made by '/block0/Relu/QuantizeLinear' with 0\.0234375",
    ),
    "scale 0": (_value(f"{DQ0}.scale", lambda old: old * 0), rf"'{DQ0}' .* a scale that is \[0\.0\] of shape \[\]"),
    "scale of channels": (
        _value(f"{DQ0}.scale", lambda _: np.ones(32, np.float32)),
        rf"'{DQ0}' .* a scale that is \[1\.0, 1\.0, 1\.0\] of shape \[32\]",
    ),
    "scale computed": (_input(DQ0, 1, RELU0), rf"'{DQ0}' .* a scale that is computed; a map has one"),
    "unsigned codes": (
        _value(f"{DQ0}.zero_point", lambda _: np.array(0, np.uint8)),
        rf"'{DQ0}' .* the zero point uint8 \[0\]; the engine runs signed",
    ),
    "zero point": (_value(f"{DQ0}.zero_point", lambda old: old + 3), rf"'{DQ0}' .* the zero point int8 \[3\]"),
    "zero point of a weight": (_value(f"{WEIGHT}.zero_point", lambda old: old + 3), rf"'{WEIGHT}' .* int8 \[3, 3, 3\]"),
    "codes of another type": (
        _value(f"{WEIGHT}.codes", lambda old: old.astype(np.uint8)),
        r"'/block1/Conv' .* a weight that is of type uint8; the engine takes a constant of int8",
    ),
    "weight computed": (_input(WEIGHT, 0, RELU0), r"'/block1/Conv' .* a weight that is computed in the graph"),
    "weight scales": (
        _attribute(WEIGHT, "axis", 1),
        rf"'{WEIGHT}' .* one positive constant scale for each output channel \(axis 0\) of '/block1/Conv'",
    ),
    "weight scale 0": (_value(f"{WEIGHT}.scale", lambda old: old * 0), rf"'{WEIGHT}' .* one positive constant"),
    "kernel": (
        _value(f"{WEIGHT}.codes", lambda old: old[..., :1]),
        r"'/block1/Conv' .* a weight of shape \[64, 32, 3, 1\]; .* square kernels",
    ),
    "group": (_attribute("/block1/Conv", "group", 2), r"'/block1/Conv' \(Conv\) has group=2; .* dilations 1"),
    "dilations": (_attribute("/block1/Conv", "dilations", [2, 2]), r"'/block1/Conv' .* has dilations=\[2, 2\]"),
    "auto_pad": (_attribute("/block1/Conv", "auto_pad", "SAME_UPPER"), r"'/block1/Conv' .* has auto_pad=SAME_UPPER"),
    "strides": (_attribute("/block1/Conv", "strides", [1, 2]), r"'/block1/Conv' .* has strides=\[1, 2\]"),
    "pads": (_attribute("/block1/Conv", "pads", [0, 0, 1, 1]), r"'/block1/Conv' .* has pads=\[0, 0, 1, 1\]"),
    "output_padding": (
        _attribute("/up/ConvTranspose", "output_padding", [1, 1]),
        r"'/up/ConvTranspose' .* has output_padding=\[1, 1\]",
    ),
    "output_shape": (
        _attribute("/up/ConvTranspose", "output_shape", [8, 10]),
        r"'/up/ConvTranspose' .* has output_shape=\[8, 10\]",
    ),
    "overlapping": (
        _attribute("/up/ConvTranspose", "strides", [1, 1]),
        r"'/up/ConvTranspose' \(ConvTranspose\) has kernel 2, stride 1 and padding 0; .* kernel is their stride",
    ),
    "padded": (_attribute("/up/ConvTranspose", "pads", [1] * 4), r"'/up/ConvTranspose' .* stride 2 and padding 1"),
    "bias": (
        _value("/block1/Conv.bias", lambda old: old[:3]),
        r"'/block1/Conv' \(Conv\) reads '/block1/Conv.bias', which is of shape \[3\]; .* 64 output channels",
    ),
    "negative gain": (
        _negative_gain,
        r"'/inserted/BatchNormalization' .* multiplies 32 channel\(s\) of an INT8 .* \(fuse_bn=True\)",
    ),
    "weight beyond float16": (
        _value("/last_reg/Conv.weight", lambda old: old * 1e7),
        r"'/last_reg/Conv' .* has weights up to .* beyond float16's largest number 65504",
    ),
    "ReLU at the end": (
        lambda model: (
            node(model, "/last_reg/Conv").output.__setitem__(0, "before"),
            model.graph.node.append(onnx.helper.make_node("Relu", ["before"], ["reg"], "/end/Relu")),
        ),
        r"Output 'reg' is behind a ReLU of '/last_reg/Conv'",
    ),
    "half a quantized last layer": (
        _input("/last_reg/Conv", 0, f"{DQ0}_output_0"),
        r"'/last_reg/Conv' \(Conv\) has an INT8 input and a weight in floating point",
    ),
    "hidden channels": (
        _wide("hidden_reg", 24),
        r"'/last_reg/Conv' \(Conv\) reads 32 channels of '/hidden_reg/Relu_output_0', which has 24",
    ),
    "input channels": (_wide("shared", 16, 3), r"'/hidden_heatmap/Conv' .* reads 32 channels of .*, which has 16"),
    "multiple of input channels": (
        _narrow,
        r"'/hidden_heatmap/Conv' \(Conv\) reads 16 channels in int8; .* multiple of 32",
    ),
    "output channels": (_wide("side", 24), r"'/side/Conv' \(Conv\) writes 24 channels in int8; .* multiple of 16"),
    "two forms of the canvas": (
        lambda model: second_pair(model, "/spatial_features", "/side/Conv", 0.25),
        r"'/block0/Conv' \(Conv\) reads the canvas 'spatial_features' as INT8 with scale .*, and Node '/side/Conv' "
        r"\(Conv\) reads it as INT8 with scale 0\.25; pillars are scattered in one form",
    ),
    "an output read": (
        _input("/hidden_reg/Conv", 0, "heatmap"),
        r"'/hidden_reg/Conv' \(Conv\) reads 'heatmap', which is an output of the graph too",
    ),
    "scales of a concatenation": (
        _joins_one_scale_of_two,
        r"'/join/Concat' \(Concat\) joins '/side/Relu_output_0' as INT8 with scale 0\.5, and Node '/shared/Conv' "
        r"\(Conv\) reads the result as INT8 with scale 0\.03125",
    ),
    "axis": (_attribute("/join/Concat", "axis", 2), r"'/join/Concat' \(Concat\) joins along axis 2"),
    "sizes": (_attribute("/side/Conv", "strides", [2, 2]), r"'/join/Concat' .* maps of 4 x 5, 8 x 10 cells \(y, x\)"),
    "no layer": (
        _reads_a_constant,
        r"'/block0/Conv' \(Conv\) reads 'constant', which no layer writes",
    ),
    "ReLU of a concatenation": (
        _insert("/join/Concat/QuantizeLinear", 0, "Relu"),
        r"'/join/Concat' \(Concat\) is in front of Node '/shared/Conv' \(Conv\), where the engine needs a Conv",
    ),
    "sum of two maps": (
        lambda model: insert(model, "/side/Relu", 0, "Add", "/block0/Conv_output_0"),
        r"'/inserted/Add' \(Add\) is in front of Node '/join/Concat' \(Concat\), where the engine needs a Conv",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_the_engine_does_not_run_is_named(case: str, model: onnx.ModelProto, tmp_path: Path) -> None:
    change, message = ERRORS[case]
    change(model)
    with pytest.raises(UserError, match=message) as caught:
        plan_of(model, SPEC, tmp_path)
    assert isinstance(caught.value, (ExportError, ConfigError))


def test_half_quantized_layers_are_named(tmp_path: Path) -> None:
    model = small_graph(SPEC)
    set_value(model, "float", np.zeros((64, 32, 3, 3), np.float32))
    node(model, "/block1/Conv").input[1] = "float"
    with pytest.raises(ExportError, match=r"'/block1/Conv' \(Conv\) has an INT8 input and a weight in floating point"):
        plan_of(model, SPEC, tmp_path)
    model = small_graph(SPEC)
    node(model, "/block0/Conv").input[0] = "spatial_features"
    with pytest.raises(ExportError, match=r"'/block0/Conv' \(Conv\) has an INT8 weight and an input in floating"):
        plan_of(model, SPEC, tmp_path)


def test_float16_channels_are_checked(tmp_path: Path) -> None:
    floats = ("block0", "side", "block1", "up", "shared", "hidden")
    spec = graph_spec(encoder_channels=24)
    model = small_graph(SPEC, floats)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 24
    set_value(model, "/block0/Conv.weight", np.zeros((32, 24, 3, 3), np.float32))
    with pytest.raises(ExportError, match=r"'/block0/Conv' \(Conv\) reads 24 channels in float16; .* multiple of 16"):
        plan_of(model, spec, tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (graph_spec(heads=SPEC.heads[::-1]), r"outputs are \['heatmap', 'reg'\]; the model has \['reg', 'heatmap'\]"),
        (graph_spec(encoder_channels=64), r"input 'spatial_features' is FLOAT \(1, 32, 16, 20\); .* \(1, 64, 16, 20\)"),
        (
            graph_spec(heads=(HeadSpec("heatmap", 4), HeadSpec("reg", 2))),
            r"output 'heatmap' is FLOAT \(1, 5, 8, 10\); the model needs FLOAT \(1, 4, 8, 10\)",
        ),
    ],
)
def test_the_graph_of_another_model_is_refused(
    spec: ModelSpec, message: str, model: onnx.ModelProto, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(model, spec, tmp_path)


def test_a_graph_that_contradicts_its_declared_outputs_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    for output in model.graph.output:
        del output.type.tensor_type.shape.dim[:]
        output.type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension() for _ in range(4)])
    with pytest.raises(ConfigError, match=r"output 'heatmap' has 10 x 8 cells \(x, y\); the model has 5 x 4"):
        plan_of(model, graph_spec(out_size_factor=4), tmp_path)
    with pytest.raises(
        ConfigError, match=r"'/last_reg/Conv' .* takes 32 channels to 2; the model has 3 in output 'reg'"
    ):
        plan_of(model, graph_spec(heads=(HeadSpec("heatmap", 5), HeadSpec("reg", 3))), tmp_path)


def test_files_that_are_no_graph(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ONNX file is missing: .*nowhere\.onnx"):
        plan_from_onnx(Path(tmp_path / "nowhere.onnx"), SPEC)
    (tmp_path / "text.onnx").write_text("no model, but text")
    with pytest.raises(ExportError, match=r"text\.onnx' is not a whole ONNX file"):
        plan_from_onnx(tmp_path / "text.onnx", SPEC)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ExportError, match=r"empty\.onnx' holds no node"):
        plan_from_onnx(tmp_path / "empty.onnx", SPEC)


def test_a_network_of_endless_depth_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    readers = [node for node in model.graph.node if model.graph.input[0].name in node.input]
    name = model.graph.input[0].name
    channels = SPEC.encoder_channels
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.eye(channels, dtype=np.float16)[..., None, None], "identity")
    )
    chain = [onnx.helper.make_node("Cast", [name], ["map0"], "cast", to=onnx.TensorProto.FLOAT16)]
    for number in range(400):
        chain += [
            onnx.helper.make_node("Conv", [f"map{number}", "identity"], [f"sum{number}"], f"conv{number}"),
            onnx.helper.make_node("Relu", [f"sum{number}"], [f"map{number + 1}"], f"relu{number}"),
        ]
    chain.append(onnx.helper.make_node("Cast", ["map400"], ["deep"], "back", to=onnx.TensorProto.FLOAT))
    for reader in readers:
        reader.input[:] = ["deep" if item == name else item for item in reader.input]
    for item in reversed(chain):
        model.graph.node.insert(0, item)
    with pytest.raises(ExportError, match=r"Node 'conv\d+' \(Conv\) is behind more than 200 layers"):
        plan_of(model, SPEC, tmp_path)
