"""A raw T4 dataset as its tables have it: nuScenes-like JSON, checked record by record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from base.files import read_json

__all__ = ["LIDAR_CHANNELS", "T4Tables", "rotation_matrix", "transform"]

LIDAR_CHANNELS = ("LIDAR_TOP", "LIDAR_CONCAT")
_TABLES: dict[str, tuple[str, ...]] = {
    "sample": ("token", "timestamp", "scene_token"),
    "sample_data": (
        "token",
        "sample_token",
        "ego_pose_token",
        "calibrated_sensor_token",
        "filename",
        "timestamp",
        "prev",
    ),
    "calibrated_sensor": ("token", "sensor_token", "translation", "rotation"),
    "sensor": ("token", "channel"),
    "ego_pose": ("token", "translation", "rotation"),
    "scene": ("token", "name"),
    "sample_annotation": (
        "token",
        "sample_token",
        "instance_token",
        "attribute_tokens",
        "translation",
        "size",
        "rotation",
        "num_lidar_pts",
        "prev",
        "next",
    ),
    "instance": ("token", "category_token"),
    "category": ("token", "name"),
    "attribute": ("token", "name"),
}
# Further apart than this, two positions say nothing about the velocity between them.
_MAX_GAP_S = 1.5
# Quaternions in tables have unit length but for rounding.
_UNIT_TOLERANCE = 1e-2

Array = NDArray[np.float64]
Record = dict[str, Any]


@dataclass(frozen=True)
class T4Tables:
    """One dataset (a folder with `annotation/` and `data/`).

    Attributes:
        folder: That folder.
        tables: Table -> token -> record, in the order of the file.
    """

    folder: Path
    tables: dict[str, dict[str, Record]]
    _annotations: dict[str, list[Record]] = field(default_factory=dict)
    _key_data: dict[str, Record] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> T4Tables:
        """Reads `folder/annotation/*.json`.

        Raises:
            DataError: a table is missing or no list, or a record lacks a field; no LiDAR among the sensors.
        """
        tables = {name: _table(folder / "annotation" / f"{name}.json", fields) for name, fields in _TABLES.items()}
        log = folder / "annotation" / "log.json"
        tables["log"] = _table(log, ("token",)) if log.is_file() else {}
        dataset = cls(folder, tables)
        for record in tables["sample_annotation"].values():
            dataset._annotations.setdefault(record["sample_token"], []).append(record)
        sensor = dataset._lidar()
        for record in tables["sample_data"].values():
            calibrated = dataset.get("calibrated_sensor", record["calibrated_sensor_token"], record)
            if calibrated["sensor_token"] == sensor["token"] and record.get("is_key_frame", True):
                dataset._key_data[record["sample_token"]] = record
        return dataset

    def get(self, table: str, token: str, source: Record) -> Record:
        """The record that `source` refers to.

        Raises:
            DataError: there is none.
        """
        try:
            return self.tables[table][token]
        except KeyError as error:
            raise DataError(
                f"'{self.folder}': record '{source['token']}' refers to '{token}', which table '{table}' has not. "
                "The dataset is incomplete; fetch it again."
            ) from error

    def samples(self) -> list[Record]:
        """Key frames, in order of time."""
        return sorted(self.tables["sample"].values(), key=lambda record: int(record["timestamp"]))

    def annotations(self, sample: Record) -> list[Record]:
        """Annotated objects of a key frame, in the table's order."""
        return self._annotations.get(sample["token"], [])

    def lidar(self, sample: Record) -> Record:
        """LiDAR data of a key frame.

        Raises:
            DataError: it has none.
        """
        if sample["token"] not in self._key_data:
            raise DataError(f"'{self.folder}': sample '{sample['token']}' has no LiDAR key frame in sample_data.json.")
        return self._key_data[sample["token"]]

    def earlier(self, data: Record) -> Iterator[Record]:
        """LiDAR data before `data`, latest first."""
        seen = {data["token"]}
        while data["prev"]:
            data = self.get("sample_data", data["prev"], data)
            if data["token"] in seen:
                raise DataError(f"'{self.folder}': sample_data '{data['token']}' is its own predecessor.")
            seen.add(data["token"])
            yield data

    def ego_pose(self, data: Record) -> Array:
        """Ego to map, (4, 4)."""
        return transform(self.get("ego_pose", data["ego_pose_token"], data), str(self.folder))

    def lidar_to_ego(self, data: Record) -> Array:
        """LiDAR to ego, (4, 4): the identity for LIDAR_CONCAT."""
        return transform(self.get("calibrated_sensor", data["calibrated_sensor_token"], data), str(self.folder))

    def point_file(self, data: Record) -> Path:
        """The point file, which exists and lies in the dataset's folder.

        Raises:
            DataError: it does not.
        """
        relative = Path(str(data["filename"]))
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"'{self.folder}': sample_data '{data['token']}' names '{relative}', outside its dataset.")
        path = self.folder / relative
        if not path.is_file():
            raise DataError(f"Point file '{path}' of sample_data '{data['token']}' does not exist.")
        return path

    def velocity(self, annotation: Record) -> Array:
        """Velocity in the map frame, (3,) m/s.

        The table's own where it has one; else from the neighbouring annotations of the same object, central where there
        are two; NaN where there is none, or they are more than 1.5 s apart (3 s with one on both sides).
        """
        own = annotation.get("velocity")
        if own is not None:
            return np.array(own, dtype=float)
        first = self.get("sample_annotation", annotation["prev"], annotation) if annotation["prev"] else annotation
        last = self.get("sample_annotation", annotation["next"], annotation) if annotation["next"] else annotation
        sides = (first is not annotation) + (last is not annotation)
        times = [int(self.get("sample", item["sample_token"], item)["timestamp"]) / 1e6 for item in (first, last)]
        gap = times[1] - times[0]
        if sides == 0 or not 0 < gap <= _MAX_GAP_S * sides:
            return np.full(3, np.nan)
        velocity: Array = (np.array(last["translation"]) - np.array(first["translation"])) / gap
        return velocity

    def category(self, annotation: Record) -> str:
        """Name of an object's category."""
        instance = self.get("instance", annotation["instance_token"], annotation)
        return str(self.get("category", instance["category_token"], instance)["name"])

    def attributes(self, annotation: Record) -> list[str]:
        """Names of an object's attributes."""
        return [str(self.get("attribute", token, annotation)["name"]) for token in annotation["attribute_tokens"]]

    def _lidar(self) -> Record:
        by_channel = {record["channel"]: record for record in self.tables["sensor"].values()}
        for channel in LIDAR_CHANNELS:
            if channel in by_channel:
                return by_channel[channel]
        raise DataError(
            f"'{self.folder}' has no LiDAR channel {' or '.join(LIDAR_CHANNELS)}; its sensors are {sorted(by_channel)}."
        )


def transform(record: Record, where: str) -> Array:
    """(4, 4) of a record's `rotation` (w, x, y, z) and `translation` (metres)."""
    out = np.eye(4)
    out[:3, :3] = rotation_matrix(record["rotation"], f"{where}: record '{record['token']}'")
    out[:3, 3] = record["translation"]
    return out


def rotation_matrix(quaternion: Any, where: str) -> Array:
    """Rotation matrix (3, 3) of a unit quaternion (w, x, y, z).

    Raises:
        DataError: it is no unit quaternion.
    """
    q = np.array(quaternion, dtype=float)
    norm = float(np.linalg.norm(q)) if q.shape == (4,) else 0.0
    if not abs(norm - 1.0) < _UNIT_TOLERANCE:
        raise DataError(f"{where} has rotation {quaternion}, which is no unit quaternion (w, x, y, z).")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _table(path: Path, fields: tuple[str, ...]) -> dict[str, Record]:
    if not path.is_file():
        raise DataError(f"Table '{path}' does not exist: '{path.parents[1]}' is no whole T4 dataset.")
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"Table '{path}' holds a {type(rows).__name__}, not a list of records.")
    for index, row in enumerate(rows):
        missing = [name for name in fields if not isinstance(row, dict) or name not in row]
        if missing:
            raise DataError(f"Record {index} of table '{path}' lacks {missing}.")
    return {row["token"]: row for row in rows}
