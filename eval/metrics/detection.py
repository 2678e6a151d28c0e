"""Detection metrics of a set of frames held in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from base.errors import ConfigError, DataError
from eval.metrics.detection_results import TOTAL, ClassMetrics, DetectionMetrics, RangeMetrics
from eval.metrics.limits import ObjectLimits
from eval.metrics.objects import FrameResult, ObjectTable
from eval.metrics.scorer import DetectionScorer, MatchingRules
from eval.ranges import DEFAULT_RANGES_M, default_ranges

__all__ = [
    "DEFAULT_RANGES_M",
    "DEFAULT_THRESHOLDS_M",
    "NATIVE_ENGINE",
    "default_ranges",
    "evaluate_detections",
    "evaluate_tables",
]

DEFAULT_THRESHOLDS_M = (0.5, 1.0, 2.0, 4.0)
NATIVE_ENGINE = "native"
"""Name of this implementation in results."""

_FRAMES_AT_ONCE = 256


def evaluate_detections(
    frames: Sequence[FrameResult],
    class_names: Sequence[str],
    *,
    thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
    ranges_m: Sequence[tuple[float, float]] = DEFAULT_RANGES_M,
    min_score: float | None = None,
    min_num_points: int = 0,
    rules: MatchingRules | None = None,
) -> DetectionMetrics:
    """Scores detections against ground truth; results of all frames are pooled, as in perception_eval.

    Each range is scored on its own: objects outside it take no part in its matching.

    Args:
        frames: Each with a token of its own.
        class_names: The labels of the boxes index these.
        thresholds_m: Matching thresholds.
        ranges_m: (min, max) distances from the ego in the ground plane, both exclusive. The total spans them all.
        min_score: Detections count only above this score; None counts all.
        min_num_points: Ground truth with fewer LiDAR points does not count.
        rules: Matching mode and conventions; BEV centre distance with perception_eval's by default.

    Raises:
        DataError: no frames, two frames of one name, a label outside the classes, a value that is not finite, or a
            minimum point count where the ground truth has no counts.
        ConfigError: no thresholds or ranges, or a range that is empty.
    """
    tokens = [frame.token for frame in frames]
    if not tokens:
        raise DataError("there are no frames to score")
    if len(set(tokens)) != len(tokens):
        double = next(token for token in tokens if tokens.count(token) > 1)
        raise DataError(f"frame '{double}' occurs more than once; every frame is scored once")
    for frame in frames if min_num_points > 0 else ():
        if frame.ground_truth.num_points is None and len(frame.ground_truth):
            raise DataError(
                f"ground truth of frame '{frame.token}' has no point counts, but min_num_points is {min_num_points}; "
                "provide them or set it to 0"
            )
    if not ranges_m or not thresholds_m:
        raise ConfigError(f"nothing to score: ranges {list(ranges_m)}, thresholds {list(thresholds_m)}")
    for low, high in ranges_m:
        if not 0.0 <= low < high:
            raise ConfigError(f"range ({low}, {high}) is empty; give 0 <= min < max in metres")
    num_classes = len(class_names)
    estimates = ObjectTable.from_boxes([frame.detections for frame in frames], tokens, num_classes, "detection")
    truth = ObjectTable.from_boxes([frame.ground_truth for frame in frames], tokens, num_classes, "ground truth")
    named = {f"{low:g}-{high:g} m": (float(low), float(high)) for low, high in ranges_m}
    named[TOTAL] = (min(low for low, _ in ranges_m), max(high for _, high in ranges_m))
    limits = {
        name: ObjectLimits(low, high, min_score=min_score, min_num_points=min_num_points)
        for name, (low, high) in named.items()
    }
    thresholds = tuple(sorted(float(value) for value in thresholds_m))
    rules = rules or MatchingRules()
    results = evaluate_tables(estimates, truth, class_names, [thresholds] * num_classes, limits, rules, len(frames))
    ranges = tuple(RangeMetrics(name, *named[name], classes) for name, classes in results.items())
    return DetectionMetrics(
        rules.mode.name, rules.policy.name, NATIVE_ENGINE, tuple(class_names), thresholds, len(frames), ranges
    )


def evaluate_tables(
    estimates: ObjectTable,
    ground_truth: ObjectTable,
    class_names: Sequence[str],
    thresholds: Sequence[Sequence[float]],
    limits: dict[str, ObjectLimits],
    rules: MatchingRules,
    num_frames: int,
) -> dict[str, tuple[ClassMetrics, ...]]:
    """The core of `evaluate_detections`, for objects in tables and limits of any kind.

    Args:
        estimates: Detections of all frames; within a frame, the order decides among equal scores.
        ground_truth: Ground truth of all frames.
        class_names: The scored classes.
        thresholds: Per class.
        limits: By name; each is scored on its own.
        rules: Matching and pooling.
        num_frames: Frames, also those without objects.

    Returns:
        By the names of `limits`, the metrics per class.
    """
    scorer = DetectionScorer(class_names, thresholds, limits, rules)
    starts = np.arange(0, num_frames + _FRAMES_AT_ONCE, _FRAMES_AT_ONCE)
    cuts = [np.searchsorted(table.frame, starts) for table in (estimates, ground_truth)]
    for index, start in enumerate(starts[:-1]):
        found, truth = (
            table.select(slice(cut[index], cut[index + 1])).from_frame(int(start))
            for table, cut in zip((estimates, ground_truth), cuts, strict=True)
        )
        scorer.add(found, truth, min(_FRAMES_AT_ONCE, num_frames - int(start)))
    return scorer.result()
