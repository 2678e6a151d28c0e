"""How far matched detections are from their ground truth: the errors that perception_eval's analyzer summarizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.metrics.geometry import footprint_corners, nearest_plane_distances, wrap_to_pi
from eval.metrics.limits import ObjectLimits
from eval.metrics.objects import ObjectTable
from eval.metrics.scorer import ChunkMatcher, MatchingRules, Outcome
from eval.metrics.spool import RecordSpool

__all__ = ["ALL_CLASSES", "PAIR_ERRORS", "ErrorSummary", "PairErrorScorer"]

PAIR_ERRORS = ("x", "y", "distance", "yaw", "length", "width", "vx", "vy", "speed", "nn_plane")
"""Ground truth minus detection, in metres, radians and m/s; `distance` of the centres in the ground plane, `nn_plane`
the mean distance of the two corners nearest to the ego."""

ALL_CLASSES = "ALL"
"""Name of the summary over all classes."""

_RECORD = np.dtype([("label", "i2"), *((name, "f8") for name in PAIR_ERRORS)])


@dataclass(frozen=True)
class ErrorSummary:
    """Of one error over all pairs; NaN without any.

    Attributes:
        average: Mean, with its sign.
        rms: Root mean square.
        std: Standard deviation.
        max: Largest magnitude.
        min: Smallest magnitude.
        percentile_99: 99th percentile of the magnitude.
    """

    average: float
    rms: float
    std: float
    max: float
    min: float
    percentile_99: float

    @classmethod
    def of(cls, errors: NDArray[np.float64]) -> ErrorSummary:
        """Summary of (K,) errors; unknown ones (NaN) are left out."""
        known = errors[~np.isnan(errors)]
        if not len(known):
            return cls(*[math.nan] * 6)
        size = np.abs(known)
        return cls(
            float(known.mean()),
            float(np.sqrt(np.square(known).mean())),
            float(known.std()),
            float(size.max()),
            float(size.min()),
            float(np.percentile(size, 99)),
        )


class PairErrorScorer:
    """Collects the errors of all pairs within one threshold per class.

    Args:
        class_names: Labels 0 to C - 1.
        thresholds: Per class, the value a pair must pass.
        limits: Objects outside take no part.
        rules: Matching.
    """

    def __init__(
        self, class_names: Sequence[str], thresholds: Sequence[float], limits: ObjectLimits, rules: MatchingRules
    ) -> None:
        self.class_names = tuple(class_names)
        self._thresholds = tuple(float(value) for value in thresholds)
        self._limits = limits
        self._rules = rules
        self._spool = RecordSpool(_RECORD)

    def add(self, estimates: ObjectTable, ground_truth: ObjectTable) -> None:
        """Adds some frames."""
        count = len(self.class_names)
        matcher = ChunkMatcher(estimates, ground_truth, [(value,) for value in self._thresholds], self._rules)
        found, truth = matcher.estimates, matcher.ground_truth
        keep = self._limits.mask(found, count, ground_truth=False)
        pairs = matcher.inside(keep, self._limits.mask(truth, count, ground_truth=True))
        critical = self._rules.critical
        counted = keep & critical.mask(found, count, ground_truth=False)
        critical_truth = critical.mask(truth, count, ground_truth=True)
        for value in sorted(set(self._thresholds)):
            active = np.array([own == value for own in self._thresholds])
            outcome = Outcome.of(matcher, matcher.match(pairs, value, active), counted, critical_truth)
            paired = outcome.truth >= 0
            rows, columns = outcome.rows[paired], outcome.truth[paired]
            self._spool.append(label=outcome.label[paired], **pair_errors(found.select(rows), truth.select(columns)))

    def result(self) -> dict[str, dict[str, ErrorSummary]]:
        """Class (and `ALL_CLASSES`, first) -> error -> summary."""
        records = self._spool.read()
        parts = {ALL_CLASSES: records}
        parts |= {name: records[records["label"] == label] for label, name in enumerate(self.class_names)}
        return {name: {error: ErrorSummary.of(part[error]) for error in PAIR_ERRORS} for name, part in parts.items()}


def pair_errors(found: ObjectTable, truth: ObjectTable) -> dict[str, NDArray[np.float64]]:
    """The errors of pairs, row by row; keys are `PAIR_ERRORS`."""
    delta = truth.center - found.center
    corners = [footprint_corners(item.center, item.size, item.yaw) for item in (found, truth)]
    return {
        "x": delta[:, 0],
        "y": delta[:, 1],
        "distance": np.hypot(delta[:, 0], delta[:, 1]),
        "yaw": wrap_to_pi(truth.yaw - found.yaw),
        "length": truth.size[:, 0] - found.size[:, 0],
        "width": truth.size[:, 1] - found.size[:, 1],
        "vx": truth.velocity[:, 0] - found.velocity[:, 0],
        "vy": truth.velocity[:, 1] - found.velocity[:, 1],
        "speed": np.hypot(*truth.velocity.T) - np.hypot(*found.velocity.T),
        "nn_plane": nearest_plane_distances(*corners).mean(axis=1),
    }
