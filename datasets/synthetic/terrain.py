"""The ground: roads on gentle hills, kerbs at their edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.synthetic.roads import Road

Array = NDArray[np.float64]

CELL_M = 0.5
KERB_RAMP_M = 0.05
EDGE_LINE_M = (-0.45, -0.28)
"""Lane-edge marking, as an interval of the distance to the kerb."""


@dataclass(frozen=True)
class Terrain:
    """Height and distance-to-road grids over a square, `grid[iy, ix]` at `(x0 + ix * cell, y0 + iy * cell)`.

    Attributes:
        height: (n, n) smooth height in metres, without kerbs.
        kerb_distance: (n, n) signed distance to the road's edge in metres, negative on the road.
        kerb: height of the kerb.
        sidewalk: width of the pavement; grass or earth lies beyond.
        max_slope: largest gradient of `height`.
    """

    x0: float
    y0: float
    height: Array
    kerb_distance: Array
    kerb: float
    sidewalk: float
    max_slope: float
    cell: float = CELL_M
    kerb_ramp: float = KERB_RAMP_M

    def _sample(self, grid: Array, x: ArrayLike, y: ArrayLike) -> Array:
        fx = np.clip((np.asarray(x, dtype=float) - self.x0) / self.cell, 0.0, grid.shape[1] - 1.001)
        fy = np.clip((np.asarray(y, dtype=float) - self.y0) / self.cell, 0.0, grid.shape[0] - 1.001)
        ix, iy = fx.astype(np.int64), fy.astype(np.int64)
        fx, fy = fx - ix, fy - iy
        top = grid[iy, ix] * (1 - fx) + grid[iy, ix + 1] * fx
        bottom = grid[iy + 1, ix] * (1 - fx) + grid[iy + 1, ix + 1] * fx
        return np.asarray(top * (1 - fy) + bottom * fy)

    def edge_distance(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Signed distance to the kerb (m), negative on the road."""
        return self._sample(self.kerb_distance, x, y)

    def elevation(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Height of the ground (m), kerbs included."""
        lift = self.kerb * np.clip(self.edge_distance(x, y) / KERB_RAMP_M, 0.0, 1.0)
        return self._sample(self.height, x, y) + lift

    def smooth_elevation(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Height of the ground (m) as if there were no kerbs."""
        return self._sample(self.height, x, y)


def make_terrain(
    rng: np.random.Generator,
    roads: list[Road],
    yards: list[Array],
    center: tuple[float, float],
    half_size: float,
    hills: float = 1.0,
) -> Terrain:
    """Hills from a slope and a few long waves; `yards` are convex paved polygons (k, 2), counter-clockwise.

    Args:
        hills: multiplies slope and waves.
    """
    x0, y0 = center[0] - half_size, center[1] - half_size
    axis = np.asarray(np.arange(round(2 * half_size / CELL_M) + 1) * CELL_M, dtype=np.float64)
    gx, gy = np.meshgrid(x0 + axis, y0 + axis)
    slope = rng.normal(0.0, 0.008, size=2)
    height = slope[0] * gx + slope[1] * gy
    for _ in range(5):
        wave = float(rng.uniform(60.0, 240.0))
        heading, phase = rng.uniform(0.0, 2.0 * np.pi, size=2)
        amplitude = float(rng.uniform(0.0006, 0.0019)) * wave
        along = np.cos(heading) * gx + np.sin(heading) * gy
        height = height + amplitude * np.sin(2.0 * np.pi * along / wave + phase)
    height = height * hills
    distance = np.full_like(height, 30.0)
    for road in roads:
        distance = np.minimum(distance, road.edge_distance(x0 + axis, y0 + axis, reach=30.0))
    for polygon in yards:
        edges = np.roll(polygon, -1, axis=0) - polygon
        outside = np.full_like(height, -np.inf)
        for corner, edge in zip(polygon, edges, strict=True):
            normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
            outside = np.maximum(outside, normal[0] * (gx - corner[0]) + normal[1] * (gy - corner[1]))
        distance = np.minimum(distance, outside)
    steepest = np.hypot(*np.gradient(height, CELL_M)).max()
    return Terrain(
        x0=x0,
        y0=y0,
        height=height,
        kerb_distance=distance,
        kerb=float(rng.uniform(0.10, 0.18)),
        sidewalk=float(rng.uniform(2.6, 4.2)),
        max_slope=float(steepest) + 0.005,
    )
