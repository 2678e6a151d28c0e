"""3D detection metrics on numpy alone."""

from __future__ import annotations

from eval.metrics.average_precision import PERCEPTION_EVAL, ApPolicy, PrecisionRecall, precision_recall
from eval.metrics.detection import (
    DEFAULT_RANGES_M,
    DEFAULT_THRESHOLDS_M,
    TOTAL,
    ClassMetrics,
    DetectionMetrics,
    MatchingRules,
    RangeMetrics,
    default_ranges,
    evaluate_detections,
    evaluate_tables,
)
from eval.metrics.limits import ObjectLimits
from eval.metrics.matching import CENTER_DISTANCE, CENTER_DISTANCE_BEV, MatchingMode
from eval.metrics.objects import FrameResult, ObjectTable

__all__ = [
    "CENTER_DISTANCE",
    "CENTER_DISTANCE_BEV",
    "DEFAULT_RANGES_M",
    "DEFAULT_THRESHOLDS_M",
    "PERCEPTION_EVAL",
    "TOTAL",
    "ApPolicy",
    "ClassMetrics",
    "DetectionMetrics",
    "FrameResult",
    "MatchingMode",
    "MatchingRules",
    "ObjectLimits",
    "ObjectTable",
    "PrecisionRecall",
    "RangeMetrics",
    "default_ranges",
    "evaluate_detections",
    "evaluate_tables",
    "precision_recall",
]
