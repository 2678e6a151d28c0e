"""Info files (mmdet3d's second format) as typed values: before mmdet3d or anything else here sees what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from base.errors import DataError
from base.messages import shown_file
from base.parsing import Count, Int64, Items, NonEmptyStr, Record, Rows, Text, misfit, parse
from base.reading import regular_size
from base.untrusted import load_info_pickle
from datasets.geometry import Box, Pose, Seconds, Velocity2, first_not_rigid

__all__ = ["ClassNames", "InfoFile", "Instance", "Sample", "parse_sample", "read_info_file"]

T = TypeVar("T")

_AGAIN = "Write the info file again from its dataset, with 'python -m datasets.create_t4_infos' for T4."
_ABSENT = "Give the dataset's folder as data_root, or make one with 'python -m datasets.synthetic --out DIR'."


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len({*names}) != len(names):
        raise ValueError("must not name a class twice")
    return names


ClassNames = Annotated[Items[NonEmptyStr], Field(min_length=1), AfterValidator(_distinct)]
"""Classes in the order of their labels."""


class PointFile(Record, extra="ignore"):
    """A point file of a key frame; which paths are allowed is for the dataset to say."""

    lidar_path: NonEmptyStr
    num_pts_feats: Annotated[int, Field(ge=1, le=64)]
    lidar2ego: Pose | None = None


class SweepFile(Record, extra="ignore"):
    """A point file of a sweep, and how its points get into the key frame."""

    lidar_path: NonEmptyStr
    lidar2sensor: Pose
    lidar2ego: Pose | None = None


class Sweep(Record, extra="ignore"):
    """An earlier revolution."""

    timestamp: Seconds
    lidar_points: SweepFile
    ego2global: Pose | None = None
    sample_data_token: Text | None = None


class Instance(Record, extra="ignore"):
    """An annotated object; a label of -1 is not to be detected, other labels count into the file's classes."""

    bbox_3d: Box
    bbox_label_3d: Annotated[int, Field(ge=-1, le=2**31 - 1)]
    velocity: Velocity2
    num_lidar_pts: Count
    bbox_3d_isvalid: bool | None = None
    gt_nusc_name: Text | None = None


class Sample(Record, extra="ignore"):
    """A key frame; sweeps are latest first."""

    token: NonEmptyStr
    timestamp: Seconds
    lidar_points: PointFile
    instances: Items[Instance]
    lidar_sweeps: Items[Sweep] | None = None
    sample_idx: Int64 | None = None
    scene_token: Text | None = None
    scene_name: Text | None = None
    ego2global: Pose | None = None


class _Meta(Record, extra="ignore"):
    classes: ClassNames


class _Content(Record, extra="ignore"):
    data_list: Rows[Any]
    metainfo: dict[str, Any]


@dataclass(frozen=True, eq=False)
class InfoFile:
    """An info file whose frame is checked, and whose samples are not yet.

    Attributes:
        path: The file.
        metainfo: As in the file.
        samples: For `parse_sample`, one by one: typed all at once, a large file would take several times its size.
    """

    path: Path
    metainfo: dict[str, Any]
    samples: list[Any]

    def classes(self) -> tuple[str, ...]:
        """Classes in the order of their labels.

        Raises:
            DataError: the file names none, or one twice.
        """
        return typed(_Meta, self.metainfo, self.path, "metainfo").classes


def read_info_file(path: Path) -> InfoFile:
    """Reads an info file; nothing in it is executed.

    Raises:
        DataError: the file is missing, no regular one, refused by `load_info_pickle`, or of another or an older format.
    """
    regular_size(path, "Info file", remedy=_ABSENT)
    content = load_info_pickle(path)
    if isinstance(content, list) or (isinstance(content, dict) and "infos" in content and "data_list" not in content):
        raise DataError(
            f"Info file {shown_file(path)} is of a format older than mmdet3d 1.1: "
            f"{'a list' if isinstance(content, list) else 'infos and metadata'} in place of data_list and metainfo. "
            "Convert it with mmdet3d's tools/dataset_converters/update_infos_to_v2.py, or make it anew with "
            "'python -m datasets.create_t4_infos' from a T4 dataset: boxes meant something else then."
        )
    checked = typed(_Content, content, path)
    return InfoFile(path, checked.metainfo, checked.data_list)


def parse_sample(raw: Any, path: Path, index: int, num_classes: int) -> Sample:
    """One sample of an info file.

    Args:
        raw: The sample.
        path: The info file, for messages.
        index: The sample's place in it.
        num_classes: Classes of the file, into which labels count.

    Raises:
        DataError: a value is missing, has the wrong type, or is out of its range.
    """
    sample = typed(Sample, raw, path, "data_list", index)
    at: list[str | int] = ["data_list", index]
    for position, instance in enumerate(sample.instances):
        if instance.bbox_label_3d >= num_classes:
            place = [*at, "instances", position, "bbox_label_3d"]
            raise misfit(path, place, instance.bbox_label_3d, f"must be -1 to {num_classes - 1}", remedy=_AGAIN)
    wrong = first_not_rigid([sweep.lidar_points.lidar2sensor for sweep in sample.lidar_sweeps or ()])
    if wrong is not None:
        place = [*at, "lidar_sweeps", wrong, "lidar_points", "lidar2sensor"]
        pose = (sample.lidar_sweeps or ())[wrong].lidar_points.lidar2sensor
        raise misfit(path, place, pose, "must be a rotation and a translation", remedy=_AGAIN)
    return sample


def typed(kind: type[T], value: Any, path: Path, *at: str | int) -> T:
    """`base.parsing.parse`; where a file holds numpy's numbers and arrays, of what they stand for."""
    try:
        return parse(kind, value, file=path, at=at, remedy=_AGAIN)
    except DataError:
        plain = _plain(value)
        if plain is value:
            raise
    return parse(kind, plain, file=path, at=at, remedy=_AGAIN)


def _plain(value: Any) -> Any:
    """Python's own numbers and lists in place of numpy's; the value itself where it holds none."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        items = {key: _plain(item) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if isinstance(value, list | tuple):
        entries = [_plain(item) for item in value]
        return entries if any(a is not b for a, b in zip(entries, value, strict=True)) else value
    return value
