"""A street as a spinning LiDAR on a roof sees it, by formulas: what real clouds have in common, and nothing else."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["street"]


def street(columns: int = 5, *, steps: int = 500, height_m: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    """Flat ground, two walls 8 m to the sides, and boxes of a car's size along them, in firing order.

    Args:
        columns: Numbers a point: x, y, z (metres, x forward, z up), intensity 0 to 255 (whole), ring (whole), then
            ones, seconds within the revolution, and distance.
        steps: Firings in a revolution, of 24 beams each.
        height_m: Height of the frame's origin above the ground.
        seed: Of the noise on intensities and distances.
    """
    generator = np.random.default_rng(seed)
    azimuth, beam = np.meshgrid(np.linspace(-math.pi, math.pi, steps, endpoint=False), np.arange(24), indexing="ij")
    slope = np.tan(np.radians(-18.0 + 1.2 * beam))
    mast = 1.9
    to_ground = np.where(slope < 0, mast / np.maximum(-slope, 1e-6), np.inf)
    to_wall = 8.0 / np.maximum(np.abs(np.sin(azimuth)), 0.02)
    along = np.cos(azimuth) * to_wall
    to_wall = np.where(np.mod(along, 12.0) < 5.0, to_wall * 0.7, to_wall)  # a car in front of it
    distance = np.minimum(np.minimum(to_ground, to_wall), 90.0) * (1 + 0.001 * generator.normal(size=azimuth.shape))
    z = mast + slope * distance
    on_wall = to_wall < to_ground
    bright = np.rint(np.clip(30 + 90 * on_wall + 30 * generator.normal(size=azimuth.shape), 0, 255))
    bright[0, 0] = 255  # a reflector
    rows = np.stack(
        [
            distance * np.cos(azimuth),
            distance * np.sin(azimuth),
            z - height_m,
            bright,
            beam,
            np.ones_like(azimuth),
            0.1 * (azimuth + math.pi) / (2 * math.pi),
            distance,
        ],
        axis=2,
    )
    return np.ascontiguousarray(rows.reshape(-1, 8)[:, :columns], "<f4")
