"""What the generator's units measure at targets, beside what their makers state.

    python -m benchmarks.sensor_facts

Every beam of a unit meets a wall that faces it, or pavement below it; counted is what `measure` makes of that.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from base.command import add_log_level, run_command, run_main
from base.tables import markdown_table

__all__ = ["UnitFacts", "main", "unit_facts"]


@dataclass(frozen=True)
class UnitFacts:
    """A unit in numbers that data sheets have too.

    Attributes:
        beams: rings that report anything.
        lowest_deg, highest_deg: elevations of the outermost.
        points_per_s: with a wall all around.
        precision_m: standard deviation of a beam's range.
        tenth_m: distance at which half of the beams that meet a wall of 10 % are reported; infinite where none is.
        pavement_m: the same for a tenth that lies flat, below the unit.
        farthest_m: farthest return of a bright wall.
    """

    beams: int
    lowest_deg: float
    highest_deg: float
    points_per_s: float
    precision_m: float
    tenth_m: float
    pavement_m: float
    farthest_m: float


_PUBLISHED: dict[str, tuple[tuple[str, int, tuple[Any, ...]], ...]] = {
    "kitti_full": (
        ("HDL-64E, upper block", 1, (32, -8.33, 2.0, 0.67e6, 0.02, math.nan, 50.0, 120.0)),
        ("HDL-64E, lower block", 0, (32, -24.8, -8.83, 0.67e6, 0.02, math.nan, 50.0, 120.0)),
    ),
    "nuscenes": (("HDL-32E", 0, (32, -30.67, 10.67, 0.695e6, 0.02, math.nan, math.nan, 100.0)),),
    "long_range": (
        ("VLS-128, on the roof", 0, (128, -25.0, 15.0, 2.4e6, 0.03, 220.0, math.nan, 245.0)),
        ("XT32, low around the vehicle", 1, (32, -16.0, 15.0, 0.64e6, 0.01, 80.0, math.nan, 120.0)),
    ),
}
"""By rig: a unit's name, its place in the rig, and what its manual or data sheet says, in the order of `UnitFacts`; NaN
where it says nothing. Points a second of KITTI's unit are halved, half of its beams being in each block."""

_ROWS = (
    ("beams", "beams", "{:.0f}"),
    ("lowest_deg", "lowest beam, °", "{:.1f}"),
    ("highest_deg", "highest beam, °", "{:.1f}"),
    ("points_per_s", "points a second, at most", "{:,.0f}"),
    ("precision_m", "σ of a range, m", "{:.3f}"),
    ("tenth_m", "half of the beams at a wall of 10 %, m", "{:.0f}"),
    ("pavement_m", "half of the beams at pavement of 10 %, m", "{:.0f}"),
    ("farthest_m", "farthest return, m", "{:.0f}"),
)


def unit_facts(lidar: Any) -> UnitFacts:
    """Measure walls and pavement with a `datasets.synthetic.lidar.Lidar`; the same every time."""
    from datasets.synthetic.lidar import Returns, measure
    from datasets.synthetic.scene import make_scene

    rng, scene = np.random.default_rng(0), make_scene(np.random.SeedSequence(0), 0.1)
    rays = lidar.directions()

    def seen(depth_m: float, reflectivity: float, cosine: float) -> Any:
        shape = rays.shape[:2]
        flat = {"depth": depth_m, "cosine": cosine, "reflectivity": reflectivity, "gaps": 0.0}
        returns = Returns(
            hit=np.zeros(shape, np.int64),
            directions=rays,
            origin=np.array(lidar.mount_m),
            **{name: np.full(shape, value) for name, value in flat.items()},
        )
        return measure(lidar, scene, returns, rng).astype(np.float64)

    near = seen(max(lidar.min_range_m + 0.5, 10.0), 1.0, 1.0)
    away = near[:, :3] - lidar.mount_m
    ring = near[:, 4].astype(int) - lidar.first_ring
    ranges = np.linalg.norm(away, axis=1)
    elevation = np.degrees(np.arcsin(away[:, 2] / ranges))
    height = lidar.mount_m[2]
    bright = seen(lidar.max_range_m - 0.5, 3.0, 1.0)
    return UnitFacts(
        beams=len(np.unique(ring)),
        lowest_deg=float(elevation.min()),
        highest_deg=float(elevation.max()),
        points_per_s=len(near) / lidar.period_s,
        precision_m=float(np.mean([ranges[ring == beam].std() for beam in np.unique(ring)])),
        tenth_m=_half(lambda depth: len(seen(depth, 0.1, 1.0)) / len(near), lidar.max_range_m),
        pavement_m=_half(lambda depth: len(seen(depth, 0.1, height / depth)) / len(near), lidar.max_range_m),
        farthest_m=float(np.linalg.norm(bright[:, :3] - lidar.mount_m, axis=1).max()) if len(bright) else math.nan,
    )


def _half(share: Callable[[float], float], most_m: float) -> float:
    """Distance at which `share` falls to a half, by bisection; infinite where it does not up to `most_m`."""
    near, far = 3.0, most_m - 1.0
    if share(far) > 0.5:
        return math.inf
    while far - near > 0.25:
        middle = (near + far) / 2
        near, far = (middle, far) if share(middle) > 0.5 else (near, middle)
    return (near + far) / 2


def table() -> str:
    """All units, stated and measured."""
    from datasets.synthetic.sensors import sensor_rig

    head, columns = [""], []
    for rig, units in _PUBLISHED.items():
        for name, place, stated in units:
            head.append(f"{name} (`{rig}`)")
            columns.append((stated, unit_facts(sensor_rig(rig, 128).units[place])))
    body = []
    for index, (field, title, form) in enumerate(_ROWS):
        pairs = [(stated[index], getattr(facts, field)) for stated, facts in columns]
        body.append([title, *(" / ".join(_shown(value, form) for value in pair) for pair in pairs)])
    return "Stated / measured.\n\n" + "\n".join(markdown_table(head, body)) + "\n"


def _shown(value: float, form: str) -> str:
    if math.isnan(value):
        return "–"
    return form.format(value) if math.isfinite(value) else "beyond"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 0 when done."""
    parser = argparse.ArgumentParser(prog="sensor_facts", description=__doc__.split("\n\n")[0])
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: print(table()), args.log_level)  # noqa: T201


if __name__ == "__main__":
    run_main(main)
