"""Which objects count: limits of distance, position, score and point count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base.errors import ConfigError
from eval.metrics.objects import ObjectTable

__all__ = ["ObjectLimits", "PerLabel"]

PerLabel = float | tuple[float, ...]
"""One value for all classes, or one per class in the order of the class names."""


@dataclass(frozen=True)
class ObjectLimits:
    """Limits that an object must keep to be counted; all are strict, as perception_eval's are.

    A detection of unknown class, where that is no scored class (label C of C classes), is held to the mean of the
    classes' limits and to a score above 0.

    Attributes:
        min_distance_m: Centre distance from the ego in the ground plane must exceed this. An object exactly at the
            origin is therefore never counted while this is 0.
        max_distance_m: ... and stay below this.
        max_abs_x_m: |x| of the centre must stay below this.
        max_abs_y_m: |y| of the centre must stay below this.
        min_score: The score must exceed this.
        min_num_points: Ground truth with fewer LiDAR points is not counted.
    """

    min_distance_m: PerLabel | None = None
    max_distance_m: PerLabel | None = None
    max_abs_x_m: PerLabel | None = None
    max_abs_y_m: PerLabel | None = None
    min_score: PerLabel | None = None
    min_num_points: PerLabel | None = None

    def mask(self, objects: ObjectTable, num_classes: int, *, ground_truth: bool) -> NDArray[np.bool_]:
        """(N,) which objects are of a scored class, or of unknown class, and within the limits.

        Raises:
            ConfigError: a limit has neither one value nor one per class.
        """
        keep = objects.label >= 0
        label = np.where(keep, objects.label, 0)

        def limit(name: str, unknown: float | None = None) -> NDArray[np.float64] | None:
            value = getattr(self, name)
            if value is None:
                return None
            values = [float(value)] * num_classes if isinstance(value, (int, float)) else list(value)
            if len(values) != num_classes:
                raise ConfigError(f"{name} has {len(values)} values for {num_classes} classes: {value}")
            values.append(float(np.mean(values)) if unknown is None else unknown)
            spread: NDArray[np.float64] = np.asarray(values, np.float64)[label]
            return spread

        distance = objects.distance_m()
        if (low := limit("min_distance_m")) is not None:
            keep &= distance > low
        if (high := limit("max_distance_m")) is not None:
            keep &= distance < high
        if (max_x := limit("max_abs_x_m")) is not None:
            keep &= np.abs(objects.center[:, 0]) < max_x
        if (max_y := limit("max_abs_y_m")) is not None:
            keep &= np.abs(objects.center[:, 1]) < max_y
        if (score := limit("min_score", unknown=0.0)) is not None:
            keep &= objects.score > score
        if ground_truth and (points := limit("min_num_points")) is not None:
            keep &= objects.num_points >= points
        return keep
