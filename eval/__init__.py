"""What the numbers are: detection metrics, latency, verification, and the report of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from eval.compare import compare_runs
    from eval.divergence import Divergence, find_divergences
    from eval.evaluator import BackendEvaluation, EvaluationSummary, evaluate
    from eval.gates import GateLimits, GateResult, judge_gates
    from eval.metrics import DetectionMetrics, FrameResult, evaluate_detections, evaluate_with_engine
    from eval.panels import select_panels
    from eval.report import Figure, ReportSection, write_report
    from eval.results import ArtifactRecord, RunResults, StepResult, read_results, write_results
    from eval.statistics import BootstrapComparison, paired_bootstrap
    from eval.verification import VerificationResult, verify

__all__ = [
    "ArtifactRecord",
    "BackendEvaluation",
    "BootstrapComparison",
    "DetectionMetrics",
    "Divergence",
    "EvaluationSummary",
    "Figure",
    "FrameResult",
    "GateLimits",
    "GateResult",
    "ReportSection",
    "RunResults",
    "StepResult",
    "VerificationResult",
    "compare_runs",
    "evaluate",
    "evaluate_detections",
    "evaluate_with_engine",
    "find_divergences",
    "judge_gates",
    "paired_bootstrap",
    "read_results",
    "select_panels",
    "verify",
    "write_report",
    "write_results",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "ArtifactRecord": "results",
        "BackendEvaluation": "evaluator",
        "BootstrapComparison": "statistics",
        "DetectionMetrics": "metrics",
        "Divergence": "divergence",
        "EvaluationSummary": "evaluator",
        "Figure": "report",
        "FrameResult": "metrics",
        "GateLimits": "gates",
        "GateResult": "gates",
        "ReportSection": "report",
        "RunResults": "results",
        "StepResult": "results",
        "VerificationResult": "verification",
        "compare_runs": "compare",
        "evaluate": "evaluator",
        "evaluate_detections": "metrics",
        "evaluate_with_engine": "metrics",
        "find_divergences": "divergence",
        "judge_gates": "gates",
        "paired_bootstrap": "statistics",
        "read_results": "results",
        "select_panels": "panels",
        "verify": "verification",
        "write_report": "report",
        "write_results": "results",
    },
)
