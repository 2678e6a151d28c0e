"""Whether two detection results differ by more than the choice of frames explains: a paired bootstrap over frames.

Frames are drawn with replacement, both results are scored on the same draw, and the spread of the difference over many
draws is its interval (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13: the percentile interval). A
frame drawn w times counts w times (`eval.weighted_precision`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from base.progress import progress
from eval.intervals import FEW_GROUPS, min_resamples
from eval.metrics import (
    CENTER_DISTANCE_BEV,
    DEFAULT_RANGES_M,
    DEFAULT_THRESHOLDS_M,
    PERCEPTION_EVAL,
    TOTAL,
    ApPolicy,
    DetectionMetrics,
    FrameResult,
    MatchingMode,
    MatchingRules,
    ObjectLimits,
    evaluate_detections,
)
from eval.weighted_precision import WeightedPrecision

__all__ = [
    "BootstrapComparison",
    "Difference",
    "Resampled",
    "Verdict",
    "compare_resampled",
    "paired_bootstrap",
    "resample",
    "resampled_precision",
]

Verdict = Literal["better", "worse", "indistinguishable", "undefined"]

_logger = logging.getLogger(__name__)

_BLOCK = 128  # Draws computed at once: a running sum of 20,000 detections then takes 10 MB.


@dataclass(frozen=True)
class Difference:
    """AP of b minus AP of a, for one class or all, in one range or all.

    Attributes:
        range_name: "0-50 m", or `TOTAL`.
        class_name: The class; None for the mean over the classes.
        a: AP of the first result on all frames, the mean over the thresholds; NaN where there is no object.
        b: AP of the second.
        difference: b − a.
        low: Lower end of the interval of the difference; NaN where it is not defined, as where one frame (or group)
            holds all objects.
        high: Upper end.
        verdict: Of b against a: "better" or "worse" where the interval excludes 0, "undefined" where a side has no AP
            or no interval was computed.
    """

    range_name: str
    class_name: str | None
    a: float
    b: float
    difference: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class BootstrapComparison:
    """Two results on the same frames.

    Attributes:
        label_a: What the first is, "pytorch fp32 (cpu)".
        label_b: What the second is.
        num_frames: Frames of both.
        num_groups: Independent units that were drawn: frames, or the groups they belong to.
        num_resamples: Draws.
        confidence: Share of such intervals that contain the truth.
        seed: Of the draws.
        differences: Range by range, `TOTAL` last; in each the mean over the classes, then every class.
    """

    label_a: str
    label_b: str
    num_frames: int
    num_groups: int
    num_resamples: int
    confidence: float
    seed: int
    differences: tuple[Difference, ...]

    @property
    def total(self) -> Difference:
        """All classes, whole range: the difference of mAP."""
        return self.of()

    def of(self, class_name: str | None = None, range_name: str = TOTAL) -> Difference:
        """The difference of one class (None: their mean) in one range.

        Raises:
            KeyError: there is none.
        """
        for item in self.differences:
            if item.class_name == class_name and item.range_name == range_name:
                return item
        known = sorted({(item.range_name, item.class_name or "mean") for item in self.differences})
        raise KeyError(f"no difference for class '{class_name}' in range '{range_name}'; there are {known}")


def paired_bootstrap(
    frames_a: Sequence[FrameResult],
    frames_b: Sequence[FrameResult],
    class_names: Sequence[str],
    *,
    thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
    ranges_m: Sequence[tuple[float, float]] = DEFAULT_RANGES_M,
    min_score: float | None = None,
    min_num_points: int = 0,
    mode: MatchingMode = CENTER_DISTANCE_BEV,
    policy: ApPolicy = PERCEPTION_EVAL,
    groups: Sequence[str] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    label_a: str = "a",
    label_b: str = "b",
) -> BootstrapComparison:
    """Differences of AP between two results on the same frames, each with an interval and a verdict.

    The settings of the metric are those of `eval.metrics.evaluate_detections`, whose AP both sides have on all frames.

    Args:
        frames_a: The first result: detections and ground truth per frame.
        frames_b: The second; the same frames in the same order with the same ground truth.
        class_names: The labels of the boxes index these.
        thresholds_m: Matching thresholds.
        ranges_m: (min, max) distances from the ego, both exclusive; the total spans them all.
        min_score: Detections count only above this score; None counts all.
        min_num_points: Ground truth with fewer LiDAR points does not count.
        mode: Matching value.
        policy: AP conventions; with an envelope.
        groups: Name of the group of each frame, such as its scene: whole groups are drawn instead of frames. Frames of
            one drive resemble each other, which makes intervals over single frames too narrow.
        num_resamples: Draws; the ends of a 95 % interval rest on a fortieth of them each. 0 computes no intervals.
        seed: Of the draws; equal seeds give equal intervals.
        confidence: Of the intervals, each on its own.
        label_a: Name of the first result.
        label_b: Name of the second.

    Raises:
        DataError: no frames, or the two results are not of the same frames.
        ConfigError: settings outside their range, or a policy without envelope; besides what `evaluate_detections`
            raises.
    """
    _check_settings(policy, num_resamples, confidence)
    _check_frames(frames_a, frames_b, label_a, label_b)
    sides = [
        resample(
            frames,
            class_names,
            thresholds_m=thresholds_m,
            ranges_m=ranges_m,
            min_score=min_score,
            min_num_points=min_num_points,
            mode=mode,
            policy=policy,
            groups=groups,
            num_resamples=num_resamples,
            seed=seed,
        )
        for frames in (frames_a, frames_b)
    ]
    if num_resamples and sides[0].num_groups < FEW_GROUPS:
        _logger.warning(
            "%s against %s: an interval over %d %s is too narrow; evaluate at least %d",
            *(label_b, label_a, sides[0].num_groups, "frames" if groups is None else "groups of frames", FEW_GROUPS),
        )
    return compare_resampled(*sides, confidence=confidence, label_a=label_a, label_b=label_b)


@dataclass(frozen=True, eq=False)
class Resampled:
    """One result on many draws of its frames; two of the same frames, settings and seed are draw by draw of one choice.

    Attributes:
        metrics: On all frames.
        num_frames: How many.
        num_groups: What was drawn: frames, or the groups they belong to.
        num_resamples: Draws.
        seed: Of the draws.
        draws: (ranges, 1 + classes, max(draws, 1)) AP, the mean over the classes first; NaN without draws, and where
            one group holds all objects.
    """

    metrics: DetectionMetrics
    num_frames: int
    num_groups: int
    num_resamples: int
    seed: int
    draws: NDArray[np.float64]


def resample(
    frames: Sequence[FrameResult],
    class_names: Sequence[str],
    *,
    thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
    ranges_m: Sequence[tuple[float, float]] = DEFAULT_RANGES_M,
    min_score: float | None = None,
    min_num_points: int = 0,
    mode: MatchingMode = CENTER_DISTANCE_BEV,
    policy: ApPolicy = PERCEPTION_EVAL,
    groups: Sequence[str] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """One side of `paired_bootstrap`, for results of which many pairs are compared; arguments and errors as there."""
    group_of, num_groups = _group_indices(groups, len(frames))
    metrics = evaluate_detections(
        frames,
        class_names,
        thresholds_m=thresholds_m,
        ranges_m=ranges_m,
        min_score=min_score,
        min_num_points=min_num_points,
        rules=MatchingRules(mode, policy),
    )
    limits = [
        ObjectLimits(part.min_m, part.max_m, min_score=min_score, min_num_points=min_num_points)
        for part in metrics.ranges
    ]
    matched = WeightedPrecision(frames, len(class_names), metrics.thresholds, limits, mode)
    draws: NDArray[np.float64] = np.full((len(limits), 1 + len(class_names), 1), math.nan)
    if num_resamples:
        draws = resampled_precision(matched, group_of, num_groups, policy, num_resamples, seed)
        # Of one group every draw is the same: what looks like an interval of no width is none.
        draws[matched.groups_with_objects(group_of, num_groups) == 1] = math.nan
    return Resampled(metrics, len(frames), num_groups, num_resamples, seed, draws)


def resampled_precision(
    matched: WeightedPrecision,
    group_of: NDArray[np.int64],
    num_groups: int,
    policy: ApPolicy = PERCEPTION_EVAL,
    num_resamples: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """AP of one result on every draw.

    Args:
        matched: The result.
        group_of: (F,) number of each frame's group.
        num_groups: How many there are.
        policy: AP conventions.
        num_resamples: Draws, at least 1.
        seed: Of the draws.

    Returns:
        (ranges, 1 + classes, draws), the mean over the classes first.
    """
    blocks = [matched.average_precision(counts, policy) for counts in _draws(group_of, num_groups, num_resamples, seed)]
    return np.concatenate(blocks, axis=2)


def compare_resampled(
    first: Resampled, second: Resampled, *, confidence: float = 0.95, label_a: str = "a", label_b: str = "b"
) -> BootstrapComparison:
    """The differences of two results of the same frames, draw by draw; arguments as for `paired_bootstrap`.

    Raises:
        DataError: they were not drawn alike.
    """
    drawn = [(side.num_frames, side.num_groups, side.num_resamples, side.seed) for side in (first, second)]
    if drawn[0] != drawn[1]:
        raise DataError(f"{label_a} and {label_b} were not drawn alike: frames, groups, draws, seed {drawn}")
    low, high = _interval(second.draws - first.draws, confidence)
    differences = []
    for row, (part_a, part_b) in enumerate(zip(first.metrics.ranges, second.metrics.ranges, strict=True)):
        values: list[tuple[str | None, float, float]] = [(None, part_a.mean_ap, part_b.mean_ap)]
        values += [(x.class_name, x.mean_ap, y.mean_ap) for x, y in zip(part_a.classes, part_b.classes, strict=True)]
        for column, (class_name, a, b) in enumerate(values):
            ends = float(low[row, column]), float(high[row, column])
            verdict = _verdict(b - a, *ends)
            if verdict == "undefined":
                ends = (math.nan, math.nan)
            differences.append(Difference(part_a.name, class_name, a, b, b - a, *ends, verdict))
    return BootstrapComparison(
        label_a,
        label_b,
        first.num_frames,
        first.num_groups,
        first.num_resamples,
        confidence,
        first.seed,
        tuple(differences),
    )


def _draws(group_of: NDArray[np.int64], num_groups: int, num_resamples: int, seed: int) -> Iterator[NDArray[np.int32]]:
    """(F, R) counts of the frames, in blocks of draws."""
    rng = np.random.default_rng(seed)
    share = np.full(num_groups, 1.0 / num_groups)
    for start in progress(range(0, num_resamples, _BLOCK), "bootstrap", unit="block"):
        size = min(_BLOCK, num_resamples - start)
        counts = rng.multinomial(num_groups, share, size=size).astype(np.int32)
        yield np.ascontiguousarray(counts.T[group_of])


def _interval(differences: NDArray[np.float64], confidence: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the percentile interval over the last axis; draws without an AP are left out."""
    tail = 50.0 * (1.0 - confidence)
    known: NDArray[np.bool_] = np.asarray(~np.isnan(differences).all(axis=-1, keepdims=True))
    low, high = np.nanpercentile(np.where(known, differences, 0.0), (tail, 100.0 - tail), axis=-1)
    return np.where(known[..., 0], low, np.nan), np.where(known[..., 0], high, np.nan)


def _verdict(difference: float, low: float, high: float) -> Verdict:
    if math.isnan(difference) or math.isnan(low):
        return "undefined"
    if low > 0.0:
        return "better"
    return "worse" if high < 0.0 else "indistinguishable"


def _group_indices(groups: Sequence[str] | None, num_frames: int) -> tuple[NDArray[np.int64], int]:
    if groups is None:
        return np.arange(num_frames), num_frames
    if len(groups) != num_frames:
        raise DataError(f"{len(groups)} groups for {num_frames} frames; give every frame the name of its group")
    names = list(dict.fromkeys(groups))
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[name] for name in groups], np.int64), len(names)


def _check_settings(policy: ApPolicy, num_resamples: int, confidence: float) -> None:
    if not policy.envelope:
        raise ConfigError(f"the bootstrap needs an AP policy with an envelope; '{policy.name}' has none")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence is {confidence}; give a share between 0 and 1, such as 0.95")
    if num_resamples != 0 and num_resamples < min_resamples(confidence):
        raise ConfigError(
            f"num_resamples is {num_resamples}; intervals of confidence {confidence:g} need at least "
            f"{min_resamples(confidence)}, better 1000; 0 computes none"
        )


def _check_frames(frames_a: Sequence[FrameResult], frames_b: Sequence[FrameResult], label_a: str, label_b: str) -> None:
    if not frames_a:
        raise DataError(f"{label_a} and {label_b}: there are no frames to compare")
    if len(frames_a) != len(frames_b):
        raise DataError(
            f"{label_a} has {len(frames_a)} frames and {label_b} {len(frames_b)}; a paired comparison needs the same"
        )
    for index, (first, second) in enumerate(zip(frames_a, frames_b, strict=True)):
        if first.token != second.token:
            raise DataError(f"frame {index} is '{first.token}' of {label_a} but '{second.token}' of {label_b}")
        if not _same_boxes(first.ground_truth, second.ground_truth):
            raise DataError(f"frame '{first.token}' has other ground truth in {label_a} than in {label_b}")


def _same_boxes(a: Boxes3D, b: Boxes3D) -> bool:
    return np.array_equal(a.boxes, b.boxes, equal_nan=True) and np.array_equal(a.labels, b.labels)
