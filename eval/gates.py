"""Accuracy gates: which losses against a reference fail a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from base.errors import ConfigError
from eval.metrics import TOTAL
from eval.statistics import BootstrapComparison, Difference

__all__ = ["GateLimits", "GateResult", "Judgement", "judge_gates"]

Judgement = Literal["difference", "worst_bound", "best_bound"]
"""What of a drop is held against its limit: the measured one, the largest in its interval (a pass then shows that the
limit is kept), or the smallest (a failure then shows that it is broken)."""


@dataclass(frozen=True)
class GateLimits:
    """How much AP a backend may lose against the reference; None does not limit. Values at a limit pass.

    Attributes:
        total: Of mAP over the whole range.
        per_class: Of each class over the whole range: one number for all of them, or by name.
        per_range: Of mAP in each distance range: one number for all of them, or by name ("0-50 m").
        judge: What of the drop is compared.
    """

    total: float | None = None
    per_class: float | Mapping[str, float] | None = None
    per_range: float | Mapping[str, float] | None = None
    judge: Judgement = "difference"

    @property
    def any_set(self) -> bool:
        """Whether there is a limit at all."""
        return any(limit is not None for limit in (self.total, self.per_class, self.per_range))


@dataclass(frozen=True)
class GateResult:
    """One limit, judged on one backend.

    Attributes:
        key: Of the configuration: "evaluation.gates.max_drop_per_class.car".
        subject: What it limits: "mAP", "car", "mAP 0-50 m".
        backend: Label of the backend that is judged.
        reference: Label of the one it is compared with; empty for a limit on the value itself.
        limit: Largest drop allowed, or smallest value.
        value: What was compared with the limit: a drop (negative for a gain), or a value.
        judged_by: "difference", "worst_bound", "best_bound", or "value" for a limit on the value itself.
        status: PASSED, FAILED, or SKIPPED where a limit for all classes or ranges meets one without objects.
        reason: Why it did not pass.
    """

    key: str
    subject: str
    backend: str
    reference: str
    limit: float
    value: float
    judged_by: str
    status: Literal["PASSED", "FAILED", "SKIPPED"]
    reason: str = ""


@dataclass(frozen=True)
class _Gate:
    key: str
    subject: str
    limit: float
    difference: Difference
    named: bool = field(default=True)


def judge_gates(
    comparison: BootstrapComparison, limits: GateLimits, prefix: str = "evaluation.gates"
) -> tuple[GateResult, ...]:
    """Holds every limit against a comparison of the reference (a) with a backend (b).

    Args:
        comparison: Of both on the same frames.
        limits: What is allowed.
        prefix: Of the keys in the results.

    Raises:
        ConfigError: a limit names a class or range that was not evaluated.
    """
    return tuple(_judge(gate, comparison, limits.judge) for gate in _gates(comparison, limits, prefix))


def _gates(comparison: BootstrapComparison, limits: GateLimits, prefix: str) -> list[_Gate]:
    gates = []
    if limits.total is not None:
        gates.append(_Gate(f"{prefix}.max_drop", "mAP", limits.total, comparison.total))
    classes = [item.class_name for item in comparison.differences if item.class_name and item.range_name == TOTAL]
    ranges = [item.range_name for item in comparison.differences if not item.class_name and item.range_name != TOTAL]
    for name, limit, named in _spread(limits.per_class, classes, f"{prefix}.max_drop_per_class", "class"):
        key = f"{prefix}.max_drop_per_class" + (f".{name}" if named else "")
        gates.append(_Gate(key, name, limit, comparison.of(name), named))
    for name, limit, named in _spread(limits.per_range, ranges, f"{prefix}.max_drop_per_range", "range"):
        key = f"{prefix}.max_drop_per_range" + (f".{name}" if named else "")
        gates.append(_Gate(key, f"mAP {name}", limit, comparison.of(None, name), named))
    return gates


def _spread(
    limit: float | Mapping[str, float] | None, known: Sequence[str], key: str, what: str
) -> list[tuple[str, float, bool]]:
    if limit is None:
        return []
    if not isinstance(limit, Mapping):
        return [(name, float(limit), False) for name in known]
    for name in limit:
        if name not in known:
            raise ConfigError(f"'{key}.{name}' names no {what} that is evaluated; there are {', '.join(known)}")
    return [(name, float(limit[name]), True) for name in known if name in limit]


def _judge(gate: _Gate, comparison: BootstrapComparison, judge: Judgement) -> GateResult:
    item = gate.difference
    if judge != "difference" and math.isnan(item.low):
        judge = "difference"  # one frame holds all objects: without an interval it is all that is known
    drop = -{"difference": item.difference, "worst_bound": item.low, "best_bound": item.high}[judge]

    def result(status: Literal["PASSED", "FAILED", "SKIPPED"], reason: str = "") -> GateResult:
        names = comparison.label_b, comparison.label_a
        return GateResult(gate.key, gate.subject, *names, gate.limit, drop, judge, status, reason)

    if math.isnan(drop):
        reason = f"{gate.subject} has no AP on these frames, so {gate.key} cannot be judged"
        # A limit that somebody set for this very class must not pass because the class is missing.
        return result("FAILED" if gate.named else "SKIPPED", reason)
    if drop <= gate.limit:
        return result("PASSED")
    measured = f"{gate.subject} {item.b:.4f} is {-item.difference:.4f} below {comparison.label_a}"
    if judge != "difference":
        share = f"{comparison.confidence:.0%}"
        measured += f" ({share} interval of the drop {-item.high:+.4f} to {-item.low:+.4f}, judged by its {judge})"
    return result("FAILED", f"{measured}; {gate.key} is {gate.limit:g}")
