"""Sensors by name: what scans of well-known datasets are made with, and a vehicle with several units."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets.synthetic.surroundings import ARTERIAL, CITY, STREETS, SUBURB, Surroundings

if TYPE_CHECKING:
    from datasets.synthetic.carrier import Carrier
    from datasets.synthetic.lidar import Lidar

__all__ = ["DEFAULT_SENSOR", "SENSORS", "Rig", "sensor_rig"]

DEFAULT_SENSOR = "spinning"


@dataclass(frozen=True)
class Rig:
    """A vehicle with LiDARs and the place it drives through.

    Attributes:
        units: they turn together; their points make one cloud.
        carrier: the vehicle's body; None: it hides nothing from the units.
        surroundings: what scenes are drawn with.
        flat_poses: the heights of poses are not recorded, so that joined sweeps part where the road climbs.
    """

    units: tuple[Lidar, ...]
    carrier: Carrier | None = None
    surroundings: Surroundings = STREETS
    flat_poses: bool = False


def _spinning(beams: int) -> Rig:
    from datasets.synthetic.lidar import Lidar

    return Rig((Lidar.with_beams(beams),))


def _kitti(_beams: int) -> Rig:
    """KITTI's scans as far as its camera sees, ±42°."""
    return _hdl64(math.radians(42.0))


def _kitti_full(_beams: int) -> Rig:
    """KITTI's scans, all around."""
    return _hdl64(None)


def _hdl64(half_view_rad: float | None) -> Rig:
    """KITTI's HDL-64E (its manual; Geiger et al., 2013): two blocks of 32 beams, about 1/3 and 1/2 degree apart.

    The frame is the LiDAR's, 1.73 m above the ground. The blocks stand one above the other, 0.20 and 0.12 m above that
    frame's origin (the unit's calibration has them as vertical offsets), and send their beams to -8.7..+1.9° and
    -25..-9°.
    """
    import numpy as np

    from datasets.synthetic.carrier import Carrier, estate
    from datasets.synthetic.lidar import Lidar

    height = 1.73
    offsets = np.radians(np.array([-0.5, 0.25, -0.25, 0.5]))[np.arange(32) % 4]
    # Its lasers are calibrated one by one, to about 3 cm.
    biases = np.random.default_rng(64).normal(0.0, 0.03, (2, 32))
    blocks = tuple(
        Lidar(
            np.radians(np.linspace(lowest, highest, 32)),
            offsets,
            columns=2141,
            max_range_m=80.0,
            range_step_m=0.002,
            dropout=0.0,
            # Pavement, a tenth, is seen up to about 50 m, where beams graze it.
            threshold=5e-6,
            beam_bias_m=biases[block],
            mount_m=(0.0, 0.0, height + above),
            half_view_rad=half_view_rad,
            first_ring=32 * block,
            # Calibrated reflectances: bright, and nearly the same at all distances and angles.
            intensity_of=(160.0, 0.3, 400.0),
            dark=0.12,
        )
        for block, (lowest, highest, above) in enumerate(((-25.0, -9.0, 0.12), (-8.7, 1.94, 0.20)))
    )
    return Rig(blocks, Carrier(estate(height), reported=False), SUBURB)


def _nuscenes(_beams: int) -> Rig:
    """nuScenes' HDL-32E (Caesar et al., 2020): 32 beams from -30.67° to +10.67°, 20 revolutions a second.

    The frame is the LiDAR's, 1.84 m above the ground, with x ahead. The set's poses have no height ("z is always 0").
    """
    import numpy as np

    from datasets.synthetic.carrier import Carrier, small_hatchback
    from datasets.synthetic.lidar import Lidar

    unit = Lidar(
        np.radians(np.linspace(-30.67, 10.67, 32)),
        np.zeros(32),
        columns=1084,
        min_range_m=0.5,
        max_range_m=103.0,
        range_sigma_m=0.006,
        range_step_m=0.002,
        dropout=0.01,
        threshold=_seen_at(70.0),
        mount_m=(0.0, 0.0, 1.84),
        period_s=0.05,
        # Calibrated: as bright far away as near.
        intensity_of=(122.0, 0.65, math.inf),
        near_m=8.0,
        speckle=0.6,
    )
    return Rig((unit,), Carrier(small_hatchback(1.84), reported=True), CITY, flat_poses=True)


def _long_range(_beams: int) -> Rig:
    """Four units of one vehicle: 128 beams on the roof that reach 245 m, and 32 each in front and on both sides.

    On the roof a unit as Velodyne's VLS-128 (its manual: a cycle of 53.3 us, -25..+15°; a tenth of the light is seen at
    220 m); low around the vehicle units as Hesai's XT32 (-16..+15°, 2,000 columns, a tenth at 80 m), cut at 60 m.
    """
    import numpy as np

    from datasets.synthetic.carrier import Carrier, tall_saloon
    from datasets.synthetic.lidar import Lidar, beam_elevations

    offsets = np.radians(np.array([-0.45, 0.31, -0.16, 0.52]))
    roof = Lidar(
        np.radians(beam_elevations(128)),
        offsets[np.arange(128) % 4],
        columns=1876,
        max_range_m=245.0,
        range_sigma_m=0.015,
        threshold=_seen_at(220.0),
        intensity_of=(130.0, 0.65, math.inf),
    )
    places = ((3.7, 0.0, 0.7), (0.9, 1.1, 1.2), (0.9, -1.1, 1.2))
    sides = (
        Lidar(
            np.radians(np.linspace(-16.0, 15.0, 32)),
            np.zeros(32),
            columns=2000,
            min_range_m=0.5,
            max_range_m=60.0,
            range_sigma_m=0.01,
            threshold=_seen_at(80.0),
            mount_m=place,
            first_ring=128 + 32 * i,
            intensity_of=(130.0, 0.65, math.inf),
        )
        for i, place in enumerate(places)
    )
    return Rig((roof, *sides), Carrier(tall_saloon(), reported=False), ARTERIAL)


def _seen_at(range_m: float, reflectivity: float = 0.1) -> float:
    """`Lidar.threshold` of a unit that sees every other beam that meets such a wall there, as data sheets state it."""
    return reflectivity / range_m**2


SENSORS: dict[str, Callable[[int], Rig]] = {
    DEFAULT_SENSOR: _spinning,
    "kitti": _kitti,
    "kitti_full": _kitti_full,
    "nuscenes": _nuscenes,
    "long_range": _long_range,
}
"""Name -> rig for a number of beams, which the first alone takes."""


def sensor_rig(name: str, beams: int) -> Rig:
    """The vehicle that a sensor's name stands for."""
    return SENSORS[name](beams)
