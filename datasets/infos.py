"""Info files (mmdet3d's second format) as typed values: before mmdet3d or anything else here sees what is in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from base.checks import settle
from base.errors import DataError
from base.messages import shown_file
from base.parsing import Count, Int64, Items, NonEmptyStr, Record, RelativePath, Rows, Text, misfit, parse
from base.reading import regular_size
from base.untrusted import load_info_pickle
from datasets.geometry import Box, Pose, Seconds, Velocity2, first_not_rigid
from datasets.points import StoredPoints
from datasets.sweep_times import FrameTimes, compare_times
from models.consistency import compare_classes
from models.point_columns import is_column, listed

__all__ = [
    "KITTI",
    "OWN_FRAMES",
    "ClassNames",
    "InfoFile",
    "Instance",
    "PointStorage",
    "Sample",
    "parse_sample",
    "read_info_file",
    "typed",
]

T = TypeVar("T")

KITTI, OWN_FRAMES = "kitti", "own_frames"
"""`metainfo.dataset` of KITTI's info files, and of those of `datasets.create_infos`."""

_AGAIN = "Write the info file again from its dataset, with 'python -m datasets.create_t4_infos' for T4."
_CONVERT = (
    "It is no info file of mmdet3d's second format. Convert it with mmdet3d's "
    "tools/dataset_converters/update_infos_to_v2.py."
)


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
    num_pts_feats: Annotated[int, Field(ge=1, le=64)] | None = None


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
    num_radar_pts: Count | None = None
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
    """mmdet3d's own files have `categories`, name -> label, -1 for what is no class; T4's have `classes`."""

    classes: ClassNames | None = None
    categories: Annotated[dict[NonEmptyStr, Annotated[int, Field(ge=-1)]], Field(min_length=1)] | None = None


class PointStorage(Record, extra="ignore"):
    """What `metainfo` of the info files that this project makes says of its point files.

    Attributes:
        point_folder: Folder of the point files below the data root, in place of the model config's `data_prefix`.
        point_columns: Names of the numbers of a point, where they need not be those that the pipeline reads.
        fov_crop: Of KITTI: whether points outside the camera's image are left out.
        intensity_scale: Factor of intensities when they are read.
        lidar_height_m: Metres added to z of points and boxes when they are read.
        has_times: Whether timestamps are times; where nobody gave any, they are 0.
    """

    point_folder: Annotated[RelativePath, Field(max_length=4096)] | Literal[""] | None = None
    point_columns: Annotated[Items[NonEmptyStr], Field(min_length=3, max_length=64)] | None = None
    fov_crop: bool = False
    has_times: bool = True
    intensity_scale: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    lidar_height_m: Annotated[float, Field(ge=-1e3, le=1e3)] = 0.0

    @property
    def points(self) -> StoredPoints | None:
        """How points are brought into the form that the model takes; None where they are in it."""
        found = StoredPoints(self.point_columns, self.intensity_scale, self.lidar_height_m)
        return None if found == StoredPoints() else found

    def folders(self) -> dict[str, str]:
        """`data_prefix` of a dataset; empty where the model config says it."""
        return {} if self.point_folder is None else {"pts": self.point_folder, "sweeps": self.point_folder}


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
        """Classes in the order of their labels: `metainfo.classes`, or `metainfo.categories`, name -> label.

        Returns:
            Their names; none for a file of `datasets.create_infos` without boxes.

        Raises:
            DataError: the file names none, or one twice; labels of categories are not 0, 1, 2, …; both are there and
                differ.
        """
        meta = typed(_Meta, self.metainfo, self.path, "metainfo")
        if meta.categories is None:
            if meta.classes is None and self.dataset == OWN_FRAMES:
                return ()  # frames without boxes
            if meta.classes is None:
                raise DataError(
                    f"{shown_file(self.path)}: metainfo lacks 'classes' (T4) and 'categories' (mmdet3d): nothing says "
                    f"what the labels are. {_AGAIN}"
                )
            return meta.classes
        labels = {name: label for name, label in meta.categories.items() if label >= 0}
        if not labels or sorted(labels.values()) != list(range(len(labels))):
            must = f"must have the labels 0 to {max(len(labels) - 1, 0)}, each once"
            raise misfit(self.path, ["metainfo", "categories"], meta.categories, must, remedy=_CONVERT)
        categories = tuple(sorted(labels, key=labels.__getitem__))
        if meta.classes is not None:
            here = f"Info file {shown_file(self.path)}, metainfo.classes,"
            found = compare_classes("dataset-categories", here, meta.classes, "metainfo.categories", categories, _AGAIN)
            settle(found)
        return categories

    def storage(self) -> PointStorage:
        """How its point files are stored, where the file says so.

        Raises:
            DataError: it says something else than it may.
        """
        found = typed(PointStorage, self.metainfo, self.path, "metainfo")
        for name in found.point_columns or ():
            if not is_column(name):
                must = f"must be names of columns: {listed()}"
                raise misfit(self.path, ["metainfo", "point_columns"], list(found.point_columns or ()), must)
        return found

    @property
    def dataset(self) -> str:
        """What `metainfo.dataset` says: "kitti", "nuscenes", …; empty where it says nothing."""
        stated = self.metainfo.get("dataset")
        return stated if isinstance(stated, str) else ""


def read_info_file(path: Path) -> InfoFile:
    """Reads an info file; nothing in it is executed.

    Raises:
        DataError: the file is missing, no regular one, refused by `load_info_pickle`, or of another or an older format.
    """
    remedy = ""
    if not path.is_file():
        from datasets.remedies import DataOptions, how_to_get

        remedy = how_to_get(path.parent, path.name, _split_of(path.name), DataOptions("data_root", "ann_file"))
        remedy += " Both are the model config's, or --data-root and --info-file where a command has them."
    regular_size(path, "Info file", remedy=remedy)
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


def _split_of(name: str) -> str:
    """The split that the name of an info file ends in; "val" where it is none."""
    return next((split for split in ("train", "val", "test") if name.endswith(f"_{split}.pkl")), "val")


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
    try:
        sample = typed(Sample, raw, path, "data_list", index)
    except DataError as error:
        raise _with_times(error, raw, path, index) from None
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


def _with_times(error: DataError, raw: Any, path: Path, index: int) -> DataError:
    """The error; where a time is no time, with what the times of the sample say of each other."""
    plain = _plain(raw)
    times: list[Any] = [plain.get("timestamp")] if isinstance(plain, dict) else []
    sweeps = plain.get("lidar_sweeps") if times else None
    if isinstance(sweeps, list | tuple):
        times += [sweep.get("timestamp") for sweep in sweeps if isinstance(sweep, dict)]
    if "timestamp is" not in str(error) or not all(
        isinstance(time, int | float) and math.isfinite(time) for time in times
    ):
        return error
    key, *earlier = (float(time) for time in times)
    frame = FrameTimes(f"data_list[{index}]", str(plain.get("token")), "", key, tuple(earlier))
    told = [finding.text for finding in compare_times([frame], f"Info file {shown_file(path)}")]
    return DataError(" ".join([str(error), *told]))


def typed(kind: type[T], value: Any, path: Path, *at: str | int, remedy: str = _AGAIN) -> T:
    """`base.parsing.parse`; where a file holds numpy's numbers and arrays, of what they stand for."""
    try:
        return parse(kind, value, file=path, at=at, remedy=remedy)
    except DataError:
        plain = _plain(value)
        if plain is value:
            raise
    return parse(kind, plain, file=path, at=at, remedy=remedy)


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
