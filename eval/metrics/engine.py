"""Which implementation computes the detection metrics: this project's own, or the installed perception_eval."""

from __future__ import annotations

from collections.abc import Sequence

from base.errors import ConfigError
from eval.metrics.detection import (
    DEFAULT_RANGES_M,
    DEFAULT_THRESHOLDS_M,
    NATIVE_ENGINE,
    evaluate_detections,
)
from eval.metrics.detection_results import DetectionMetrics
from eval.metrics.modes import CENTER_DISTANCE_BEV, MatchingMode
from eval.metrics.objects import FrameResult
from eval.metrics.scorer import MatchingRules

__all__ = ["ENGINE_NAMES", "PERCEPTION_EVAL_ENGINE", "evaluate_with_engine"]

PERCEPTION_EVAL_ENGINE = "perception_eval"
ENGINE_NAMES = (NATIVE_ENGINE, PERCEPTION_EVAL_ENGINE)
"""What `engine` may be."""


def evaluate_with_engine(
    engine: str,
    frames: Sequence[FrameResult],
    class_names: Sequence[str],
    *,
    thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
    ranges_m: Sequence[tuple[float, float]] = DEFAULT_RANGES_M,
    min_score: float | None = None,
    min_num_points: int = 0,
    mode: MatchingMode = CENTER_DISTANCE_BEV,
) -> DetectionMetrics:
    """`evaluate_detections` by the engine of choice; the result's `engine` says which, with its version.

    Both give the same numbers to 1e-6, except APH: perception_eval ignores the sign of a turn in base_link, which the
    result's `policy` then says ("perception_eval_compat"), and except for the order of equal scores.

    Args:
        engine: One of `ENGINE_NAMES`.
        frames: Each with a token of its own.
        class_names: The labels of the boxes index these; perception_eval must know them.
        thresholds_m: Matching thresholds, in the unit of the mode.
        ranges_m: (min, max) distances from the ego in the ground plane, both exclusive.
        min_score: Detections count only above this score; None counts all.
        min_num_points: Ground truth with fewer LiDAR points does not count.
        mode: Matching mode.

    Raises:
        ConfigError: there is no such engine.
        MissingDependencyError: perception_eval is asked for and not installed.
        DataError: see `evaluate_detections`.
    """
    if engine not in ENGINE_NAMES:
        raise ConfigError(f"metrics.engine is {engine!r}; it must be one of {', '.join(ENGINE_NAMES)}")
    # The frames are checked alike, whichever engine scores them.
    native = evaluate_detections(
        frames,
        class_names,
        thresholds_m=thresholds_m,
        ranges_m=ranges_m,
        min_score=min_score,
        min_num_points=min_num_points,
        rules=MatchingRules(mode),
    )
    if engine == NATIVE_ENGINE:
        return native
    from eval.perception_eval_adapter import score_with_perception_eval

    return score_with_perception_eval(frames, native, mode, min_score=min_score, min_num_points=min_num_points)
