"""The checks of annotated boxes; `models.known_checks` holds them with the others."""

from __future__ import annotations

from base.checks import Check

__all__ = ["ANNOTATION_CHECKS"]

_ROWS = (
    Check(
        "box-sizes",
        "The longest side of half of a category's objects is between 5 cm and 60 m: sizes are metres.",
        accepting="objects have such sizes",
    ),
    Check(
        "box-sides",
        "Half of what drives (categories with car, van, truck, bus, trailer, bicycle, motorcycle in their name) is at "
        "most 1.2 times as wide as long: the length is along the heading.",
        accepting="objects have such sides",
    ),
    Check(
        "box-yaw",
        "Half of the yaws are at most 12: they are radians.",
        accepting="yaws are radians, over several turns",
    ),
    Check(
        "box-places",
        "Half of the objects with LiDAR points are at most 1 km away: boxes are around the vehicle, not in a map.",
        accepting="the sensor sees so far",
    ),
    Check(
        "box-points",
        "In clouds that are looked at where an info file is made, one in five objects that are said to have LiDAR "
        "points, or that are near, has one in its box: boxes and points are of one frame.",
        accepting="boxes and points are of one frame all the same",
    ),
    Check(
        "frame-box-points",
        "In the first frames that are read for evaluation, verification or calibration, one in five objects that are "
        "said to have LiDAR points has one in its box.",
        "warning",
    ),
)

ANNOTATION_CHECKS = {check.id: check for check in _ROWS}
