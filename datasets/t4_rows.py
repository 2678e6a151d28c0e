"""Rows of the tables of a raw T4 dataset, as `datasets.t4_tables` uses them; other keys are not read."""

from __future__ import annotations

from base.parsing import Count, Items, NonEmptyStr, Record, Text
from datasets.geometry import Microseconds, Position, Rotation, Sizes, Velocity3

__all__ = [
    "Annotation",
    "Attribute",
    "CalibratedSensor",
    "Category",
    "EgoPose",
    "Instance",
    "Log",
    "Row",
    "Sample",
    "SampleData",
    "Scene",
    "Sensor",
]

# A reference; empty or null where there is nothing to refer to.
_Reference = Text | None


class Row(Record, extra="ignore"):
    """A row of any table; its token is no other row's."""

    token: NonEmptyStr


class Sample(Row):
    """A key frame."""

    timestamp: Microseconds
    scene_token: NonEmptyStr


class SampleData(Row):
    """What one sensor delivered at one time."""

    sample_token: Text
    ego_pose_token: NonEmptyStr
    calibrated_sensor_token: NonEmptyStr
    filename: Text
    timestamp: Microseconds
    prev: _Reference
    is_key_frame: bool = True
    is_valid: bool = True
    fileformat: Text | None = None


class CalibratedSensor(Row):
    """Where a sensor stands: sensor to ego."""

    sensor_token: NonEmptyStr
    translation: Position
    rotation: Rotation


class Sensor(Row):
    """A sensor."""

    channel: Text


class EgoPose(Row):
    """Where the vehicle stands: ego to map."""

    translation: Position
    rotation: Rotation


class Scene(Row):
    """A recording."""

    name: Text
    log_token: _Reference = None


class Log(Row):
    """Where a recording comes from."""

    location: Text | None = None


class Annotation(Row):
    """An object in a key frame, in the map frame; sizes are width, length, height."""

    sample_token: NonEmptyStr
    instance_token: NonEmptyStr
    attribute_tokens: Items[NonEmptyStr]
    translation: Position
    size: Sizes
    rotation: Rotation
    num_lidar_pts: Count
    prev: _Reference
    next: _Reference
    velocity: Velocity3 | None = None
    num_radar_pts: Count = 0


class Instance(Row):
    """An object over all key frames."""

    category_token: NonEmptyStr


class Category(Row):
    """A kind of objects."""

    name: NonEmptyStr


class Attribute(Row):
    """A state of objects."""

    name: NonEmptyStr
