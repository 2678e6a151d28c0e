"""Sensors by name: what scans of well-known datasets are made with, and a vehicle with several units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets.synthetic.lidar import Lidar

__all__ = ["DEFAULT_SENSOR", "SENSORS", "sensor_units"]

DEFAULT_SENSOR = "spinning"


def _spinning(beams: int) -> tuple[Lidar, ...]:
    from datasets.synthetic.lidar import Lidar

    return (Lidar.with_beams(beams),)


def _kitti(_beams: int) -> tuple[Lidar, ...]:
    """KITTI's HDL-64E (its manual; Geiger et al., 2013): 32 beams 1/3° apart from +2°, 32 more 1/2° apart to -24.3°.

    The frame is the LiDAR's, 1.73 m above the ground, and only what the camera sees is kept, ±42°.
    """
    import numpy as np

    from datasets.synthetic.lidar import Lidar

    elevations = np.concatenate([np.linspace(-24.33, -8.83, 32), np.linspace(-8.33, 2.0, 32)])
    offsets = np.radians(np.array([-0.5, 0.25, -0.25, 0.5]))[np.arange(64) % 4]
    return (
        Lidar(
            np.radians(elevations),
            offsets,
            columns=2083,
            max_range_m=80.0,
            range_step_m=0.002,
            dropout=0.03,
            mount_m=(0.0, 0.0, 1.73),
            half_view_rad=math.radians(42.0),
            # Calibrated reflectances: bright, and nearly the same at all distances and angles.
            intensity_of=(228.0, 0.4, 400.0),
            dark=0.12,
        ),
    )


def _nuscenes(_beams: int) -> tuple[Lidar, ...]:
    """nuScenes' HDL-32E (Caesar et al., 2020): 32 beams from -30.67° to +10.67°, 20 revolutions a second.

    The frame is the LiDAR's, 1.84 m above the ground, with x ahead.
    """
    import numpy as np

    from datasets.synthetic.lidar import Lidar

    return (
        Lidar(
            np.radians(np.linspace(-30.67, 10.67, 32)),
            np.zeros(32),
            columns=1084,
            max_range_m=100.0,
            range_step_m=0.002,
            dropout=0.02,
            mount_m=(0.0, 0.0, 1.84),
            period_s=0.05,
            intensity_of=(205.0, 1.0, 150.0),
        ),
    )


def _long_range(_beams: int) -> tuple[Lidar, ...]:
    """Four units of one vehicle: 128 beams on the roof that reach 200 m, and 32 each in front and on both sides."""
    import numpy as np

    from datasets.synthetic.lidar import Lidar, beam_elevations

    offsets = np.radians(np.array([-0.45, 0.31, -0.16, 0.52]))
    roof = Lidar(np.radians(beam_elevations(128)), offsets[np.arange(128) % 4], max_range_m=200.0, threshold=6e-7)
    low = np.radians(np.linspace(-24.0, 8.0, 32))
    places = ((3.7, 0.0, 0.7), (0.9, 1.1, 1.2), (0.9, -1.1, 1.2))
    sides = (
        Lidar(low, offsets[np.arange(32) % 4], columns=900, max_range_m=60.0, mount_m=place, first_ring=128 + 32 * i)
        for i, place in enumerate(places)
    )
    return (roof, *sides)


SENSORS: dict[str, Callable[[int], tuple[Lidar, ...]]] = {
    DEFAULT_SENSOR: _spinning,
    "kitti": _kitti,
    "nuscenes": _nuscenes,
    "long_range": _long_range,
}
"""Name -> units for a number of beams, which the first alone takes."""


def sensor_units(name: str, beams: int) -> tuple[Lidar, ...]:
    """The units of a sensor; they turn together."""
    return SENSORS[name](beams)
