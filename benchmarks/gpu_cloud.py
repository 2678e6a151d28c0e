"""A point cloud of real size: rings of a spinning LiDAR on uneven ground, with boxes that stand in its way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.point_columns import NODE_COLUMNS

__all__ = ["lidar_cloud"]

_SENSOR_HEIGHT_M = 2.4
_BEAMS = 128
_COLUMNS = 2000
_RANGE_M = 125.0
# Length, width, height in metres of what stands around, and how many of each.
_OBSTACLES = (((4.5, 1.9, 1.6), 90), ((9.0, 2.6, 3.2), 8), ((0.7, 0.7, 1.7), 80), ((18.0, 12.0, 9.0), 10))


def lidar_cloud(count: int = 200_000, columns: Sequence[str] = NODE_COLUMNS[1], seed: int = 0) -> NDArray[np.float32]:
    """The same points for the same arguments, in firing order.

    A quarter of the beams are equal steps of the angle apart, the others meet the ground at equal steps of the radius:
    the first make full pillars nearby, the others many thin ones far away, as several LiDARs on one vehicle do. Some
    50,000 of the 760 x 760 model's pillars are met.

    Args:
        count: Points; where the rays return fewer, they are fired again with other noise.
        columns: Their names: x, y, z (metres, ego frame), intensity (0 to 255), ring (the beam); others are 0, as the
            time lag of a single revolution is.
        seed: Of the surroundings and of the noise.
    """
    rng = np.random.default_rng(seed)
    even = _BEAMS // 4
    nearest = -np.arctan(_SENSOR_HEIGHT_M / 3.0)
    rings = np.linspace(4.0, 0.97 * _RANGE_M, _BEAMS - even)
    slopes = np.concatenate([np.tan(np.linspace(nearest, 0.12, even)), -_SENSOR_HEIGHT_M / rings])
    obstacles = _obstacles(rng)
    turns: list[NDArray[np.float32]] = []
    while sum(len(turn) for turn in turns) < count:
        turns.append(_turn(rng, slopes, obstacles, columns))
    points = np.concatenate(turns)
    kept = np.sort(rng.choice(len(points), count, replace=False))
    return np.ascontiguousarray(points[kept])


def _obstacles(rng: np.random.Generator) -> NDArray[np.float64]:
    """(K, 6): x, y of the middle, heading, half length, half width, height."""
    rows = []
    for (length, width, height), number in _OBSTACLES:
        for _ in range(number):
            # As many on every square metre: most are far away, and none is so near that it hides a whole sector.
            distance, bearing = np.sqrt(rng.uniform((20 + length) ** 2, 118**2)), rng.uniform(0, 2 * np.pi)
            middle = distance * np.cos(bearing), distance * np.sin(bearing)
            rows.append((*middle, rng.uniform(0, np.pi), length / 2, width / 2, height * rng.uniform(0.85, 1.15)))
    return np.array(rows)


def _turn(
    rng: np.random.Generator, slopes: NDArray[np.float64], obstacles: NDArray[np.float64], columns: Sequence[str]
) -> NDArray[np.float32]:
    azimuth = 2 * np.pi * (np.arange(_COLUMNS) + rng.uniform(0, 1)) / _COLUMNS
    entry = _entries(azimuth, obstacles)
    # Ground that rises and falls by some decimetres, the same at a place for every beam.
    phases = rng.uniform(0, 2 * np.pi, 3)
    turns = []
    for beam, slope in enumerate(slopes):
        # The ground is met where the height over the flat plane has been used up.
        flat = np.where(slope < 0, _SENSOR_HEIGHT_M / max(-slope, 1e-9), np.inf)
        wave = np.sin(3 * azimuth + phases[0]) + 0.5 * np.sin(7 * azimuth + phases[1] + flat.clip(max=1e3) / 9)
        ground = flat * (1 + 0.02 * wave)
        height = _SENSOR_HEIGHT_M + entry * slope
        hits = np.where((height > 0) & (height < obstacles[:, 5]), entry, np.inf).min(axis=1)
        distance = np.minimum(ground, hits) + rng.normal(0, 0.02, _COLUMNS)
        seen = (distance > 1.5) & (distance < _RANGE_M) & (rng.random(_COLUMNS) > 0.02)
        radius, angle = distance[seen], azimuth[seen]
        nothing = np.zeros(len(radius))
        values = {"x": radius * np.cos(angle), "y": radius * np.sin(angle), "z": _SENSOR_HEIGHT_M + radius * slope}
        if "intensity" in columns:
            values["intensity"] = rng.uniform(0, 255, len(radius)).round()
        values["ring"] = nothing + beam
        turns.append(np.stack([values.get(name, nothing) for name in columns], axis=1).astype(np.float32))
    return np.concatenate(turns)


def _entries(azimuth: NDArray[np.float64], obstacles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rays, K) metres along each ray to each obstacle's outline; infinite where it is missed."""
    x, y, heading, half_length, half_width = (obstacles[:, column] for column in range(5))
    turned = azimuth[:, None] - heading
    near = np.full((len(azimuth), len(obstacles)), -np.inf)
    far = np.full_like(near, np.inf)
    for direction, offset, half in (
        (np.cos(turned), -(x * np.cos(heading) + y * np.sin(heading)), half_length),
        (np.sin(turned), -(y * np.cos(heading) - x * np.sin(heading)), half_width),
    ):
        safe = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
        ends = np.stack([(-half - offset) / safe, (half - offset) / safe])
        near, far = np.maximum(near, ends.min(axis=0)), np.minimum(far, ends.max(axis=0))
    # A sensor inside an obstacle sees nothing of it.
    return np.where((near <= far) & (near > 0), near, np.inf)
