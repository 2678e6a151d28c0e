"""Poses and boxes as files hold them: numbers with bounds that only a slip of units or a broken file crosses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from base.parsing import FromList

__all__ = [
    "Angle",
    "Box",
    "Coordinate",
    "Microseconds",
    "Pose",
    "Position",
    "Rotation",
    "Seconds",
    "Size",
    "Sizes",
    "Speed",
    "Velocity2",
    "Velocity3",
    "first_not_rigid",
    "rotation_matrix",
    "transform",
]

Array = NDArray[np.float64]
# Rotations of files are rotations but for rounding.
_TOLERANCE = 1e-2

_YEAR_2100_S = 4_102_444_800
_FINER = (("milliseconds", 3), ("microseconds", 6), ("nanoseconds", 9))
N = TypeVar("N", int, float)


def _before_2100(value: N, unit: str, digits: int) -> N:
    """`digits`: of the unit after the second's."""
    if value <= _YEAR_2100_S * 10**digits:
        return value
    finer = [(name, n - digits) for name, n in _FINER if n > digits and value <= _YEAR_2100_S * 10**n]
    looks = f", and looks like {finer[0][0]}: divide it by 1e{finer[0][1]}" if finer else ""
    raise ValueError(f"must be at most {_YEAR_2100_S * 10**digits} ({unit} since 1970, up to the year 2100){looks}")


Coordinate = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
"""Metres. Farther than the Moon nothing drives, and squares in single precision end at 1e19."""
Size = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
"""Metres, above 0."""
Angle = Annotated[float, Field(ge=-1e3, le=1e3, allow_inf_nan=False)]
"""Radians: degrees of a compass pass, garbage does not."""
Microseconds = Annotated[int, Field(ge=0), AfterValidator(partial(_before_2100, unit="microseconds", digits=6))]
"""Since 1970, up to the year 2100: nanoseconds do not pass."""
Seconds = Annotated[
    float, Field(ge=0, allow_inf_nan=False), AfterValidator(partial(_before_2100, unit="seconds", digits=0))
]
"""Since 1970, up to the year 2100: microseconds do not pass."""


def _speed(value: float) -> float:
    if not (math.isnan(value) or abs(value) <= 1e4):
        raise ValueError("must be a speed in m/s, or NaN where it is not known")
    return value


def _unit(quaternion: tuple[float, ...]) -> tuple[float, ...]:
    if not abs(math.hypot(*quaternion) - 1.0) < _TOLERANCE:
        raise ValueError("must be a unit quaternion (w, x, y, z)")
    return quaternion


Speed = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_speed)]
"""m/s; NaN where nothing is known."""
Position = Annotated[tuple[Coordinate, Coordinate, Coordinate], FromList()]
"""x, y, z in metres."""
Velocity3 = Annotated[tuple[Speed, Speed, Speed], FromList()]
"""Along x, y, z in m/s; NaN where nothing is known."""
Velocity2 = Annotated[tuple[Speed, Speed], FromList()]
"""Along x and y in m/s; NaN where nothing is known."""
Sizes = Annotated[tuple[Size, Size, Size], FromList()]
"""Three sizes in metres, each above 0."""
Rotation = Annotated[tuple[Coordinate, Coordinate, Coordinate, Coordinate], FromList(), AfterValidator(_unit)]
"""A unit quaternion (w, x, y, z)."""
Box = Annotated[tuple[Coordinate, Coordinate, Coordinate, Size, Size, Size, Angle], FromList()]
"""x, y, z of the centre, length, width, height (metres), yaw (radians)."""
_Row = Annotated[tuple[Coordinate, Coordinate, Coordinate, Coordinate], FromList()]
Pose = Annotated[tuple[_Row, _Row, _Row, _Row], FromList()]
"""A 4 x 4 matrix of finite numbers, by rows."""


def first_not_rigid(poses: Sequence[Any]) -> int | None:
    """The first of several `Pose` that is no rotation and translation; None where all are."""
    if not poses:
        return None
    matrices = np.array(poses, dtype=float)
    turn = matrices[:, :3, :3]
    off = np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    last = np.abs(matrices[:, 3] - [0, 0, 0, 1]).max(axis=1)
    wrong = np.flatnonzero((off > _TOLERANCE) | (last > _TOLERANCE))
    return int(wrong[0]) if len(wrong) else None


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
