"""Point clouds of real size: rings of a spinning LiDAR on uneven ground, with boxes that stand in its way.

`lidar_cloud` meets as many pillars as the node ever keeps, out to the end of the range, which no scan of a street does.
`street_cloud` is like one: its sweeps activate as many tiles of each layer as those of nuScenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.point_columns import NODE_COLUMNS

__all__ = ["lidar_cloud", "occupied_cells", "street_cloud"]

_SENSOR_HEIGHT_M = 2.4
_BEAMS = 128
_COLUMNS = 2000
_RANGE_M = 125.0
# Length, width, height in metres of what stands around, and how many of each.
_OBSTACLES = (((4.5, 1.9, 1.6), 90), ((9.0, 2.6, 3.2), 8), ((0.7, 0.7, 1.7), 80), ((18.0, 12.0, 9.0), 10))


@dataclass(frozen=True)
class _Sensor:
    """Of one revolution.

    Attributes:
        height_m: Over the ground.
        firings: Of each beam.
        range_m: Beyond which nothing comes back.
        ground_m: Ground comes back less and less often, and from here on not at all; infinite: always.
        noise_m: Standard deviation of a distance: where it is larger than a sensor's, rough ground is in it.
    """

    height_m: float
    firings: int
    range_m: float
    ground_m: float = np.inf
    noise_m: float = 0.02


_MANY = _Sensor(_SENSOR_HEIGHT_M, _COLUMNS, _RANGE_M)
_STREET = _Sensor(1.84, 1084, 100.0, 95.0, 0.32)
_STREET_BEAMS, _STREET_BEAMS_DEG = 32, (-30.67, 10.67)
_PERIOD_S, _SPEED = 0.05, 12.6
_SETBACK_M, _BUILT, _PLANTS_M = (14.5, 40.0), 0.46, 3.6


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
        turns.append(_turn(rng, slopes, obstacles, columns, _MANY))
    points = np.concatenate(turns)
    kept = np.sort(rng.choice(len(points), count, replace=False))
    return np.ascontiguousarray(points[kept])


def street_cloud(
    sweeps: int = 1, columns: Sequence[str] = NODE_COLUMNS[1], seed: int = 0, frame: int = 0
) -> NDArray[np.float32]:
    """A street as a 32-beam sensor sees it, `sweeps` revolutions one after the other from a vehicle that moves.

    Beams, firings and mounting are those of nuScenes' sensor; where the houses stand was chosen such that the shares of
    active tiles are those of two scans of theirs, one sweep and ten: by layer of the 760 x 760 model, in tiles of
    8 x 16, within 0.06 (tests/benchmarks/test_gpu_skipping.py). One has 27,000 points and 6,200 pillars, ten have
    272,000 and 18,100.

    Args:
        sweeps: The last one is the present; earlier ones are moved into its frame, with their age as time lag.
        columns: As of `lidar_cloud`; `time_lag` in seconds.
        seed: Of the surroundings and of the noise.
        frame: Later frames of the same drive, `_PERIOD_S` apart.
    """
    surroundings, clouds = _street(np.random.default_rng(seed)), []
    slopes = np.tan(np.radians(np.linspace(*_STREET_BEAMS_DEG, _STREET_BEAMS)))
    for age in range(sweeps):
        rng = np.random.default_rng((seed, max(frame - age, 0), 1 if age <= frame else age))
        driven = (frame - age) * _PERIOD_S * _SPEED
        shifted = surroundings - np.array([driven, 0, 0, 0, 0, 0])
        turn = _turn(rng, slopes, shifted, columns, _STREET)
        turn[:, 0] -= age * _PERIOD_S * _SPEED
        if "time_lag" in columns:
            turn[:, list(columns).index("time_lag")] = age * _PERIOD_S
        clouds.append(turn)
    return np.concatenate(clouds)


def occupied_cells(points: NDArray[np.float32], size: tuple[int, int], cell_m: float) -> NDArray[np.bool_]:
    """(height, width): which cells of a canvas around the sensor have a point, whatever its height."""
    height, width = size
    columns, rows = np.floor(points[:, :2].T / cell_m).astype(int) + np.array([[width // 2], [height // 2]])
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    cells = np.zeros(size, bool)
    cells[rows[inside], columns[inside]] = True
    return cells


def _street(rng: np.random.Generator) -> NDArray[np.float64]:
    """(K, 6) as `_obstacles`: houses with gaps on both sides, parked cars, trees and posts; the street runs along x."""
    rows: list[tuple[float, ...]] = []
    for side in (-1, 1):
        x = -_STREET.range_m
        while x < 3 * _STREET.range_m:
            length = rng.uniform(8, 30)
            setback = rng.uniform(*_SETBACK_M)
            if rng.random() < _BUILT:
                rows.append((x + length / 2, side * (setback + 6), 0.0, length / 2, 6.0, rng.uniform(5, 15)))
            x += length + rng.uniform(0, 6)
        for place in np.arange(-_STREET.range_m, 3 * _STREET.range_m, 9.0):
            if rng.random() < 0.5:
                middle = float(place) + rng.uniform(0, 4), side * rng.uniform(4.5, 6)
                rows.append((*middle, rng.normal(0, 0.03), 2.3, 0.95, 1.6))
        for place in np.arange(-_STREET.range_m, 3 * _STREET.range_m, _PLANTS_M):
            radius = rng.uniform(0.1, 0.6)
            middle = float(place) + rng.uniform(0, 4), side * rng.uniform(6.5, 22)
            rows.append((*middle, rng.uniform(0, 3), radius, radius, rng.uniform(0.3, 6)))
    return np.array(rows)


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
    rng: np.random.Generator,
    slopes: NDArray[np.float64],
    obstacles: NDArray[np.float64],
    columns: Sequence[str],
    sensor: _Sensor,
) -> NDArray[np.float32]:
    azimuth = 2 * np.pi * (np.arange(sensor.firings) + rng.uniform(0, 1)) / sensor.firings
    entry = _entries(azimuth, obstacles)
    # Ground that rises and falls by some decimetres, the same at a place for every beam.
    phases = rng.uniform(0, 2 * np.pi, 3)
    turns = []
    for beam, slope in enumerate(slopes):
        # The ground is met where the height over the flat plane has been used up.
        flat = np.where(slope < 0, sensor.height_m / max(-slope, 1e-9), np.inf)
        wave = np.sin(3 * azimuth + phases[0]) + 0.5 * np.sin(7 * azimuth + phases[1] + flat.clip(max=1e3) / 9)
        ground = flat * (1 + 0.02 * wave)
        height = sensor.height_m + entry * slope
        hits = np.where((height > 0) & (height < obstacles[:, 5]), entry, np.inf).min(axis=1)
        distance = np.minimum(ground, hits) + rng.normal(0, sensor.noise_m, sensor.firings)
        if np.isfinite(sensor.ground_m):
            lost = (ground < hits) & (rng.random(sensor.firings) < ground / sensor.ground_m)
            distance[lost] = np.inf
        seen = (distance > 1.5) & (distance < sensor.range_m) & (rng.random(sensor.firings) > 0.02)
        radius, angle = distance[seen], azimuth[seen]
        nothing = np.zeros(len(radius))
        values = {"x": radius * np.cos(angle), "y": radius * np.sin(angle), "z": sensor.height_m + radius * slope}
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
