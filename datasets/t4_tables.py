"""A raw T4 dataset as its tables have it: nuScenes-like JSON, each row checked, each reference resolved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from base.checks import Finding, settle
from base.documents import read_json
from base.errors import DataError
from base.messages import shown, shown_file
from base.parsing import Rows, misfit
from datasets.geometry import transform
from datasets.point_forms import HEAD_BYTES, check_stated_form
from datasets.points import point_file
from datasets.t4_rows import (
    Annotation,
    Attribute,
    CalibratedSensor,
    Category,
    EgoPose,
    Instance,
    Log,
    Row,
    Sample,
    SampleData,
    Scene,
    Sensor,
)
from models.known_checks import KNOWN_CHECKS

__all__ = ["LIDAR_CHANNELS", "T4Tables"]

LIDAR_CHANNELS = ("LIDAR_TOP", "LIDAR_CONCAT")
_REFERENCES = {
    "sample": {"scene_token": "scene"},
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
        "prev": "sample_data",
    },
    "calibrated_sensor": {"sensor_token": "sensor"},
    "sample_annotation": {
        "sample_token": "sample",
        "instance_token": "instance",
        "attribute_tokens": "attribute",
        "prev": "sample_annotation",
        "next": "sample_annotation",
    },
    "instance": {"category_token": "category"},
    "scene": {"log_token": "log"},
}
_INCOMPLETE = "The dataset is incomplete; fetch it again."
# Two million annotations.
_MAX_TABLE_BYTES = 1 << 30
# Further apart than this, two positions say nothing about the velocity between them.
_MAX_GAP_S = 1.5

Array = NDArray[np.float64]
R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class T4Tables:
    """One dataset: a folder with `annotation/` and `data/`. Each table maps tokens to rows, in the order of its file.

    Attributes:
        folder: That folder.
    """

    folder: Path
    sample: Mapping[str, Sample]
    sample_data: Mapping[str, SampleData]
    calibrated_sensor: Mapping[str, CalibratedSensor]
    sensor: Mapping[str, Sensor]
    ego_pose: Mapping[str, EgoPose]
    scene: Mapping[str, Scene]
    sample_annotation: Mapping[str, Annotation]
    instance: Mapping[str, Instance]
    category: Mapping[str, Category]
    attribute: Mapping[str, Attribute]
    log: Mapping[str, Log]
    _annotations: Mapping[str, list[Annotation]]
    _key_data: Mapping[str, SampleData]
    _lidar_poses: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> T4Tables:
        """Reads `folder/annotation/*.json`.

        Raises:
            DataError: a table is missing, a row has a value of the wrong type or out of range, two rows have one token,
                a row refers to one that is not there; no LiDAR among the sensors.
        """
        sample_data = _table(folder, "sample_data", SampleData)
        annotations = _table(folder, "sample_annotation", Annotation)
        calibrated = _table(folder, "calibrated_sensor", CalibratedSensor)
        sensors = _table(folder, "sensor", Sensor)
        lidar = _lidar(folder, sensors)
        poses = frozenset(row.token for row in calibrated.values() if row.sensor_token == lidar.token)
        by_sample: dict[str, list[Annotation]] = {}
        for row in annotations.values():
            by_sample.setdefault(row.sample_token, []).append(row)
        dataset = cls(
            folder=folder,
            sample=_table(folder, "sample", Sample),
            sample_data=sample_data,
            calibrated_sensor=calibrated,
            sensor=sensors,
            ego_pose=_table(folder, "ego_pose", EgoPose),
            scene=_table(folder, "scene", Scene),
            sample_annotation=annotations,
            instance=_table(folder, "instance", Instance),
            category=_table(folder, "category", Category),
            attribute=_table(folder, "attribute", Attribute),
            log=_table(folder, "log", Log) if os.path.lexists(_path(folder, "log")) else {},
            _annotations=by_sample,
            _key_data=_key_data(folder, sample_data, poses),
            _lidar_poses=poses,
        )
        for table, fields in _REFERENCES.items():
            for field, target in fields.items():
                dataset._resolve(table, field, target)
        return dataset

    def samples(self) -> list[Sample]:
        """Key frames, in order of time."""
        return sorted(self.sample.values(), key=lambda row: row.timestamp)

    def annotations(self, sample: Sample) -> list[Annotation]:
        """Annotated objects of a key frame, in the table's order."""
        return self._annotations.get(sample.token, [])

    def lidar(self, sample: Sample) -> SampleData:
        """LiDAR data of a key frame.

        Raises:
            DataError: it has none.
        """
        if sample.token not in self._key_data:
            raise DataError(
                f"{shown_file(self.folder)}: sample {shown(sample.token)} has no LiDAR key frame in sample_data.json."
            )
        return self._key_data[sample.token]

    def earlier(self, data: SampleData) -> Iterator[SampleData]:
        """LiDAR data before `data`, latest first.

        Raises:
            DataError: a predecessor is another sensor's data, or comes twice.
        """
        seen = {data.token}
        while data.prev:
            previous = self.sample_data[data.prev]
            if previous.token in seen:
                raise self._misfit("sample_data", data, "prev", "must not be its own predecessor")
            if previous.calibrated_sensor_token not in self._lidar_poses:
                raise self._misfit("sample_data", data, "prev", "must be data of the same sensor")
            seen.add(previous.token)
            data = previous
            yield data

    def ego_pose_of(self, data: SampleData) -> Array:
        """Ego to map, (4, 4)."""
        row = self.ego_pose[data.ego_pose_token]
        return transform(row.rotation, row.translation)

    def lidar_to_ego(self, data: SampleData) -> Array:
        """LiDAR to ego, (4, 4): the identity for LIDAR_CONCAT."""
        row = self.calibrated_sensor[data.calibrated_sensor_token]
        return transform(row.rotation, row.translation)

    def point_file(self, data: SampleData) -> Path:
        """The point file, which exists, lies in the dataset's folder and is what `fileformat` and its name say.

        Raises:
            DataError: it does not, or nothing says what it is.
        """
        table, index = _path(self.folder, "sample_data"), _index(self.sample_data, data)
        path = point_file(self.folder, data.filename, table, [index, "filename"])
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        check_stated_form(path, data.fileformat, head, f"{shown_file(table)}, [{index}].fileformat")
        return path

    def velocity(self, annotation: Annotation) -> Array:
        """Velocity in the map frame, (3,) m/s.

        The table's own where it has one; else from the neighbouring annotations of the same object, central where there
        are two; NaN where there is none, or they are more than 1.5 s apart (3 s with one on both sides).
        """
        if annotation.velocity is not None:
            return np.array(annotation.velocity)
        first = self.sample_annotation[annotation.prev] if annotation.prev else annotation
        last = self.sample_annotation[annotation.next] if annotation.next else annotation
        sides = (first is not annotation) + (last is not annotation)
        times = [self.sample[item.sample_token].timestamp / 1e6 for item in (first, last)]
        gap = times[1] - times[0]
        if sides == 0 or not 0 < gap <= _MAX_GAP_S * sides:
            return np.full(3, np.nan)
        velocity: Array = (np.array(last.translation) - np.array(first.translation)) / gap
        return velocity

    def category_of(self, annotation: Annotation) -> str:
        """Name of an object's category."""
        return self.category[self.instance[annotation.instance_token].category_token].name

    def attributes_of(self, annotation: Annotation) -> list[str]:
        """Names of an object's attributes."""
        return [self.attribute[token].name for token in annotation.attribute_tokens]

    def _resolve(self, table: str, field: str, target: str) -> None:
        """Every reference of a field leads to a row."""
        rows, known = getattr(self, table), getattr(self, target)
        if target == "log" and not known:
            return
        for row in rows.values():
            value = getattr(row, field)
            tokens = value if isinstance(value, tuple) else (value,) if value else ()
            if not all(token in known for token in tokens):
                raise self._misfit(table, row, field, f"must be a token of {target}.json")

    def _misfit(self, table: str, row: Row, field: str, must: str) -> Exception:
        index = _index(getattr(self, table), row)
        return misfit(_path(self.folder, table), [index, field], getattr(row, field), must, remedy=_INCOMPLETE)


def _key_data(folder: Path, sample_data: Mapping[str, SampleData], poses: frozenset[str]) -> dict[str, SampleData]:
    """Sample -> its LiDAR key frame."""
    found: dict[str, SampleData] = {}
    table = shown_file(_path(folder, "sample_data"))
    for row in sample_data.values():
        if not row.is_key_frame or row.calibrated_sensor_token not in poses:
            continue
        other = found.setdefault(row.sample_token, row)
        if other is not row:
            both = [f"{shown(item.token)} with {shown(item.filename)}" for item in (other, row)]
            settle(
                [
                    Finding(
                        KNOWN_CHECKS["key-frames"],
                        f"{table}, [{_index(sample_data, other)}] (sample {shown(row.sample_token)}),",
                        f"its LiDAR key frame is {both[0]}",
                        f"[{_index(sample_data, row)}]",
                        f"it is {both[1]}",
                        "Set is_key_frame to false where it is a sweep.",
                    )
                ]
            )
    return found


def _path(folder: Path, table: str) -> Path:
    return folder / "annotation" / f"{table}.json"


def _index(rows: Mapping[str, Any], row: Row) -> int:
    return list(rows).index(row.token)


def _table(folder: Path, name: str, kind: type[R]) -> dict[str, R]:
    path = _path(folder, name)
    if not os.path.lexists(path):
        raise DataError(f"Table {shown_file(path)} does not exist: {shown_file(folder)} is no whole T4 dataset.")
    listed: Any = Rows
    # Python's writers write NaN where a velocity is not known.
    rows: list[R] = read_json(path, listed[kind], limit=_MAX_TABLE_BYTES, allow_nan=True)
    table = {row.token: row for row in rows}
    if len(table) != len(rows):
        first: dict[str, int] = {}
        for index, row in enumerate(rows):
            if first.setdefault(row.token, index) != index:
                raise misfit(path, [index, "token"], row.token, f"must not be that of row [{first[row.token]}] too")
    return table


def _lidar(folder: Path, sensors: Mapping[str, Sensor]) -> Sensor:
    by_channel = {row.channel: row for row in sensors.values()}
    for channel in LIDAR_CHANNELS:
        if channel in by_channel:
            return by_channel[channel]
    raise DataError(
        f"{shown_file(folder)} has no LiDAR channel {' or '.join(LIDAR_CHANNELS)}; its sensors are "
        f"{shown(sorted(by_channel))}."
    )
