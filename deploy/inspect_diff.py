"""Two ONNX files layer by layer: what only one of them has, and what differs in precision, size or weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import ExportError
from base.onnx_files import label, read_onnx
from deploy.inspect_engine import EngineFacts
from deploy.inspect_graph import GraphFacts, TensorFacts
from export.qdq.view import INTEGER_OPS, GraphView, axis_of, module_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

__all__ = ["Difference", "diff_engines", "diff_graphs", "layer_weights"]


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        where: Layer, tensor or "file".
        what: Property.
        first, second: Its value on either side; "-" where it is absent.
    """

    where: str
    what: str
    first: str
    second: str


def diff_graphs(first: GraphFacts, second: GraphFacts, first_path: Path, second_path: Path) -> tuple[Difference, ...]:
    """All differences, the file's own first, then tensors, then layers in graph order.

    Weights are compared as the numbers that the layers multiply with: codes times their scales.
    """
    found = [
        *_values("file", "precision", first.precision, second.precision),
        *_values("file", "opset", first.opset, second.opset),
        *_values("file", "bytes", first.size_bytes, second.size_bytes),
        *_values("file", "parameters", first.parameters, second.parameters),
    ]
    for key in sorted({*first.notes, *second.notes} - {"spec"}):
        found += _values("file", key, first.notes.get(key, "-"), second.notes.get(key, "-"))
    for op in sorted({*first.operators, *second.operators}):
        found += _values("file", f"{op} nodes", first.operators.get(op, 0), second.operators.get(op, 0))
    found += _tensors(first.inputs, second.inputs, "input") + _tensors(first.outputs, second.outputs, "output")
    left, right = {layer.path: layer for layer in first.layers}, {layer.path: layer for layer in second.layers}
    weights = layer_weights(read_onnx(first_path)), layer_weights(read_onnx(second_path))
    for path in [*left, *(path for path in right if path not in left)]:
        if path not in left or path not in right:
            found.append(Difference(path, "layer", *(side[path].op if path in side else "-" for side in (left, right))))
            continue
        a, b = left[path], right[path]
        for field in ("op", "kernel", "precision", "output_precision", "parameters", "flop", "moved_bytes"):
            found += _values(path, field.replace("_", " "), getattr(a, field), getattr(b, field))
        found += _weights(path, weights[0].get(path), weights[1].get(path))
    return tuple(found)


def diff_engines(first: EngineFacts, second: EngineFacts) -> tuple[Difference, ...]:
    """Differences of size, of what they were built from and how; of their tensors and layers where both were opened."""
    found = [
        *_values("file", "bytes", first.size_bytes, second.size_bytes),
        *_values("file", "sha256", first.sha256, second.sha256),
        *_values("file", "onnx sha256", first.source.get("sha256", "-"), second.source.get("sha256", "-")),
    ]
    for key in sorted({*first.settings, *second.settings}):
        found += _values("build", key, first.settings.get(key, "-"), second.settings.get(key, "-"))
    if first.status == second.status == "READ":
        found += _tensors(first.tensors, second.tensors, "tensor")
        left, right = ({layer.name: layer.outputs for layer in side.layers} for side in (first, second))
        for name in [*left, *(name for name in right if name not in left)]:
            found += _values(name, "kernel writes", left.get(name, "-"), right.get(name, "-"))
    return tuple(found)


def layer_weights(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float64]]:
    """Layer -> its weights as it multiplies with them, float64.

    Raises:
        ExportError: the scales of a weight do not fit it.
    """
    import numpy as np

    view = GraphView.of(model)
    result: dict[str, npt.NDArray[np.float64]] = {}
    for node in view.nodes(*INTEGER_OPS):
        dequantize = view.weight_dequantizer(node)
        stored = view.constant(dequantize.input[0] if dequantize is not None else node.input[1])
        if stored is None:
            continue
        values = stored.astype(np.float64)
        scale = view.scale(dequantize) if dequantize is not None else None
        # Float weights in front of a Q node are not codes yet.
        if dequantize is not None and scale is not None and stored.dtype.kind == "i":
            factors = scale.astype(np.float64)
            if factors.size > 1:
                axis = axis_of(dequantize)
                if not -values.ndim <= axis < values.ndim or factors.size != values.shape[axis]:
                    raise ExportError(
                        f"{label(dequantize)} has {factors.size} scales for axis {axis} of a weight of shape "
                        f"{list(values.shape)}. Export it again."
                    )
                axis %= values.ndim
                factors = factors.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
            values = values * factors
        result[module_path(node.name) or node.name or node.op_type] = values
    return result


def _weights(
    path: str, first: npt.NDArray[np.float64] | None, second: npt.NDArray[np.float64] | None
) -> list[Difference]:
    import numpy as np

    if first is None or second is None or first.shape != second.shape:
        shapes = ["-" if side is None else "x".join(map(str, side.shape)) for side in (first, second)]
        return _values(path, "weight shape", *shapes)
    largest = float(np.abs(first - second).max(initial=0.0))
    if largest == 0.0:
        return []
    norm = float(np.linalg.norm(first))
    relative = float(np.linalg.norm(first - second)) / norm if norm else float("inf")
    return [Difference(path, "weights", f"norm {norm:.6g}", f"max |Δ| {largest:.3g}, ‖Δ‖/‖w‖ {relative:.3g}")]


def _tensors(first: tuple[TensorFacts, ...], second: tuple[TensorFacts, ...], kind: str) -> list[Difference]:
    left, right = ({item.name: f"{item.dtype} {list(item.shape)}" for item in side} for side in (first, second))
    found: list[Difference] = []
    for name in [*left, *(name for name in right if name not in left)]:
        found += _values(name, kind, left.get(name, "-"), right.get(name, "-"))
    if not found and list(left) != list(right):
        found += _values(kind, "order", list(left), list(right))
    return found


def _values(where: str, what: str, first: object, second: object) -> list[Difference]:
    return [] if first == second else [Difference(where, what, str(first), str(second))]
