"""Accuracy gates: what passes, what fails, what cannot be judged, and that it decides a run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import pytest

from base.errors import ConfigError
from eval.gates import GateLimits, GateResult, judge_gates
from eval.results import RunResults, StepResult
from eval.statistics import BootstrapComparison, Difference


def difference(range_name: str, class_name: str | None, a: float, delta: float, half: float) -> Difference:
    return Difference(range_name, class_name, a, a + delta, delta, delta - half, delta + half, "worse")


COMPARISON = BootstrapComparison(
    "pytorch fp32 (cpu)",
    "onnx int8 (cpu)",
    *(100, 100, 1000, 0.95, 0),
    (
        difference("0-50 m", None, 0.8, -0.01, 0.005),
        difference("0-50 m", "car", 0.9, -0.01, 0.005),
        difference("50-90 m", None, 0.5, -0.05, 0.02),
        difference("50-90 m", "car", 0.5, -0.05, 0.02),
        difference("total", None, 0.7, -0.02, 0.01),
        difference("total", "car", 0.75, -0.03, 0.01),
        difference("total", "bus", 0.6, 0.02, 0.05),
        difference("total", "tram", math.nan, math.nan, math.nan),
    ),
)


def judged(**limits: Any) -> dict[str, GateResult]:
    results = judge_gates(COMPARISON, GateLimits(**limits))
    return {item.subject: item for item in results}


def test_total() -> None:
    assert judged(total=0.03)["mAP"].status == "PASSED"
    failed = judged(total=0.01)["mAP"]
    assert failed.status == "FAILED"
    assert failed.value == pytest.approx(0.02)
    assert failed.reason == ("mAP 0.6800 is 0.0200 below pytorch fp32 (cpu); evaluation.gates.max_drop is 0.01")


def test_a_drop_at_the_limit_passes() -> None:
    assert judged(total=0.02)["mAP"].status == "PASSED"


@pytest.mark.parametrize(
    ("judge", "passes_at", "fails_at"),
    [("difference", 0.0201, 0.0199), ("worst_bound", 0.0301, 0.0299), ("best_bound", 0.0101, 0.0099)],
)
def test_what_of_the_drop_is_judged(judge: str, passes_at: float, fails_at: float) -> None:
    assert judged(total=passes_at, judge=judge)["mAP"].status == "PASSED"
    assert judged(total=fails_at, judge=judge)["mAP"].status == "FAILED"


@pytest.mark.parametrize("judge", ["worst_bound", "best_bound"])
def test_without_an_interval_the_difference_is_judged(judge: Literal["worst_bound", "best_bound"]) -> None:
    alone = Difference("total", None, 0.9, 0.7, -0.2, math.nan, math.nan, "undefined")
    comparison = replace(COMPARISON, differences=(alone,))
    for limit, status in ((0.3, "PASSED"), (0.1, "FAILED")):
        (found,) = judge_gates(comparison, GateLimits(total=limit, judge=judge))
        assert (found.status, found.judged_by) == (status, "difference")


def test_the_interval_is_in_the_reason() -> None:
    reason = judged(total=0.0, judge="best_bound")["mAP"].reason
    assert "(95% interval of the drop +0.0100 to +0.0300, judged by its best_bound)" in reason


def test_every_class_or_named_ones() -> None:
    everyone = judged(per_class=0.025)
    assert {name: item.status for name, item in everyone.items()} == {
        "car": "FAILED",
        "bus": "PASSED",
        "tram": "SKIPPED",
    }
    assert everyone["car"].key == "evaluation.gates.max_drop_per_class"
    assert "tram has no AP on these frames" in everyone["tram"].reason
    named = judged(per_class={"car": 0.04, "tram": 0.5})
    assert named["car"].status == "PASSED"
    # A limit for this very class must not pass because the frames hold none.
    assert (named["tram"].status, named["tram"].key) == ("FAILED", "evaluation.gates.max_drop_per_class.tram")


def test_ranges() -> None:
    assert {name: item.status for name, item in judged(per_range=0.02).items()} == {
        "mAP 0-50 m": "PASSED",
        "mAP 50-90 m": "FAILED",
    }
    assert [*judged(per_range={"50-90 m": 0.06})] == ["mAP 50-90 m"]


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"max_drop_per_class.tank' names no class that is evaluated"):
        judged(per_class={"tank": 0.1})
    with pytest.raises(ConfigError, match="there are 0-50 m, 50-90 m"):
        judged(per_range={"total": 0.1})


def test_no_limit_judges_nothing() -> None:
    assert judged() == {}
    assert not GateLimits().any_set
    assert GateLimits(per_range=0.0).any_set


def test_a_failed_gate_fails_the_run() -> None:
    steps = (StepResult("evaluate onnx", "PASSED"),)
    gates = judge_gates(COMPARISON, GateLimits(total=0.03))
    assert RunResults("m", {}, steps, gates=gates).passed
    gates = judge_gates(COMPARISON, GateLimits(total=0.01))
    assert not RunResults("m", {}, steps, gates=gates).passed
