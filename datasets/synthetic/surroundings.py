"""What kind of place a scene's streets lead through."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.synthetic.primitives import LEAVES, Material

__all__ = ["ARTERIAL", "CITY", "STREETS", "SUBURB", "Surroundings"]


@dataclass(frozen=True)
class Surroundings:
    """Numbers that scenes are drawn with; the defaults are the dense streets of the usual sensor.

    Attributes:
        hills: slopes and long waves of the ground, as a multiple of the usual ones.
        built: share of the plots along the roads that have a building, from and to.
        setback_m: from the pavement to the buildings, from and to.
        crowns: size of trees, as a multiple of the usual ones.
        leaves: of their crowns.
        ground: brightness of asphalt, pavement and grass, as a multiple of the usual one, from and to.
        users: pedestrians and cyclists, as a multiple of the usual number.
        parked: share of parking places taken, from and to.
        traffic: shares of cars, trucks and buses among what drives.
        gap_m: mean gap between vehicles that stand in a lane, from and to; it grows with their speed.
        reach_m: how far along its road, from the vehicle, things stand.
        half_size_m: half a side of the square of ground around the vehicle.
        trees_per_ha, houses_per_ha: of what stands beyond the plots along the roads.
    """

    hills: float = 1.0
    built: tuple[float, float] = (0.35, 0.9)
    setback_m: tuple[float, float] = (0.3, 5.0)
    crowns: float = 1.0
    leaves: Material = LEAVES
    ground: tuple[float, float] = (1.0, 1.0)
    users: float = 1.0
    parked: tuple[float, float] = (0.3, 0.8)
    traffic: tuple[float, float, float] = (0.60, 0.22, 0.18)
    gap_m: tuple[float, float] = (12.0, 32.0)
    reach_m: float = 130.0
    half_size_m: float = 165.0
    trees_per_ha: float = 0.0
    houses_per_ha: float = 0.0


# A beam that meets leaves meets gaps as well: less of its light comes back than from a leaf.
_SPARSE = Material(0.13, gaps=1.2)

STREETS = Surroundings()
SUBURB = Surroundings(
    built=(0.6, 1.0),
    setback_m=(0.2, 3.0),
    crowns=1.5,
    leaves=_SPARSE,
    users=0.6,
    parked=(0.4, 0.9),
    traffic=(0.84, 0.11, 0.05),
    gap_m=(20.0, 60.0),
    trees_per_ha=40.0,
    houses_per_ha=4.0,
)
CITY = Surroundings(
    hills=4.0,
    built=(0.0, 0.45),
    setback_m=(1.0, 12.0),
    crowns=2.2,
    leaves=_SPARSE,
    ground=(0.5, 1.6),
    users=0.5,
    parked=(0.05, 0.55),
    traffic=(0.84, 0.11, 0.05),
    gap_m=(20.0, 60.0),
    trees_per_ha=110.0,
    houses_per_ha=8.0,
)
ARTERIAL = Surroundings(
    hills=2.0,
    built=(0.1, 0.6),
    setback_m=(1.0, 12.0),
    crowns=1.8,
    leaves=_SPARSE,
    ground=(0.5, 1.6),
    users=0.8,
    parked=(0.05, 0.55),
    traffic=(0.72, 0.20, 0.08),
    gap_m=(15.0, 50.0),
    reach_m=200.0,
    half_size_m=260.0,
    trees_per_ha=50.0,
    houses_per_ha=6.0,
)
