"""A folder of point files with a JSON of boxes: what a person with a sensor of their own writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from base.documents import read_json
from base.errors import DataError
from base.messages import shown_file
from base.parsing import Count, NonEmptyStr, Record, RelativePath, Rows, Text, misfit
from datasets.geometry import (
    Angle,
    Coordinate,
    Pose,
    Position,
    Rotation,
    Seconds,
    Size,
    Speed,
    first_not_rigid,
    transform,
)

__all__ = ["OwnBox", "OwnFrame", "find_own_frames", "read_own_frames"]

_MAX_LABEL_BYTES = 1 << 28
_SUFFIXES = (".bin", ".pcd")


class OwnBox(Record):
    """An object, in the frame of the points: metres, radians, m/s; x, y, z of the centre."""

    label: NonEmptyStr
    x: Coordinate
    y: Coordinate
    z: Coordinate
    l: Size  # noqa: E741 - as in files of eval.score
    w: Size
    h: Size
    yaw: Angle
    vx: Speed | None = None
    vy: Speed | None = None
    num_points: Count | None = None

    @property
    def box(self) -> list[float]:
        """x, y, z, length, width, height, yaw."""
        return [self.x, self.y, self.z, self.l, self.w, self.h, self.yaw]


class OwnPose(Record):
    """Where the vehicle is in a map: metres, and a unit quaternion (w, x, y, z)."""

    translation: Position
    rotation: Rotation


class OwnFrame(Record):
    """A point file, and what is known of it."""

    file: Annotated[RelativePath, Field(max_length=4096)]
    token: NonEmptyStr | None = None
    scene: Text | None = None
    timestamp: Seconds | None = None
    ego2global: Pose | OwnPose | None = None
    boxes: Rows[OwnBox] | None = None

    @property
    def name(self) -> str:
        """Its token; else its file, without the ending."""
        return self.token or self.file.rsplit(".", 1)[0]

    @property
    def pose(self) -> NDArray[np.float64] | None:
        """(4, 4) vehicle to map."""
        if isinstance(self.ego2global, OwnPose):
            return transform(self.ego2global.rotation, self.ego2global.translation)
        return None if self.ego2global is None else np.asarray(self.ego2global, float)


class _Labels(Record):
    classes: Annotated[Rows[NonEmptyStr], Field(min_length=1)] | None = None
    frames: Annotated[Rows[OwnFrame], Field(min_length=1)]


# Of each: all frames have it, or none.
_ALL_OR_NONE = {
    "boxes": "Write [] where there is nothing to find",
    "timestamp": "Give each frame its time, or none",
    "ego2global": "Give each frame its pose, or none",
}


def read_own_frames(path: Path) -> tuple[tuple[str, ...], list[OwnFrame]]:
    """The classes that a JSON lists (none where it lists none), and its frames.

    Raises:
        DataError: the file is no such JSON; a file or token is there twice; some frames alone have boxes, times or
            poses; a pose is none.
    """
    labels = read_json(path, _Labels, limit=_MAX_LABEL_BYTES)
    frames: Sequence[OwnFrame] = labels.frames
    for key, advice in _ALL_OR_NONE.items():
        have = [getattr(frame, key) is not None for frame in frames]
        if any(have) and not all(have):
            raise DataError(
                f"{shown_file(path)}: frames[{have.index(False)}] lacks '{key}', which frames[{have.index(True)}] has. "
                f"{advice}."
            )
    files: dict[str, int] = {}
    tokens: dict[str, int] = {}
    for index, frame in enumerate(frames):
        for known, key, value in ((files, "file", frame.file), (tokens, "token", frame.name)):
            if (other := known.setdefault(value, index)) != index:
                raise misfit(path, ["frames", index, key], value, f"must not be that of frames[{other}] too")
        pose = frame.pose
        if pose is not None and first_not_rigid([pose.tolist()]) is not None:
            must = "must be a rotation and a translation"
            raise misfit(path, ["frames", index, "ego2global"], frame.ego2global, must)
    return tuple(labels.classes or ()), list(frames)


def find_own_frames(root: Path) -> list[OwnFrame]:
    """A frame for each `.bin` and `.pcd` file at any depth, without boxes, in order of their paths.

    Raises:
        DataError: there is none.
    """
    found = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
    if not found:
        raise DataError(f"{shown_file(root)} holds no .bin and no .pcd file. Give the folder of the scans with --root.")
    return [OwnFrame(file=name) for name in found]
