"""The vehicle that carries the units: what of the world it hides from them, and what they see of itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.primitives import GLASS, Material, PrimitiveTable, Shape
from datasets.synthetic.raycast import NO_HIT, cast_primitives

__all__ = ["Carrier", "OwnHits", "estate", "small_hatchback", "tall_saloon"]

_GLOSS = Material(0.10)


@dataclass(frozen=True)
class OwnHits:
    """Where a unit's rays meet its own vehicle.

    Attributes:
        depth: (B, N) metres, large where they pass it by.
        cosine: (B, N) of the angle of incidence.
        reflectivity: (B, N) of what is met, 0 where nothing is.
        hit: (B, N) whether the vehicle is met.
    """

    depth: NDArray[np.float64]
    cosine: NDArray[np.float64]
    reflectivity: NDArray[np.float64]
    hit: NDArray[np.bool_]


@dataclass(frozen=True)
class Carrier:
    """A vehicle's body, fixed to its units.

    Attributes:
        shape: its solids in the frame of the points, z = 0 on the ground. A unit must not lie inside one.
        reported: whether returns from it are among the points; else they only lack.
    """

    shape: Shape
    reported: bool

    def hits(
        self,
        directions: NDArray[np.float64],
        elevations: NDArray[np.float64],
        azimuth_offsets: NDArray[np.float64],
        mount_m: tuple[float, float, float],
    ) -> OwnHits:
        """Cast `directions (B, N, 3)`, in the vehicle's frame, from `mount_m` against the body alone."""
        table = PrimitiveTable.from_shapes([self.shape])
        depth = np.full(directions.shape[:2], 1e9)
        hit = np.full(directions.shape[:2], NO_HIT, dtype=np.int64)
        cosine = np.zeros(directions.shape[:2])
        cast_primitives(
            table.kind, table.params, table.bounds, table.body, np.ones(len(table.kind)), np.zeros((1, 4)),
            np.array(mount_m), np.eye(3), directions, elevations, azimuth_offsets, 10.0, np.uint64(0), depth, hit,
            cosine,
        )  # fmt: skip
        met = hit != NO_HIT
        return OwnHits(depth, cosine, np.where(met, table.reflectivity[hit], 0.0), met)


def _car(
    rear: float, front: float, half_width: float, bonnet: tuple[float, float, float], roof: tuple[float, float, float]
) -> Shape:
    """A car along x: its `bonnet` is (start, height there, height at the nose), its `roof` (from, to, height)."""
    shape = Shape()
    begin, high, low = bonnet
    back, ahead, top = roof
    nose = half_width - 0.15
    shape.box((rear, begin), (-half_width, half_width), (0.25, high), _GLOSS, rear=0.1, side=0.05)
    shape.box((begin, front - 0.3), (-half_width, half_width), (0.25, low), _GLOSS, side=0.1)
    shape.box((front - 0.4, front), (-nose, nose), (0.25, low), _GLOSS, front=0.1, side=0.05)
    # The bonnet falls towards the nose, the windscreen and the sides lean inwards up to the roof.
    shape.box((begin - 0.1, front - 0.1), (-nose, nose), (low, high), _GLOSS, front=front - begin - 0.1)
    shape.box(
        (rear + 0.1, begin), (-half_width + 0.03, half_width - 0.03), (high, top), GLASS,
        front=begin - ahead, rear=back - rear - 0.1, side=0.32,
    )  # fmt: skip
    return shape


def small_hatchback(unit_z_m: float) -> Shape:
    """Renault Zoe, 4.08 x 1.73 m (nuScenes' vehicle): its unit stands 0.94 m ahead of the rear axle, at `unit_z_m`.

    Wheelbase 2.59 m, overhangs 0.84 m ahead and 0.66 m behind; cameras stand on the roof's front corners.
    """
    shape = _car(-1.60, 2.49, 0.865, (1.35, 1.04, 0.84), (-0.95, 0.45, unit_z_m - 0.35))
    for side in (-1.0, 1.0):
        y = side * 0.45
        shape.box((0.35, 0.55), (y - 0.1, y + 0.1), (unit_z_m - 0.45, unit_z_m - 0.28), _GLOSS)
    return shape


def estate(unit_z_m: float) -> Shape:
    """Volkswagen Passat estate, 4.77 x 1.82 m (KITTI's vehicle), its unit `unit_z_m` above the ground over the roof."""
    return _car(-1.85, 2.92, 0.91, (1.60, 0.98, 0.72), (-1.55, 0.35, unit_z_m - 0.26))


def tall_saloon() -> Shape:
    """A taxi, 4.40 x 1.70 x 1.75 m, its rear axle at x = 0: wheelbase 2.75 m, nose at 3.53 m."""
    return _car(-0.87, 3.53, 0.85, (2.70, 1.05, 0.85), (-0.70, 1.60, 1.75))
