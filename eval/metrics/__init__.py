"""3D detection metrics on numpy alone."""

from __future__ import annotations

from eval.metrics.average_precision import (
    NUSCENES,
    PERCEPTION_EVAL,
    PERCEPTION_EVAL_COMPAT,
    ApPolicy,
    PrecisionRecall,
    precision_recall,
)
from eval.metrics.detection import (
    DEFAULT_RANGES_M,
    DEFAULT_THRESHOLDS_M,
    default_ranges,
    evaluate_detections,
    evaluate_tables,
)
from eval.metrics.detection_results import TOTAL, ClassMetrics, DetectionMetrics, RangeMetrics
from eval.metrics.engine import ENGINE_NAMES, evaluate_with_engine
from eval.metrics.limits import ObjectLimits
from eval.metrics.modes import (
    CENTER_DISTANCE,
    CENTER_DISTANCE_BEV,
    IOU_3D,
    IOU_BEV,
    MATCHING_MODES,
    PLANE_DISTANCE,
    MatchingMode,
)
from eval.metrics.nuscenes import NuScenesMetrics, NuScenesScorer
from eval.metrics.objects import NOT_A_TARGET, FrameResult, ObjectTable
from eval.metrics.scorer import DetectionScorer, FrameMeans, MatchingRules

__all__ = [
    "CENTER_DISTANCE",
    "CENTER_DISTANCE_BEV",
    "DEFAULT_RANGES_M",
    "DEFAULT_THRESHOLDS_M",
    "ENGINE_NAMES",
    "IOU_3D",
    "IOU_BEV",
    "MATCHING_MODES",
    "NOT_A_TARGET",
    "NUSCENES",
    "PERCEPTION_EVAL",
    "PERCEPTION_EVAL_COMPAT",
    "PLANE_DISTANCE",
    "TOTAL",
    "ApPolicy",
    "ClassMetrics",
    "DetectionMetrics",
    "DetectionScorer",
    "FrameMeans",
    "FrameResult",
    "MatchingMode",
    "MatchingRules",
    "NuScenesMetrics",
    "NuScenesScorer",
    "ObjectLimits",
    "ObjectTable",
    "PrecisionRecall",
    "RangeMetrics",
    "default_ranges",
    "evaluate_detections",
    "evaluate_tables",
    "evaluate_with_engine",
    "precision_recall",
]
