"""What the numbers are: detection metrics, latency, verification, and the report of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from eval.evaluator import BackendEvaluation, EvaluationSummary, evaluate
    from eval.metrics import DetectionMetrics, FrameResult, evaluate_detections, evaluate_with_engine
    from eval.panels import select_panels
    from eval.report import write_report
    from eval.results import ArtifactRecord, RunResults, StepResult, read_results, write_results
    from eval.verification import VerificationResult, verify

__all__ = [
    "ArtifactRecord",
    "BackendEvaluation",
    "DetectionMetrics",
    "EvaluationSummary",
    "FrameResult",
    "RunResults",
    "StepResult",
    "VerificationResult",
    "evaluate",
    "evaluate_detections",
    "evaluate_with_engine",
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
        "DetectionMetrics": "metrics",
        "EvaluationSummary": "evaluator",
        "FrameResult": "metrics",
        "RunResults": "results",
        "StepResult": "results",
        "VerificationResult": "verification",
        "evaluate": "evaluator",
        "evaluate_detections": "metrics",
        "evaluate_with_engine": "metrics",
        "read_results": "results",
        "select_panels": "panels",
        "verify": "verification",
        "write_report": "report",
        "write_results": "results",
    },
)
