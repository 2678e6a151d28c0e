"""ONNX files of anybody, read once: bounded, whole, checked by ONNX itself, one flat graph without outside data.

What `read_onnx` returns holds for every reader behind it: text is text, tensors have the bytes that their shapes say,
nodes come in the order in which they run and have an output, no constant lies in another file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from base.errors import ExportError, UserError
from base.lazy import require
from base.messages import printable, shown, shown_file
from base.onnx_shapes import with_rows
from base.onnx_wire import check_wire
from base.reading import read_bounded

if TYPE_CHECKING:
    import onnx

__all__ = ["MAX_BYTES", "attribute", "graph_errors", "label", "read_onnx", "session_errors"]

T = TypeVar("T", int, float, str, tuple[int, ...])

MAX_BYTES = 1 << 29
"""Most bytes of a file; a CenterPoint of the largest kind has 30 MB."""
_MAX_TENSOR_BYTES = 1 << 31
_FEW = 1000  # rows of a dynamic axis, for which sizes are checked; a frame has more
_MAX_DIMENSION = 2**31 - 1


def read_onnx(
    path: str | os.PathLike[str],
    *,
    error: type[UserError] = ExportError,
    missing: str = "Export it first (mode 'onnx' or 'both').",
    remedy: str = "Export it again.",
    shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> onnx.ModelProto:
    """Reads and checks an ONNX file.

    Args:
        path: The file.
        error: Kind of the error raised.
        missing: What to do where there is no file.
        remedy: What to do where it is broken.
        shapes: Input or output -> its shape: what the file leaves open gets these numbers; None leaves it open.

    Raises:
        UserError: of the kind `error`: the file is missing, no regular file, larger than 512 MB, cut off, no ONNX, not
            valid (the message names the node), or keeps a constant outside, a graph inside a node or a local function.
        MissingDependencyError: the package onnx is not installed.
    """
    require("onnx", "to read ONNX files")
    import onnx

    decode_error = require("google.protobuf.message", "to read ONNX files").DecodeError
    advice = missing if not os.path.lexists(path) else remedy
    data = read_bounded(path, MAX_BYTES, "ONNX file", error=error, remedy=advice)
    try:
        check_wire(data, onnx.ModelProto.DESCRIPTOR)
        model: onnx.ModelProto = onnx.load_model_from_string(data)
    except (decode_error, ValueError) as failure:
        reason = printable(str(failure))
        raise error(f"{shown_file(path)} is not a whole ONNX file ({reason}). {remedy}") from None
    _fix_shapes_(model, shapes or {})
    if not model.graph.node:
        raise error(f"{shown_file(path)} holds no node; it is empty or not an ONNX file. {remedy}")
    for problem in _problems(model):
        raise error(f"{shown_file(path)}: {problem}. {remedy}")
    problem = _invalid(model)
    if problem:
        name = printable(os.path.basename(path))
        raise error(f"{shown_file(path)}: the graph of '{name}' is invalid: {problem}. {remedy}")
    return model


def _fix_shapes_(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Numbers for axes that have none; where the number of axes is another, nothing is changed."""
    for value in (*model.graph.input, *model.graph.output):
        dims, shape = value.type.tensor_type.shape.dim, shapes.get(value.name, ())
        for dim, length in zip(dims, shape, strict=True) if len(dims) == len(shape) else ():
            if length is not None and not dim.HasField("dim_value"):
                dim.dim_value = length


def label(node: onnx.NodeProto) -> str:
    """How messages name a node."""
    return f"Node '{printable(node.name)}' ({printable(node.op_type)})"


def attribute(node: onnx.NodeProto, name: str, default: T, *, error: type[UserError] = ExportError) -> T:
    """An attribute's value, of the type of its default: a whole number, a number, a text or a tuple of whole numbers.

    Raises:
        UserError: of the kind `error`: the attribute has another type.
    """
    import onnx

    types = onnx.AttributeProto
    found = next((item for item in node.attribute if item.name == name), None)
    if found is None:
        return default
    value: Any = None
    if isinstance(default, tuple) and found.type == types.INTS:
        value = tuple(found.ints)
    elif isinstance(default, str) and found.type == types.STRING:
        value = found.s.decode("utf-8", "backslashreplace")
    elif isinstance(default, float) and found.type == types.FLOAT:
        value = float(found.f)
    elif isinstance(default, int) and found.type == types.INT:
        value = int(found.i)
    else:
        kind = types.AttributeType.Name(found.type)
        raise error(
            f"{label(node)}: attribute '{name}' is of type {kind}; it must be like {shown(default)}. Export it again."
        )
    return value  # type: ignore[no-any-return]


def graph_errors() -> tuple[type[Exception], ...]:
    """Everything that ONNX's checker and shape inference raise about a graph."""
    import onnx

    # Plain ones come from C++: std::invalid_argument, std::runtime_error, and texts that are no UTF-8.
    return (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, TypeError, RuntimeError)


def session_errors() -> tuple[type[Exception], ...]:
    """Everything that ONNX Runtime raises when it cannot load or run a graph; its classes have no common base."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", "to run ONNX files")
    found = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*found, RuntimeError)


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    """What ONNX allows and nothing here reads, and text that is none."""
    import onnx

    try:
        _read_texts(model)
    except UnicodeDecodeError as failure:
        yield f"a name in it is no UTF-8 text ({failure})"
        return
    if model.functions:
        yield f"it defines functions of its own ({shown(model.functions[0].name)}); export them inlined"
    graph = model.graph
    if graph.sparse_initializer:
        yield "it has sparse constants, which are not read"
    tensors = [(f"constant {shown(tensor.name)}", tensor) for tensor in graph.initializer]
    for node in graph.node:
        if not node.output or not node.output[0]:
            yield f"{label(node)} has no output"
        for item in node.attribute:
            if item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) or item.HasField("g"):
                yield f"{label(node)} holds a graph of its own ({shown(item.name)}); deployed networks are flat"
            tensors += [(f"attribute {shown(item.name)} of {label(node)}", item.t)] if item.HasField("t") else []
    for what, tensor in tensors:
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield (
                f"{what} lies in another file, which no checksum of this one covers; store all in one file: "
                "onnx.save(onnx.load(PATH), PATH)"
            )
            return
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as failure:
            yield f"{what} does not have the bytes of its shape {list(tensor.dims)}: {failure}"
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type not in onnx.TensorProto.DataType.values():
            yield f"tensor {shown(value.name)} is of type {value.type.tensor_type.elem_type}, which ONNX does not have"
        for dim in value.type.tensor_type.shape.dim:
            if not -_MAX_DIMENSION <= dim.dim_value <= _MAX_DIMENSION:
                yield f"tensor {shown(value.name)} has an axis of {dim.dim_value}"


def _read_texts(message: Any) -> None:
    """Decodes every text; of one that is no UTF-8, some versions of protobuf give the bytes, others raise."""
    for field, value in message.ListFields():
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                _read_texts(inner)
        elif field.type == field.TYPE_STRING:
            for text in (value,) if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):
                    text.decode()


def _invalid(model: onnx.ModelProto) -> str:
    """What ONNX's checker says, or which tensor has a size that nobody can hold; empty where all is well."""
    import onnx

    try:
        onnx.checker.check_model(model)
        dynamic = _is_dynamic(model)
        problem = _too_large(onnx.shape_inference.infer_shapes(with_rows(model, _FEW) if dynamic else model))
        if problem and not dynamic:  # arithmetic on shapes, which ONNX does not follow, leaves axes open
            problem = _too_large(onnx.shape_inference.infer_shapes(with_rows(model, _FEW)))
    except graph_errors() as failure:
        return str(failure).strip()
    return problem


def _too_large(inferred: onnx.ModelProto) -> str:
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        size = math.prod(_FEW if length is None else length for length in shape) * _bytes_of(tensor.elem_type)
        if any(length is not None and length < 0 for length in shape) or size > _MAX_TENSOR_BYTES:
            text = ", ".join("?" if length is None else str(length) for length in shape)
            return f"tensor {shown(value.name)} of shape ({text}) would take over {_MAX_TENSOR_BYTES >> 30} GB"
    return ""


def _is_dynamic(model: onnx.ModelProto) -> bool:
    axes = (dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim)
    return any(not dim.HasField("dim_value") for dim in axes)


def _bytes_of(kind: int) -> int:
    import onnx

    if kind == onnx.TensorProto.STRING or kind not in onnx.TensorProto.DataType.values():
        return 1
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError):  # no type
        return 1
