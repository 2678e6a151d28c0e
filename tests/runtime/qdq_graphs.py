"""Small CenterPoint-like ONNX graphs: a canvas, two blocks, a convolution and a transposed one joined, heads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.spec import HeadSpec, ModelSpec
from runtime.cuda_engine.from_onnx import plan_from_onnx
from runtime.cuda_engine.plan import NetworkPlan
from tests.runtime.small_model import small_spec

CANVAS_SCALE, BLOCK0_SCALE, BLOCK1_SCALE, CONCAT_SCALE, SHARED_SCALE = (
    0.015625,
    0.0234375,
    0.02734375,
    0.03125,
    0.0390625,
)
HEADS = (("heatmap", 5), ("reg", 2))


def graph_spec(**changes: Any) -> ModelSpec:
    """20 x 16 cells (x, y) of 32 channels, heatmaps of 10 x 8."""
    spec = small_spec(
        point_cloud_range=(-3.2, -2.56, -3.0, 3.2, 2.56, 5.0),
        encoder_channels=32,
        heads=tuple(HeadSpec(name, channels) for name, channels in HEADS),
    )
    return spec.changed(**changes)


def canvas(spec: ModelSpec, seed: int = 0) -> NDArray[np.float32]:
    """(1, C, H, W), mostly empty."""
    rng = np.random.default_rng(seed)
    shape = spec.canvas_shape
    return (rng.normal(0, 0.7, shape) * (rng.random((1, 1, *shape[2:])) > 0.5)).astype(np.float32)


class _Builder:
    def __init__(self, seed: int, floats: Collection[str]) -> None:
        self.rng = np.random.default_rng(seed)
        self.floats = floats
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.scales: dict[str, float] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op_type: str, name: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{name}_output_0"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name, **attributes))
        return output

    def pair(self, tensor: str, stem: str, scale: float) -> str:
        """Q and DQ behind a tensor, named `<stem>/QuantizeLinear` and `<stem>/DequantizeLinear`."""
        for op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = f"{stem}/{op_type}"
            inputs = [
                tensor,
                self.constant(f"{name}.scale", np.array(scale, np.float32)),
                self.constant(f"{name}.zero_point", np.array(0, np.int8)),
            ]
            tensor = self.add(op_type, name, inputs)
        self.scales[tensor] = scale
        return tensor

    def weight(self, name: str, shape: tuple[int, ...], axis: int) -> tuple[str, NDArray[np.float32] | None]:
        """The tensor that the convolution reads, and the scales of its codes."""
        weight = self.rng.normal(0, 1.3 / np.sqrt(np.prod(shape) / shape[axis]), shape).astype(np.float32)
        if name.split("/")[1] in self.floats:
            return self.constant(f"{name}.weight", weight), None
        others = tuple(index for index in range(4) if index != axis)
        # Eight significant bits, as the project's scales have.
        mantissa, exponent = np.frexp(np.abs(weight).max(others) / 127)
        scale = np.ldexp(np.rint(mantissa * 256) / 256, exponent).astype(np.float32)
        along = [1] * 4
        along[axis] = -1
        codes = np.clip(np.rint(weight / scale.reshape(along)), -128, 127).astype(np.int8)
        stem = f"{name}.weight/DequantizeLinear"
        inputs = [
            self.constant(f"{stem}.codes", codes),
            self.constant(f"{stem}.scale", scale),
            self.constant(f"{stem}.zero_point", np.zeros(len(scale), np.int8)),
        ]
        return self.add("DequantizeLinear", stem, inputs, axis=axis), scale

    def conv(
        self, layer: str, tensor: str, channels: tuple[int, int], kernel: int, stride: int = 1, **more: Any
    ) -> str:
        """`/<layer>/Conv` (or ConvTranspose), padded to keep the size, with bias; channels: (in, out)."""
        transposed, output = more.get("transposed", False), more.get("output", "")
        name = f"/{layer}/{'ConvTranspose' if transposed else 'Conv'}"
        shape = (*(channels if transposed else channels[::-1]), kernel, kernel)
        weight, scale = self.weight(name, shape, axis=1 if transposed else 0)
        bias = self.rng.normal(0, 0.2, channels[1]).astype(np.float32)
        if scale is not None:
            # Whole steps of the sums, as exports have them: ONNX Runtime's integer kernels round them to such.
            step = np.float32(self.scales[tensor]) * scale
            bias = np.rint(bias / step) * step
        self.constant(f"{name}.bias", bias)
        pads = [0 if transposed else kernel // 2] * 4
        geometry = {
            "dilations": [1, 1],
            "group": 1,
            "kernel_shape": [kernel] * 2,
            "pads": pads,
            "strides": [stride] * 2,
        }
        op_type = "ConvTranspose" if transposed else "Conv"
        return self.add(op_type, name, [tensor, weight, f"{name}.bias"], output, **geometry)

    def relu(self, layer: str, tensor: str) -> str:
        return self.add("Relu", f"/{layer}/Relu", [tensor])


def small_graph(
    spec: ModelSpec,
    floats: Collection[str] = (),
    seed: int = 0,
    *,
    head_kernels: Sequence[int] = (1, 1),
    head_relu: bool = True,
    quantized_last: bool = False,
    up_stride: int = 2,
) -> onnx.ModelProto:
    """The graph, FP32 beside its codes.

    Args:
        spec: Of `graph_spec`.
        floats: Layers in floating point, of block0, block1, side, up, shared, hidden_<head>; hidden: all of
            these. The last layers of the heads always are but for `quantized_last`.
        seed: Of the weights.
        head_kernels: Side of each convolution of a branch.
        head_relu: Whether ReLUs lie between them.
        quantized_last: Whether the last one is INT8 too.
        up_stride: Of block1 and of the transposed convolution behind it; the half of the grid's sides is a multiple.
    """
    build = _Builder(seed, {*floats, *(f"hidden_{head.name}" for head in spec.heads if "hidden" in floats)})
    middle = range(1, len(head_kernels) - 1)
    build.floats = {*build.floats, *(f"hidden{index}_{head.name}" for head in spec.heads for index in middle)}
    if not quantized_last and len(head_kernels) > 1:
        build.floats = {*build.floats, *(f"last_{head.name}" for head in spec.heads)}

    def read(tensor: str, stem: str, scale: float, reader: str) -> str:
        if reader in build.floats:
            return tensor
        made = f"{stem}/DequantizeLinear_output_0"
        return made if any(made in item.output for item in build.nodes) else build.pair(tensor, stem, scale)

    x = read("spatial_features", "/spatial_features", CANVAS_SCALE, "block0")
    first = build.relu("block0", build.conv("block0", x, (32, 32), 3, 2))
    x = read(first, "/block0/Relu", BLOCK0_SCALE, "side")
    side = build.relu("side", build.conv("side", x, (32, 32), 1))
    x = read(first, "/block0/Relu", BLOCK0_SCALE, "block1")
    second = build.relu("block1", build.conv("block1", x, (32, 64), 3, up_stride))
    x = read(second, "/block1/Relu", BLOCK1_SCALE, "up")
    up = build.relu("up", build.conv("up", x, (64, 32), up_stride, up_stride, transposed=True))
    parts = [read(part, f"/{name}/Relu", CONCAT_SCALE, "shared") for name, part in (("side", side), ("up", up))]
    joined = build.add("Concat", "/join/Concat", parts, axis=1)
    x = read(joined, "/join/Concat", CONCAT_SCALE, "shared")
    shared = build.relu("shared", build.conv("shared", x, (64, 32), 3))
    for head in spec.heads:
        hidden = read(shared, "/shared/Relu", SHARED_SCALE, f"hidden_{head.name}")
        for index, kernel in enumerate(head_kernels[:-1]):
            layer = f"hidden{index or ''}_{head.name}"
            hidden = build.conv(layer, hidden, (32, 32), kernel)
            hidden = build.relu(layer, hidden) if head_relu else hidden
        if quantized_last and len(head_kernels) > 1:
            hidden = build.pair(hidden, f"/last_{head.name}", SHARED_SCALE)
        build.conv(f"last_{head.name}", hidden, (32, head.channels), head_kernels[-1], output=head.name)
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        build.nodes,
        "small",
        [helper.make_tensor_value_info("spatial_features", float32, spec.canvas_shape)],
        [helper.make_tensor_value_info(head.name, float32, spec.head_shape(head)) for head in spec.heads],
        build.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def plan_of(model: onnx.ModelProto, spec: ModelSpec, folder: Path) -> NetworkPlan:
    """The graph's plan, by way of a file in `folder`."""
    path = folder / "pts_backbone_neck_head.onnx"
    onnx.save(model, path)
    return plan_from_onnx(path, spec)


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node of that name."""
    found: onnx.NodeProto
    (found,) = (item for item in model.graph.node if item.name == name)
    return found


def value(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    """The initializer of that name."""
    (found,) = (item for item in model.graph.initializer if item.name == name)
    return numpy_helper.to_array(found)


def set_value(model: onnx.ModelProto, name: str, array: NDArray[Any]) -> None:
    """Replaces an initializer, or adds one."""
    kept = [item for item in model.graph.initializer if item.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, numpy_helper.from_array(array, name)])


def set_attribute(model: onnx.ModelProto, node_name: str, name: str, new: Any) -> None:
    """Replaces an attribute, or adds one."""
    target = node(model, node_name)
    kept = [item for item in target.attribute if item.name != name]
    del target.attribute[:]
    target.attribute.extend([*kept, helper.make_attribute(name, new)])


def insert(model: onnx.ModelProto, reader: str, index: int, op_type: str, *more: str, **attributes: Any) -> None:
    """Puts a node `/inserted/<op_type>` in front of a node's input; `more`: names of its further inputs."""
    target = node(model, reader)
    name = f"/inserted/{op_type}"
    new = helper.make_node(op_type, [target.input[index], *more], [f"{name}_output_0"], name, **attributes)
    target.input[index] = new.output[0]
    position = next(index for index, item in enumerate(model.graph.node) if item.name == reader)
    model.graph.node.insert(position, new)


def second_pair(model: onnx.ModelProto, stem: str, reader: str, scale: float) -> None:
    """Lets a node read a tensor through a pair of another scale, its codes `second_q`, than `<stem>`'s own."""
    set_value(model, "second", np.array(scale, np.float32))
    tensors = [node(model, f"{stem}/QuantizeLinear").input[0], "second_q", "second_d"]
    for index, op_type in enumerate(("QuantizeLinear", "DequantizeLinear")):
        zero_point = node(model, f"{stem}/{op_type}").input[2]
        new = helper.make_node(
            op_type, [tensors[index], "second", zero_point], [tensors[index + 1]], f"/second/{op_type}"
        )
        position = next(index for index, item in enumerate(model.graph.node) if item.name == reader)
        model.graph.node.insert(position, new)
    node(model, reader).input[0] = "second_d"


def run_with_codes(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Outputs and the codes of every QuantizeLinear, by ONNX Runtime with one thread."""
    import onnxruntime

    more = onnx.ModelProto()
    more.CopyFrom(model)
    codes = [item.output[0] for item in model.graph.node if item.op_type == "QuantizeLinear"]
    more.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT8, None) for name in codes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(more.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [*(output.name for output in model.graph.output), *codes]
    return dict(zip(names, session.run(names, {"spatial_features": inputs}), strict=True))
