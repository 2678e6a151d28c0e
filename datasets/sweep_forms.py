"""Sweeps of info files that say otherwise where their points lie: autoware-ml's, in the form that mmdet3d has.

autoware-ml's nuScenes files have `sweeps`, each with the rotation and translation into the key frame's sensor; its T4
files have mmdet3d's `lidar_sweeps`, of which it reads the poses of vehicle and sensor. mmdet3d reads `lidar2sensor`,
which is the transposed rotation beside the negative translation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from base.parsing import FromList, NonEmptyStr, Record, Text, Vector3, misfit, parse
from datasets.geometry import Pose, Seconds, first_not_rigid

__all__ = ["in_one_form"]

_REMEDY = "Write the info file again from its dataset."
_Matrix3 = Annotated[tuple[Vector3, Vector3, Vector3], FromList()]


class _Turned(Record, extra="ignore"):
    """One of `sweeps`."""

    lidar_path: NonEmptyStr
    timestamp: Seconds
    sensor2lidar_rotation: _Matrix3
    sensor2lidar_translation: Vector3
    sample_data_token: Text | None = None


class _Placed(Record, extra="ignore"):
    """A sensor on a vehicle at a place."""

    lidar2ego: Pose
    ego2global: Pose


def in_one_form(raw: Any, path: Path, index: int) -> Any:
    """A sample of an info file whose sweeps are `lidar_sweeps` with `lidar2sensor`; any other sample as it is.

    Args:
        raw: The sample.
        path: The info file, for messages.
        index: The sample's place in it.

    Raises:
        DataError: its sweeps are of one of the other forms, and a value in them is wrong.
    """
    if not isinstance(raw, Mapping):
        return raw
    at = ("data_list", index)
    if isinstance(raw.get("sweeps"), list) and "lidar_sweeps" not in raw:
        found = [_turned(sweep, path, (*at, "sweeps", number)) for number, sweep in enumerate(raw["sweeps"])]
        return {**raw, "lidar_sweeps": found}
    sweeps = raw.get("lidar_sweeps")
    if isinstance(sweeps, list) and any(_lacks_pose(sweep) for sweep in sweeps):
        found = [
            _posed(raw, sweep, path, at, number) if _lacks_pose(sweep) else sweep for number, sweep in enumerate(sweeps)
        ]
        return {**raw, "lidar_sweeps": found}
    return raw


def _lacks_pose(sweep: Any) -> bool:
    points = sweep.get("lidar_points") if isinstance(sweep, Mapping) else None
    return (
        isinstance(points, Mapping) and "lidar2sensor" not in points and "lidar2ego" in points and "ego2global" in sweep
    )


def _turned(raw: Any, path: Path, at: tuple[str | int, ...]) -> dict[str, Any]:
    sweep = parse(_Turned, _plain(raw), file=path, at=at, remedy=_REMEDY)
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(sweep.sensor2lidar_rotation)
    matrix[:3, 3] = sweep.sensor2lidar_translation
    return {
        "timestamp": sweep.timestamp,
        "sample_data_token": sweep.sample_data_token,
        "lidar_points": {"lidar_path": sweep.lidar_path, "lidar2sensor": _as_mmdet3d(matrix)},
    }


def _posed(sample: Mapping[str, Any], sweep: Any, path: Path, at: tuple[str | int, ...], number: int) -> dict[str, Any]:
    points = sample.get("lidar_points")
    key = {"lidar2ego": points.get("lidar2ego") if isinstance(points, Mapping) else None}
    key["ego2global"] = sample.get("ego2global")
    own = {"lidar2ego": sweep["lidar_points"]["lidar2ego"], "ego2global": sweep["ego2global"]}
    here = _sensor2global(key, path, at)
    there = _sensor2global(own, path, (*at, "lidar_sweeps", number))
    matrix = np.linalg.inv(here) @ there
    return {**sweep, "lidar_points": {**sweep["lidar_points"], "lidar2sensor": _as_mmdet3d(matrix)}}


def _sensor2global(raw: Mapping[str, Any], path: Path, at: tuple[str | int, ...]) -> NDArray[np.float64]:
    """(4, 4) of a sensor on a vehicle at a place."""
    poses = parse(_Placed, _plain(raw), file=path, at=at, remedy=_REMEDY)
    for name in ("ego2global", "lidar2ego"):
        if first_not_rigid([getattr(poses, name)]) is not None:
            raise misfit(path, [*at, name], raw[name], "must be a rotation and a translation", remedy=_REMEDY)
    return np.asarray(poses.ego2global, np.float64) @ np.asarray(poses.lidar2ego, np.float64)


def _as_mmdet3d(matrix: NDArray[np.float64]) -> list[list[float]]:
    """`lidar2sensor` of the (4, 4) transform of a sweep's points into the key frame."""
    out = np.eye(4)
    out[:3, :3] = matrix[:3, :3].T
    out[:3, 3] = -matrix[:3, 3]
    return [[float(value) for value in row] for row in out]


def _plain(value: Any) -> Any:
    """Lists and numbers of Python in place of numpy's."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
