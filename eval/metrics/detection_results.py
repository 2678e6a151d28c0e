"""What detection metrics consist of: class × threshold × distance range."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from eval.metrics.average_precision import PrecisionRecall

__all__ = ["TOTAL", "ClassMetrics", "DetectionMetrics", "RangeMetrics", "mean_of_known"]

TOTAL = "total"
"""Name of the range that spans all others."""


def mean_of_known(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class ClassMetrics:
    """One class in one range, at every threshold.

    Attributes:
        class_name: The class.
        thresholds: Ascending by `threshold`.
    """

    class_name: str
    thresholds: tuple[PrecisionRecall, ...]

    @property
    def mean_ap(self) -> float:
        """Mean over the thresholds; NaN for a class with neither ground truth nor detections."""
        return mean_of_known(item.ap for item in self.thresholds)

    @property
    def mean_aph(self) -> float:
        """The same of the heading-weighted AP."""
        return mean_of_known(item.aph for item in self.thresholds)

    @property
    def num_ground_truth(self) -> int:
        """Ground truths of the class, the same at every threshold."""
        return self.thresholds[0].num_ground_truth if self.thresholds else 0

    def at(self, threshold: float) -> PrecisionRecall:
        """The result at one threshold.

        Raises:
            KeyError: it was not evaluated at this threshold.
        """
        for item in self.thresholds:
            if math.isclose(item.threshold, threshold):
                return item
        raise KeyError(f"no result at {threshold}; there are {[item.threshold for item in self.thresholds]}")


@dataclass(frozen=True)
class RangeMetrics:
    """All classes in one distance range.

    Attributes:
        name: "0-50 m", or `TOTAL`.
        min_m: Objects lie farther than this from the ego, in the ground plane,
        max_m: and nearer than this.
        classes: In the order of the class names.
    """

    name: str
    min_m: float
    max_m: float
    classes: tuple[ClassMetrics, ...]

    @property
    def mean_ap(self) -> float:
        """Mean over the classes of their means over thresholds, classes without any object left out."""
        return mean_of_known(item.mean_ap for item in self.classes)

    @property
    def mean_aph(self) -> float:
        """The same of the heading-weighted AP."""
        return mean_of_known(item.mean_aph for item in self.classes)

    @property
    def num_ground_truth(self) -> int:
        """Ground truths of all classes."""
        return sum(item.num_ground_truth for item in self.classes)

    def of_class(self, name: str) -> ClassMetrics:
        """The metrics of one class.

        Raises:
            KeyError: there is no such class.
        """
        for item in self.classes:
            if item.class_name == name:
                return item
        raise KeyError(f"no class '{name}'; there are {[item.class_name for item in self.classes]}")


@dataclass(frozen=True)
class DetectionMetrics:
    """What `evaluate_detections` found.

    Attributes:
        mode: Name of the matching mode.
        policy: Name of the AP conventions.
        engine: What computed them, with its version where it is not this project.
        class_names: The scored classes.
        thresholds: Matching thresholds, ascending.
        num_frames: Frames scored.
        ranges: In the order asked for, then the range named `TOTAL`.
    """

    mode: str
    policy: str
    engine: str
    class_names: tuple[str, ...]
    thresholds: tuple[float, ...]
    num_frames: int
    ranges: tuple[RangeMetrics, ...]

    def __post_init__(self) -> None:
        if TOTAL not in [item.name for item in self.ranges]:
            raise ValueError(f"ranges lack '{TOTAL}', which spans all others")
        for item in self.ranges:
            if tuple(row.class_name for row in item.classes) != self.class_names:
                raise ValueError(f"range '{item.name}' is not of the classes {', '.join(self.class_names)}")

    @property
    def total(self) -> RangeMetrics:
        """The range that spans all others."""
        return self.range(TOTAL)

    @property
    def mean_ap(self) -> float:
        """Mean AP over the whole range."""
        return self.total.mean_ap

    @property
    def mean_aph(self) -> float:
        """Mean heading-weighted AP over the whole range."""
        return self.total.mean_aph

    @property
    def classes_without_ground_truth(self) -> tuple[str, ...]:
        """Classes of which there was nothing to find in the whole range: their AP says nothing."""
        return tuple(item.class_name for item in self.total.classes if item.num_ground_truth == 0)

    def range(self, name: str) -> RangeMetrics:
        """The metrics of one range.

        Raises:
            KeyError: there is no such range.
        """
        for item in self.ranges:
            if item.name == name:
                return item
        raise KeyError(f"no range '{name}'; there are {[item.name for item in self.ranges]}")
