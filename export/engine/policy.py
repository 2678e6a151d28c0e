"""Precision policies against the precision of the graph.

The graph decides: its types are the engine's types, on every builder. A policy therefore is a statement about
the graph, and one that does not hold is an error. TensorRT 10 alone can still be told to run an FP32 graph in
FP16 where it likes.
"""

from __future__ import annotations

from dataclasses import dataclass

from base.errors import EngineBuildError

__all__ = ["BuildPlan", "BuilderTraits", "plan_precision"]


@dataclass(frozen=True)
class BuilderTraits:
    """What an installed builder can do.

    Attributes:
        title: Name and version, for messages.
        flags: Builder flags that it has, of FP16, INT8 and TF32.
        weakly_typed: True where networks need not be strongly typed.
    """

    title: str
    flags: frozenset[str]
    weakly_typed: bool


@dataclass(frozen=True)
class BuildPlan:
    """How a policy is honoured: network typing and builder flags to switch on."""

    strongly_typed: bool
    flags: tuple[str, ...] = ()


def plan_precision(policy: str, precision: str, traits: BuilderTraits, onnx_name: str) -> BuildPlan:
    """Decides how to honour `policy` for a graph of `precision`.

    Args:
        policy: One of `PRECISION_POLICIES`.
        precision: What `export.precision.graph_precision` says about the graph.
        traits: The builder.
        onnx_name: The graph, for messages.

    Raises:
        EngineBuildError: the policy contradicts the graph, or the builder cannot honour it.
    """
    if policy in ("auto", "strongly_typed"):
        return BuildPlan(strongly_typed=True)
    if policy == "fp16":
        if precision in ("fp16", "mixed"):
            return BuildPlan(strongly_typed=True)
        if precision == "fp32" and traits.weakly_typed and "FP16" in traits.flags:
            return BuildPlan(strongly_typed=False, flags=("FP16",))
        advice = (
            "Export the ONNX files in FP16 (python -m export.tools.export_onnx --precision fp16)"
            if precision == "fp32"
            else "Use precision_policy 'int8' or 'auto'"
        )
        raise EngineBuildError(_contradiction(policy, precision, traits, onnx_name, advice))
    if policy == "fp32_tf32":
        if precision != "fp32":
            advice = f"Export the ONNX files in FP32, or use precision_policy '{_own_policy(precision)}'"
            raise EngineBuildError(_contradiction(policy, precision, traits, onnx_name, advice))
        if "TF32" not in traits.flags:
            raise EngineBuildError(
                f"{traits.title} has no TF32 switch, so precision_policy 'fp32_tf32' cannot be honoured. Use 'auto'."
            )
        return BuildPlan(strongly_typed=True, flags=("TF32",))
    if policy == "int8":
        if precision != "int8":
            advice = (
                "Quantize the model first: INT8 takes its scales from Q/DQ pairs in the graph, never from the builder"
            )
            raise EngineBuildError(_contradiction(policy, precision, traits, onnx_name, advice))
        return BuildPlan(strongly_typed=True)
    raise EngineBuildError(f"Unknown precision_policy '{policy}'.")


def _own_policy(precision: str) -> str:
    return precision if precision in ("fp16", "int8") else "auto"


def _contradiction(policy: str, precision: str, traits: BuilderTraits, onnx_name: str, advice: str) -> str:
    return (
        f"precision_policy '{policy}' contradicts '{onnx_name}', whose graph is {precision}: {traits.title} builds "
        f"what the graph says. {advice}."
    )
