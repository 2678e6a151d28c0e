"""Roads as polylines with lanes, and motion along them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LANE_WIDTH_M = 3.3
PARKING_WIDTH_M = 2.4


@dataclass(frozen=True)
class Road:
    """A road with the same number of lanes each way. Traffic keeps left, as in Japan.

    Attributes:
        points: (k, 2) centre line, evenly spaced.
        spacing: distance between two points in metres.
        lanes: lanes per direction.
        parking: (left, right): is there a parking strip at that edge?
    """

    points: Array
    spacing: float
    lanes: int
    parking: tuple[bool, bool]

    @property
    def length(self) -> float:
        """Length in metres."""
        return self.spacing * (len(self.points) - 1)

    def half_width(self, left: bool) -> float:
        """From centre line to kerb on one side, metres."""
        strip = PARKING_WIDTH_M if self.parking[0 if left else 1] else 0.0
        return self.lanes * LANE_WIDTH_M + 0.4 + strip

    def pose(self, s: float, lateral: float = 0.0) -> tuple[float, float, float]:
        """(x, y, heading) at arc length `s`, `lateral` metres left of the centre line.

        Positions and headings are interpolated between points; where the curvature changes, the heading may step by
        half of the change over one point, a milliradian or so.
        """
        u = min(max(s / self.spacing, 0.0), len(self.points) - 2.0)
        i = min(int(u), len(self.points) - 3) if len(self.points) > 2 else 0
        f = u - i
        a, b = self.points[i], self.points[i + 1]
        x, y = a + f * (b - a)
        heading = math.atan2(b[1] - a[1], b[0] - a[0])
        c = self.points[min(i + 2, len(self.points) - 1)]
        if not np.array_equal(b, c):
            turn = math.atan2(c[1] - b[1], c[0] - b[0]) - heading
            heading += (f - 0.5) * math.remainder(turn, 2.0 * math.pi)
        return float(x - math.sin(heading) * lateral), float(y + math.cos(heading) * lateral), heading

    def edge_distance(self, x_axis: Array, y_axis: Array, reach: float) -> Array:
        """Signed distance (ny, nx) to the edge on the grid of two axes, negative on the road, at most `reach`."""
        lateral = np.full((len(y_axis), len(x_axis)), np.inf)
        outer = reach + max(self.half_width(True), self.half_width(False))
        nodes = self.points[::4]
        if not np.array_equal(nodes[-1], self.points[-1]):
            nodes = np.vstack([nodes, self.points[-1]])
        for a, b in pairwise(nodes):
            low, high = np.minimum(a, b) - outer, np.maximum(a, b) + outer
            columns = slice(*np.searchsorted(x_axis, [low[0], high[0]]).tolist())
            rows = slice(*np.searchsorted(y_axis, [low[1], high[1]]).tolist())
            px, py = x_axis[None, columns] - a[0], y_axis[rows, None] - a[1]
            ex, ey = b - a
            s = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0.0, 1.0)
            dx, dy = px - s * ex, py - s * ey
            signed = np.copysign(np.hypot(dx, dy), ex * dy - ey * dx)
            window = lateral[rows, columns]
            np.copyto(window, signed, where=np.abs(signed) < np.abs(window))
        edge = np.maximum(lateral - self.half_width(True), -lateral - self.half_width(False))
        return np.asarray(np.minimum(edge, reach))


def make_road(
    start: tuple[float, float],
    heading: float,
    length: float,
    lanes: int,
    parking: tuple[bool, bool],
    bends: list[tuple[float, float]],
    spacing: float = 1.0,
) -> Road:
    """Lay a centre line; `bends` are (arc length from which it holds, curvature in 1/m)."""
    count = round(length / spacing) + 1
    points = np.empty((count, 2))
    x, y, yaw = start[0], start[1], heading
    curvature = 0.0
    for i in range(count):
        points[i] = x, y
        target = 0.0
        for begin, value in bends:
            if i * spacing >= begin:
                target = value
        # Ease into a bend over about ten metres.
        curvature += (target - curvature) * min(1.0, spacing / 10.0)
        yaw += curvature * spacing
        x += math.cos(yaw) * spacing
        y += math.sin(yaw) * spacing
    return Road(points, spacing, lanes, parking)
