"""How much an object matters to the vehicle now, without a map: how near it is, and how soon it would be hit.

docs/metrics.md defines it, with its sources.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["CORRIDOR_M", "FARTHEST_M", "LATEST_S", "closest_approach", "criticality"]

Array = NDArray[np.float64]

FARTHEST_M = 50.0
"""Distance from which on nearness counts for nothing."""
LATEST_S = 5.0
"""Time of closest approach from which on it counts for nothing."""
CORRIDOR_M = 3.0
"""Distance of closest approach from which on an object passes by."""


def closest_approach(position: Array, velocity: Array) -> tuple[Array, Array]:
    """When two that go on as they do are nearest to each other, and how near.

    Args:
        position: (N, 2) of the one seen from the other, metres.
        velocity: (N, 2) of the one relative to the other, m/s.

    Returns:
        (N,) seconds, 0 where they are nearest now (they part, or neither moves), and (N,) metres.
    """
    speed2 = (velocity * velocity).sum(axis=1)
    # Where neither moves the product is 0, too.
    time = np.maximum(-(position * velocity).sum(axis=1) / np.where(speed2 > 0.0, speed2, 1.0), 0.0)
    nearest = position + velocity * time[:, None]
    return time, np.hypot(nearest[:, 0], nearest[:, 1])


def criticality(position: Array, velocity: Array, ego_velocity: Array) -> Array:
    """(N,) weights in [0, 1] of objects: 1 - (1 - nearness) (1 - urgency).

    Nearness is max(0, 1 - d / 50 m) of the distance d in the ground plane. Urgency is max(0, 1 - t / 5 s) of the time t
    to the closest approach, where that lies ahead and leads within 3 m of the ego's origin; else it is 0.

    Args:
        position: (N, 2) centres, metres, seen from the ego.
        velocity: (N, 2) of the objects over ground, m/s; urgency is 0 where it is not known (NaN).
        ego_velocity: (N, 2) of the ego over ground, in the same axes.
    """
    distance = np.hypot(position[:, 0], position[:, 1])
    nearness = np.clip(1.0 - distance / FARTHEST_M, 0.0, 1.0)
    relative = velocity - ego_velocity
    known: NDArray[np.bool_] = np.asarray(np.isfinite(relative).all(axis=1))
    time, passes_at = closest_approach(position, np.where(known[:, None], relative, 0.0))
    meets = known & (time > 0.0) & (passes_at < CORRIDOR_M)
    urgency = np.where(meets, np.clip(1.0 - time / LATEST_S, 0.0, 1.0), 0.0)
    weight: Array = 1.0 - (1.0 - nearness) * (1.0 - urgency)
    return weight
