"""Whether annotated boxes can be the objects around a vehicle: their sizes, sides, angles, places, and points in them.

Shapes agree whatever these numbers mean; only what objects are like can tell centimetres, degrees, an exchanged length
and width, or boxes of another frame than the points.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from base.checks import Finding
from base.messages import printable
from datasets.box_points import in_box
from models.known_checks import KNOWN_CHECKS

__all__ = ["BoxPoints", "BoxWatch"]

# Objects below which nothing is judged, and those of a class that are looked at.
_FEW: Final = 10
_MOST: Final = 2_000
# Largest side of an object, metres: a child's head to a road train. Outside, the unit is another.
_SMALLEST_M, _LARGEST_M = 0.05, 60.0
_UNITS = (("millimetres", 1e-3), ("centimetres", 1e-2), ("kilometres", 1e3))
# What drives is longer than wide; barriers and pedestrians need not be.
_DRIVES = re.compile(r"\b(car|van|truck|bus|trailer|bicycle|motorcycle|bike|motorbike)\b", re.IGNORECASE)
_WIDER = 1.2
# Half of all angles are beyond a quarter turn; of a heading that is counted on over many turns, hardly any is so large.
_MANY_TURNS = 12.0
# No sensor sees objects so far away.
_AWAY_M = 1000.0
# Points that an object should have before it is looked for in the cloud, and the share of objects that has some there.
_SURE_POINTS, _FOUND_SHARE = 5, 0.2
_MARGIN_M = 0.2
# So far away an object of which nobody counted the points should have some.
_NEAR_M = 30.0


class BoxWatch:
    """Collects the boxes of a dataset, and says what speaks against them."""

    def __init__(self) -> None:
        self._sides: dict[str, list[tuple[float, float, float]]] = {}
        self._turns: list[float] = []
        self._seen_m: list[float] = []

    def add(self, name: str, box: Sequence[float], points: int) -> None:
        """Shows an object.

        Args:
            name: Its category.
            box: x, y, z, length, width, height (metres), yaw (radians).
            points: LiDAR points that it is said to have.
        """
        sides = self._sides.setdefault(name, [])
        if len(sides) < _MOST:
            sides.append((float(box[3]), float(box[4]), float(box[5])))
        if len(self._turns) < _MOST:
            self._turns.append(abs(float(box[6])))
        if points and len(self._seen_m) < _MOST:
            self._seen_m.append(math.hypot(box[0], box[1]))

    def findings(self, place: str) -> Iterator[Finding]:
        """What speaks against the boxes that were shown.

        Args:
            place: Where they stand, for messages.
        """
        yield from self._sizes(place)
        if len(self._turns) >= _FEW and (turn := float(np.median(self._turns))) > _MANY_TURNS:
            value = f"half of {len(self._turns)} yaws are larger than {turn:.0f}, so that they look like degrees"
            yield Finding(KNOWN_CHECKS["box-yaw"], place, value, remedy="Give radians: np.radians(yaw).")
        if len(self._seen_m) >= _FEW and (away := float(np.median(self._seen_m))) > _AWAY_M:
            value = f"half of {len(self._seen_m)} objects with LiDAR points are farther away than {away:.0f} m"
            remedy = "They are in a map's frame, or the vehicle's pose is another's: boxes must be around the vehicle."
            yield Finding(KNOWN_CHECKS["box-places"], place, value, remedy=remedy)

    def _sizes(self, place: str) -> Iterator[Finding]:
        driving: list[float] = []
        for name, sides in self._sides.items():
            if len(sides) < _FEW:
                continue
            values = np.asarray(sides)
            middle = float(np.median(values.max(axis=1)))
            if not _SMALLEST_M <= middle <= _LARGEST_M:
                fits = [unit for unit, factor in _UNITS if 0.2 <= middle * factor <= 20]
                looks = f", so that it looks like {fits[-1]}" if fits else ""
                value = f"the longest side of half of {len(sides)} objects of {printable(name)} is {middle:.3g}{looks}"
                yield Finding(
                    KNOWN_CHECKS["box-sizes"], place, value, remedy="Give length, width and height in metres."
                )
                return
            if _DRIVES.search(name):
                driving += (values[:, 1] / np.maximum(values[:, 0], 1e-6)).tolist()
        if len(driving) >= _FEW and (ratio := float(np.median(driving))) > _WIDER:
            value = f"half of {len(driving)} vehicles are more than {ratio:.1f} times as wide as long"
            remedy = (
                "Length and width are exchanged, as in files of mmdet3d before 1.0 and where T4's size (width, length, "
                "height) was written as length, width, height. Write length along the heading, then width."
            )
            yield Finding(KNOWN_CHECKS["box-sides"], place, value, remedy=remedy)


@dataclass
class BoxPoints:
    """Counts, over some clouds, the objects that should have points and those that have some.

    Attributes:
        expected: Objects that are said to have several points, or that are near.
        found: Of these, objects with a point in their box, which is taken a little larger.
    """

    expected: int = 0
    found: int = 0

    def add(self, points: NDArray[np.float32], boxes: NDArray[np.float64], counts: Sequence[int]) -> None:
        """Shows a cloud and its objects.

        Args:
            points: (N, 3 or more) x, y, z first, metres.
            boxes: (M, 7) centre, length, width, height, yaw, of the same frame.
            counts: LiDAR points that each is said to have.
        """
        for box, count in zip(boxes, counts, strict=True):
            if count < _SURE_POINTS:
                continue
            self.expected += 1
            self.found += bool(in_box(points, box, _MARGIN_M).any())

    def add_near(self, points: NDArray[np.float32], boxes: NDArray[np.float64]) -> None:
        """Shows a cloud and its objects, of which nobody said how many points they have: near ones should have some.

        Args:
            points, boxes: As of `add`.
        """
        for box in boxes[np.hypot(boxes[:, 0], boxes[:, 1]) < _NEAR_M]:
            self.expected += 1
            self.found += bool(in_box(points, box, _MARGIN_M).any())

    def findings(self, place: str, check: str = "box-points") -> Iterator[Finding]:
        """That boxes and points are not of one frame.

        Args:
            place: The dataset, for messages.
            check: As what it is told.
        """
        if self.expected >= _FEW and self.found < _FOUND_SHARE * self.expected:
            value = (
                f"{self.expected} objects of the clouds that were looked at should have LiDAR points: they are said to "
                f"have {_SURE_POINTS} or more (num_lidar_pts), or are within {_NEAR_M:g} m; {self.found} of them have "
                "one in their box"
            )
            remedy = (
                "Boxes and points are not in one frame: compare ego poses, the sensor's calibration, the order of "
                "quaternions (w, x, y, z), and whether the files are those of these frames."
            )
            yield Finding(KNOWN_CHECKS[check], place, value, remedy=remedy)
