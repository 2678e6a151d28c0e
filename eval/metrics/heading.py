"""How much a true positive counts for its heading."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from eval.metrics.geometry import circular_difference, wrap_to_pi

__all__ = ["heading_weight", "rotation_magnitude"]

Array = NDArray[np.float64]


def rotation_magnitude(yaw: Array) -> Array:
    """The angle that perception_eval takes for the heading of a box in base_link, in (-π, π].

    pyquaternion's `radians` of (cos(yaw/2), 0, 0, sin(yaw/2)) is 2·atan2(|vector|, scalar), wrapped: |yaw| for a yaw in
    [-π, π]. The sign of the turn is lost; outside that interval, where the scalar is negative, it comes back.
    """
    return wrap_to_pi(2.0 * np.arctan2(np.abs(np.sin(yaw / 2)), np.cos(yaw / 2)))


def heading_weight(yaw: Array, truth_yaw: Array, *, unsigned: bool = False) -> Array:
    """1 - |heading error| / π, rounded to ten decimals as perception_eval does.

    Args:
        yaw: (K,) of the detections, radians.
        truth_yaw: (K,) of their ground truth.
        unsigned: Compare `rotation_magnitude` instead of the headings, as perception_eval does in base_link.

    Returns:
        (K,) in [0, 1].
    """
    if unsigned:
        yaw, truth_yaw = rotation_magnitude(yaw), rotation_magnitude(truth_yaw)
    weight = 1.0 - circular_difference(yaw, truth_yaw) / math.pi
    return weight.clip(0.0, 1.0).round(10)
