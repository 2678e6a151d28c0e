"""Distance ranges that detections are scored in, and how far a model's go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from base.errors import ConfigError

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = ["DEFAULT_RANGES_M", "default_ranges", "ranges_of", "reach_of"]

DEFAULT_RANGES_M = ((0.0, 50.0), (50.0, 90.0), (90.0, 121.0))


def default_ranges(half_width_m: float) -> tuple[tuple[float, float], ...]:
    """`DEFAULT_RANGES_M` cut to what a detector of this half width can see.

    Args:
        half_width_m: Largest |x| that the detection grid covers.

    Returns:
        The usual ranges below `half_width_m`; a remainder of at least 5 m keeps its own, shorter range.

    Raises:
        ConfigError: that is less than 5 m.
    """
    limit = math.floor(half_width_m)
    cut = tuple((low, min(high, float(limit))) for low, high in DEFAULT_RANGES_M if limit - low >= 5.0)
    if not cut:
        raise ConfigError(f"a detection range of {half_width_m} m is too short to evaluate; at least 5 m are needed")
    return cut


def ranges_of(spec: ModelSpec) -> tuple[tuple[float, float], ...]:
    """Distance ranges that a model is scored in: the usual ones as far as its grid reaches."""
    return default_ranges(max(abs(spec.point_cloud_range[axis]) for axis in (0, 1, 3, 4)))


def reach_of(spec: ModelSpec) -> float:
    """Distance from the ego up to which a model is scored, metres."""
    return max(high for _, high in ranges_of(spec))
