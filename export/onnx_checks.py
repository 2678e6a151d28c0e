"""What every exported file must pass before it gets its name: ONNX's checker, shape inference, names and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from base.errors import ExportError
from base.lazy import require
from base.onnx_files import graph_errors

if TYPE_CHECKING:
    import onnx

    from models.spec import ComponentSpec, TensorSpec

__all__ = ["check_component", "check_model", "simplify"]


def check_model(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """Runs the full checker and strict shape inference.

    Args:
        model: The model; left as it is.
        what: Name of the component or file, for the message.

    Returns:
        A copy with the shapes of inner tensors.

    Raises:
        ExportError: the graph is not valid ONNX or its shapes contradict each other.
    """
    require("onnx", "to check exported graphs")
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except graph_errors() as error:
        raise ExportError(f"The ONNX graph of '{what}' is invalid: {error}") from error
    return inferred


def check_component(model: onnx.ModelProto, component: ComponentSpec) -> None:
    """Holds a graph against its component: the same inputs and outputs, in order, FP32, with the same shapes.

    Raises:
        ExportError: names both sides of every difference.
    """
    inferred = check_model(model, component.name)
    weights = {tensor.name for tensor in inferred.graph.initializer}
    inputs = [value for value in inferred.graph.input if value.name not in weights]
    differences = [
        *_differences("input", inputs, component.inputs),
        *_differences("output", list(inferred.graph.output), component.outputs),
    ]
    if differences:
        raise ExportError(
            f"The ONNX graph of '{component.name}' differs from what the model config implies: "
            f"{'; '.join(differences)}."
        )


def _differences(kind: str, found: Sequence[onnx.ValueInfoProto], expected: Sequence[TensorSpec]) -> list[str]:
    import onnx

    found_names, expected_names = [value.name for value in found], [tensor.name for tensor in expected]
    if found_names != expected_names:
        return [f"{kind}s are {found_names}, expected {expected_names} in this order"]
    result = []
    for value, tensor in zip(found, expected, strict=True):
        tensor_type = value.type.tensor_type
        if tensor_type.elem_type != onnx.TensorProto.FLOAT:
            name = onnx.TensorProto.DataType.Name(tensor_type.elem_type)
            result.append(f"{kind} '{value.name}' is {name}, expected FLOAT")
        shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor_type.shape.dim)
        if shape != tensor.shape:
            result.append(f"{kind} '{value.name}' has shape {list(shape)}, expected {list(tensor.shape)}")
    return result


def simplify(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """Runs onnx-simplifier.

    Raises:
        ExportError: the simplifier fails, or its own comparison of both models does.
        MissingDependencyError: onnxsim is not installed.
    """
    onnxsim = require("onnxsim", "because onnx_config.simplify is True")
    advice = "Set onnx_config.simplify=False to export without it."
    try:
        simplified, same = onnxsim.simplify(model)
    # The simplifier is native code with no error class of its own; these are what it lets through.
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError) as error:
        raise ExportError(f"onnxsim failed on '{what}': {error}. {advice}") from error
    if not same:
        raise ExportError(f"onnxsim changed what '{what}' computes (its own comparison failed). {advice}")
    result: onnx.ModelProto = simplified
    return result
