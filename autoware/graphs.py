"""The ONNX half of the contract: tensors by position, as the node's optimization profiles and buffers assume them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoware.yaml_file import ML_PACKAGE
from base.errors import ExportError
from base.onnx_files import read_onnx
from export.onnx_graph import metadata

if TYPE_CHECKING:
    import onnx

__all__ = ["NODE_ENCODER_CHANNELS", "NODE_POINTS_PER_VOXEL", "check_graphs", "node_grid"]

NODE_POINTS_PER_VOXEL = 32
NODE_ENCODER_CHANNELS = 32
_STOPS, _MISLEADS = "the node stops", "the node starts and misleads"
_QDQ = {"QuantizeLinear", "DequantizeLinear"}

Shape = tuple[int, ...]


def node_grid(point_cloud_range: list[float], voxel_size: list[float]) -> tuple[int, int]:
    """Cells along x and y as the node counts them: in float32, the fraction cut off."""
    low, high = np.asarray(point_cloud_range[:2], np.float32), np.asarray(point_cloud_range[3:5], np.float32)
    cells = (high - low) / np.asarray(voxel_size[:2], np.float32)
    return int(cells[0]), int(cells[1])


def check_graphs(folder: Path, values: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(file, problem, effect) of everything that the graphs contradict.

    Args:
        folder: The bundle.
        values: Dotted key -> value of the parameters that are valid; what needs a missing one is not checked.
    """
    found: list[tuple[str, str, str]] = []
    encoder, head = _encoder_tensors(values), _head_tensors(values)
    for key, tensors in (("encoder_onnx_path", encoder), ("head_onnx_path", head)):
        name = values.get(key)
        if name is None:
            continue
        path = folder / name
        if not path.is_file():
            found.append((name, f"the file does not exist, but '{key}' in {ML_PACKAGE} names it", _STOPS))
            continue
        try:
            model = read_onnx(path)
        except ExportError as error:
            found.append((name, str(error), _STOPS))
            continue
        found += [(name, problem, _STOPS) for problem in (_tensor_problems(model, *tensors) if tensors else [])]
        found += _precision_problems(model, name, values.get("trt_precision"))
        convention = metadata(model).get("rot_convention", "y_axis_clockwise")
        if key == "head_onnx_path" and convention != "y_axis_clockwise":
            problem = f"yaw is {convention}; the node reads y_axis_clockwise (export with --rot-y-axis-reference)"
            found.append((name, problem, _MISLEADS))
    return found


def _encoder_tensors(values: dict[str, Any]) -> tuple[list[tuple[Shape, ...]], list[tuple[Shape, ...]]] | None:
    voxels = values.get("model_params.max_voxel_size")
    width = values.get("model_params.encoder_in_feature_size")
    if voxels is None or width is None:
        return None
    outputs = ((voxels, 1, NODE_ENCODER_CHANNELS), (voxels, NODE_ENCODER_CHANNELS))
    return [((voxels, NODE_POINTS_PER_VOXEL, width),)], [outputs]


def _head_tensors(values: dict[str, Any]) -> tuple[list[tuple[Shape, ...]], list[tuple[Shape, ...]]] | None:
    names, limits, size, factor = (
        values.get(f"model_params.{key}")
        for key in ("class_names", "point_cloud_range", "voxel_size", "downsample_factor")
    )
    if not names or not limits or not size or not factor or len(limits) != 6 or len(size) != 3 or min(size) <= 0:
        return None
    nx, ny = node_grid(limits, size)
    heads: list[tuple[Shape, ...]] = [
        ((1, channels, ny // factor, nx // factor),) for channels in (len(names), 2, 1, 3, 2, 2)
    ]
    return [((1, NODE_ENCODER_CHANNELS, ny, nx),)], heads


def _tensor_problems(
    model: onnx.ModelProto, inputs: list[tuple[Shape, ...]], outputs: list[tuple[Shape, ...]]
) -> list[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    found_inputs = [value for value in model.graph.input if value.name not in weights]
    problems = []
    for kind, found, expected in (
        ("input", found_inputs, inputs),
        ("output", list(model.graph.output), outputs),
    ):
        if len(found) != len(expected):
            names = [value.name for value in found]
            problems.append(f"has {len(found)} {kind}s {names}, the node binds {len(expected)} by position")
            continue
        for index, (value, shapes) in enumerate(zip(found, expected, strict=True)):
            problems += _value_problems(value, f"{kind} {index} '{value.name}'", shapes)
    return problems


def _value_problems(value: onnx.ValueInfoProto, what: str, shapes: tuple[Shape, ...]) -> list[str]:
    import onnx

    tensor = value.type.tensor_type
    problems = []
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        problems.append(f"{what} is {onnx.TensorProto.DataType.Name(tensor.elem_type)}; the node's buffers are FLOAT")
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    # An axis without a number takes what the node's profile fixes.
    fits = any(
        len(shape) == len(wanted) and all(a is None or a == b for a, b in zip(shape, wanted, strict=True))
        for wanted in shapes
    )
    if not fits:
        wanted = " or ".join(str(list(item)) for item in shapes)
        problems.append(f"{what} has shape {list(shape)}; the parameters make the node expect {wanted}")
    return problems


def _precision_problems(model: onnx.ModelProto, name: str, precision: str | None) -> list[tuple[str, str, str]]:
    import onnx

    if precision is None or precision == "strongly-typed":
        return []
    if any(node.op_type in _QDQ for node in model.graph.node):
        return [
            (name, f"is quantized (Q/DQ), but 'trt_precision' is '{precision}'; it must be 'strongly-typed'", _STOPS)
        ]
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    if half and precision == "fp32":
        return [
            (name, "has FP16 weights, but 'trt_precision' is 'fp32'; it must be 'fp16' or 'strongly-typed'", _STOPS)
        ]
    return []
