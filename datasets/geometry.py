"""Poses and boxes as files hold them: numbers with bounds that only a slip of units or a broken file crosses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, Strict

__all__ = [
    "Box",
    "Coordinate",
    "Microseconds",
    "Pose",
    "Position",
    "RigidPose",
    "Rotation",
    "Seconds",
    "Size",
    "Sizes",
    "Velocity2",
    "Velocity3",
    "rotation_matrix",
    "transform",
]

Array = NDArray[np.float64]
# Rotations of files are rotations but for rounding.
_TOLERANCE = 1e-2

Coordinate = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
"""Metres. Farther than the Moon nothing drives, and squares in single precision end at 1e19."""
Size = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
"""Metres, above 0."""
Angle = Annotated[float, Field(ge=-1e3, le=1e3, allow_inf_nan=False)]
"""Radians: degrees of a compass pass, garbage does not."""
Microseconds = Annotated[int, Field(ge=0, le=4_102_444_800_000_000)]
"""Since 1970, up to the year 2100: nanoseconds do not pass."""
Seconds = Annotated[float, Field(ge=0, le=4_102_444_800, allow_inf_nan=False)]
"""Since 1970, up to the year 2100: microseconds do not pass."""


def _speed(value: float) -> float:
    if not (math.isnan(value) or abs(value) <= 1e4):
        raise ValueError("must be a speed in m/s, or NaN where it is not known")
    return value


def _unit(quaternion: tuple[float, ...]) -> tuple[float, ...]:
    if not abs(math.hypot(*quaternion) - 1.0) < _TOLERANCE:
        raise ValueError("must be a unit quaternion (w, x, y, z)")
    return quaternion


def _affine(rows: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    if any(abs(value - wanted) > 1e-6 for value, wanted in zip(rows[3], (0, 0, 0, 1), strict=True)):
        raise ValueError("must end with the row 0, 0, 0, 1")
    return rows


def _rigid(rows: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    turn = [row[:3] for row in rows[:3]]
    products = [sum(a * b for a, b in zip(turn[i], turn[j], strict=True)) for i in range(3) for j in range(i + 1)]
    if any(abs(product - wanted) > _TOLERANCE for product, wanted in zip(products, (1, 0, 1, 0, 0, 1), strict=True)):
        raise ValueError("must be a rotation and a translation")
    return rows


Speed = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_speed)]
"""m/s; NaN where nothing is known."""
Position = Annotated[tuple[Coordinate, Coordinate, Coordinate], Strict(False)]
"""x, y, z in metres."""
Velocity3 = Annotated[tuple[Speed, Speed, Speed], Strict(False)]
"""Along x, y, z in m/s; NaN where nothing is known."""
Velocity2 = Annotated[tuple[Speed, Speed], Strict(False)]
"""Along x and y in m/s; NaN where nothing is known."""
Sizes = Annotated[tuple[Size, Size, Size], Strict(False)]
"""Three sizes in metres, each above 0."""
Rotation = Annotated[tuple[Coordinate, Coordinate, Coordinate, Coordinate], Strict(False), AfterValidator(_unit)]
"""A unit quaternion (w, x, y, z)."""
Box = Annotated[tuple[Coordinate, Coordinate, Coordinate, Size, Size, Size, Angle], Strict(False)]
"""x, y, z of the centre, length, width, height (metres), yaw (radians)."""
_Row = Annotated[tuple[Coordinate, Coordinate, Coordinate, Coordinate], Strict(False)]
Pose = Annotated[tuple[_Row, _Row, _Row, _Row], Strict(False), AfterValidator(_affine)]
"""A 4 x 4 matrix of finite numbers."""
RigidPose = Annotated[Pose, AfterValidator(_rigid)]
"""A 4 x 4 matrix of a rotation and a translation."""


def transform(rotation: Sequence[float], translation: Sequence[float]) -> Array:
    """(4, 4) of a unit quaternion (w, x, y, z) and a translation (metres)."""
    out = np.eye(4)
    out[:3, :3] = rotation_matrix(rotation)
    out[:3, 3] = translation
    return out


def rotation_matrix(quaternion: Sequence[float]) -> Array:
    """Rotation matrix (3, 3) of a quaternion (w, x, y, z) other than 0, whose length is brought to 1."""
    q = np.array(quaternion, dtype=float)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
