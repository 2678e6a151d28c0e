"""What a quantized graph must be, so that every integer kernel it was made for is matched.

Builders do not complain about a misplaced pair: they run the layer in floating point, slower, and round for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ExportError
from export.qdq.view import DEQUANTIZE, INTEGER_OPS, QUANTIZE, GraphView, module_path

if TYPE_CHECKING:
    import onnx

__all__ = ["RULES", "RuleViolation", "check_qdq", "require_rules"]


@dataclass(frozen=True)
class RuleViolation:
    """One rule broken at one place.

    Attributes:
        rule: Its name, a key of `RULES`.
        nodes: Nodes it was broken by.
        message: What is wrong there.
    """

    rule: str
    nodes: tuple[str, ...]
    message: str


def check_qdq(model: onnx.ModelProto, expected: Mapping[str, bool] | None = None) -> tuple[RuleViolation, ...]:
    """Holds a graph against every rule.

    Args:
        model: FP32 or FP16 beside its codes.
        expected: Module path -> whether it is quantized, as `QuantizationStructure` says; None leaves that rule out.
            A quantized layer that the graph does not hold is a violation.

    Returns:
        All violations, by rule and then in graph order; empty for a good graph.
    """
    view = GraphView.of(model)
    found = [violation for rule in RULES.values() for violation in rule(view)]
    if expected is not None:
        found += _layers_as_planned(view, expected)
    return tuple(found)


def require_rules(model: onnx.ModelProto, what: str, expected: Mapping[str, bool] | None = None) -> None:
    """Raises on the first look at a bad graph.

    Raises:
        ExportError: names every node that breaks a rule.
    """
    violations = check_qdq(model, expected)
    if violations:
        listed = "; ".join(f"{item.rule}: {item.message} ({', '.join(item.nodes)})" for item in violations)
        raise ExportError(
            f"The quantized graph of '{what}' breaks {len(violations)} rule(s): {listed}. An engine built from it "
            "would run those layers in floating point or refuse it."
        )


def _both_inputs_dequantized(view: GraphView) -> list[RuleViolation]:
    found = []
    for node in view.nodes(*INTEGER_OPS):
        sides = [view.producer(name, DEQUANTIZE) is not None for name in node.input[:2]]
        if any(sides) and not all(sides):
            side = "activation" if not sides[0] else "weight"
            found.append(
                RuleViolation("both_inputs", (node.name,), f"the {side} of this {node.op_type} is not quantized")
            )
    return found


def _weights_are_codes(view: GraphView) -> list[RuleViolation]:
    import onnx

    found = []
    for node in view.nodes(*INTEGER_OPS):
        dequantize = view.producer(node.input[1], DEQUANTIZE)
        if dequantize is None:
            continue
        tensor = view.initializers.get(dequantize.input[0])
        if tensor is None or tensor.data_type != onnx.TensorProto.INT8:
            kind = "is computed" if tensor is None else f"is {onnx.TensorProto.DataType.Name(tensor.data_type)}"
            found.append(
                RuleViolation(
                    "int8_weights", (node.name, dequantize.name), f"its weight {kind}, not a constant of INT8 codes"
                )
            )
    return found


def _one_quantizer_each(view: GraphView) -> list[RuleViolation]:
    found = []
    for tensor, readers in view.consumers.items():
        quantizers = [node.name for node in readers if node.op_type == QUANTIZE and node.input[0] == tensor]
        if len(quantizers) > 1:
            found.append(
                RuleViolation("one_quantizer", tuple(quantizers), f"'{tensor}' is quantized {len(quantizers)} times")
            )
    return found


def _concats_share_a_scale(view: GraphView) -> list[RuleViolation]:
    found = []
    for node in view.nodes("Concat"):
        before = [view.producer(name, DEQUANTIZE) for name in node.input]
        after = [reader for reader in view.readers(node.output[0]) if reader.op_type == QUANTIZE]
        present = [item for item in (*before, *after) if item is not None]
        if not present:
            continue
        if any(item is None for item in before) or not after:
            missing = "output" if all(item is not None for item in before) else "inputs"
            message = f"its {missing} lack a pair while the rest has one"
        elif all(view.same_scale(item, present[0]) for item in present):
            continue
        else:
            scales = sorted({float(scale.ravel()[0]) for scale in map(view.scale, present) if scale is not None})
            message = f"its inputs and output are on different scales: {', '.join(f'{scale:.6g}' for scale in scales)}"
        found.append(RuleViolation("concat_scale", (node.name, *(item.name for item in present)), message))
    return found


def _scales_are_positive(view: GraphView) -> list[RuleViolation]:
    import numpy as np

    found = []
    for node in view.nodes(QUANTIZE, DEQUANTIZE):
        scale = view.scale(node)
        if scale is None:
            found.append(RuleViolation("scales", (node.name,), "its scale is no constant"))
            continue
        wide = scale.astype(np.float64).ravel()
        bad = wide[~np.isfinite(wide) | (wide <= 0)]
        if bad.size:
            found.append(
                RuleViolation("scales", (node.name,), f"{bad.size} of {wide.size} scales are {bad[0]:g}, not positive")
            )
    return found


def _zero_points_are_zero(view: GraphView) -> list[RuleViolation]:
    import numpy as np

    found = []
    for node in view.nodes(QUANTIZE, DEQUANTIZE):
        zero_point = view.constant(node.input[2]) if len(node.input) > 2 else None
        if zero_point is None or zero_point.dtype != np.int8 or bool(np.any(zero_point != 0)):
            shown = (
                "missing"
                if zero_point is None
                else f"{zero_point.dtype}, up to {np.abs(zero_point.astype(np.int64)).max()}"
            )
            found.append(RuleViolation("zero_points", (node.name,), f"its zero point is {shown}, not INT8 zero"))
    return found


def _pairs_are_whole(view: GraphView) -> list[RuleViolation]:
    found = []
    for node in view.nodes(QUANTIZE):
        readers = view.readers(node.output[0])
        partners = [reader for reader in readers if reader.op_type == DEQUANTIZE]
        if not partners or len(partners) != len(readers) or not all(view.same_scale(node, p) for p in partners):
            found.append(RuleViolation("whole_pairs", (node.name,), "no DequantizeLinear of its scale reads its codes"))
    for node in view.nodes(DEQUANTIZE):
        from_codes = view.producer(node.input[0], QUANTIZE) is not None or node.input[0] in view.initializers
        if not from_codes or (not view.readers(node.output[0]) and node.output[0] not in view.outputs):
            found.append(RuleViolation("whole_pairs", (node.name,), "it has no codes to read, or no reader"))
    return found


def _pairs_feed_integers(view: GraphView) -> list[RuleViolation]:
    return [
        RuleViolation("idle_pairs", (quantize.name, dequantize.name), "no integer kernel reads these values")
        for quantize, dequantize in view.activation_pairs()
        if not view.feeds_integers(dequantize)
    ]


# Rule -> its check. Every rule is broken once in tests/export/test_qdq_rules.py.
RULES: dict[str, Callable[[GraphView], list[RuleViolation]]] = {
    "both_inputs": _both_inputs_dequantized,
    "int8_weights": _weights_are_codes,
    "one_quantizer": _one_quantizer_each,
    "concat_scale": _concats_share_a_scale,
    "scales": _scales_are_positive,
    "zero_points": _zero_points_are_zero,
    "whole_pairs": _pairs_are_whole,
    "idle_pairs": _pairs_feed_integers,
}


def _layers_as_planned(view: GraphView, expected: Mapping[str, bool]) -> list[RuleViolation]:
    found = []
    seen = set()
    for node in view.nodes(*INTEGER_OPS):
        path = module_path(node.name)
        seen.add(path)
        quantized = view.weight_dequantizer(node) is not None
        if quantized != expected.get(path, False):
            state = "quantized" if quantized else "in floating point"
            wanted = "is to be quantized" if expected.get(path, False) else "is to stay in floating point"
            found.append(RuleViolation("planned_layers", (node.name,), f"it is {state}, but '{path}' {wanted}"))
    for path in sorted(path for path, wanted in expected.items() if wanted and path not in seen):
        found.append(RuleViolation("planned_layers", (path,), "this layer is to be quantized and is not in the graph"))
    return found
