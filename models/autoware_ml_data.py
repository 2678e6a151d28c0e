"""The frames of an autoware-ml config, as datasets and pipelines of this project."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field

from base.errors import ConfigError
from base.interpolation import References
from base.messages import shown
from base.parsing import Items, NonEmptyStr, PositiveFloat, Record, parse
from models.schema import Box

__all__ = ["UNSET_FOLDER", "data_settings"]

UNSET_FOLDER = "/folder-of-AUTOWARE_ML_DATA_PATH"
"""What stands for the folder of all datasets where the environment does not name it."""

_DATASETS = {"NuscenesDetection3DDataModule": "NuScenesDataset", "T4Detection3DDataModule": "T4Dataset"}
_FOLDERS = {
    "NuScenesDataset": {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP"},
    "T4Dataset": {"pts": "", "sweeps": ""},
}
# Steps that change the ground truth alone, and what it is judged by is this project's own.
_GROUND_TRUTH = (
    "MergeObjects3D",
    "ObjectMinPointsFilter",
    "ObjectNameFilter",
    "ObjectRangeFilter",
    "ObjectRangeMinPointsFilter",
)
_REMEDY = "Correct it in the config."
_logger = logging.getLogger(__name__)

_Column = Annotated[int, Field(ge=0, le=63)]


class _Annotations(Record):
    """Its LoadAnnotations3D."""

    name_mapping: dict[NonEmptyStr, NonEmptyStr | None] | None = None
    filter_attributes: Items[Items[NonEmptyStr]] | None = None
    use_valid_flag: bool = True


class _Sweeps(Record):
    """Its LoadPointsFromMultiSweeps, which loads the key frame too."""

    sweeps_num: Annotated[int, Field(ge=1, le=10_000)]
    load_dim: Annotated[int, Field(ge=5, le=64)] = 5
    use_dim: Annotated[Items[_Column], Field(min_length=3)] | None = None
    time_dim: _Column | None = None
    pad_empty_sweeps: bool = False
    remove_close: bool = False
    close_radius: PositiveFloat = 1.0


class _Range(Record):
    """Its PointsRangeFilter."""

    point_cloud_range: Box


def data_settings(references: References, class_names: Sequence[str], path: Path) -> dict[str, Any]:
    """`train_dataloader`, `val_dataloader` and `test_dataloader` of a config; nothing where it has no frames.

    All of them go through its validation transforms.

    Args:
        references: The config.
        class_names: Of the head, in the order of their labels.
        path: The config, for messages.

    Raises:
        ConfigError: a step of `datamodule.val_transforms` is not known here, or a value of one is wrong.
    """
    target = references.value("datamodule", "_target_") if references.holds("datamodule", "_target_") else None
    kind = _DATASETS.get(str(target).rpartition(".")[2]) if str(target).startswith("autoware_ml.") else None
    if kind is None:
        said = (
            "names no datamodule" if target is None else f"has the datamodule {shown(target)}, which is not known here"
        )
        _logger.warning("%s %s: it can be exported, and reads no frames", path, said)
        return {}
    steps = references.value("datamodule", "val_transforms", "pipeline")
    pipeline, annotations = _pipeline(steps, path)
    root = str(references.value("datamodule", "data_root"))
    shared: dict[str, Any] = {
        "type": kind,
        "metainfo": {"classes": list(class_names)},
        "pipeline": pipeline,
        "data_prefix": _FOLDERS[kind],
        "name_mapping": annotations.name_mapping or {},
        "use_valid_flag": annotations.use_valid_flag,
    }
    if not root.startswith(UNSET_FOLDER):
        shared["data_root"] = root
    out = {}
    for split in ("train", "val", "test"):
        if references.holds("datamodule", f"{split}_ann_file"):
            file = PurePosixPath(str(references.value("datamodule", f"{split}_ann_file")))
            file = file.relative_to(root) if file.is_relative_to(root) else file
            dataset = {**shared, "ann_file": str(file), "test_mode": split != "train"}
            out[f"{split}_dataloader"] = {"batch_size": 1, "num_workers": 0, "dataset": dataset}
    return out


def _pipeline(steps: Any, path: Path) -> tuple[list[dict[str, Any]], _Annotations]:
    """Steps in mmdet3d's terms, and what it says of annotations."""
    at = ("datamodule", "val_transforms", "pipeline")
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise ConfigError(f"{path}: {'.'.join(at)} is {shown(steps)}, but must be a list of steps. {_REMEDY}")
    pipeline: list[dict[str, Any]] = []
    annotations = _Annotations()
    left_out = []
    for index, step in enumerate(steps):
        target = str(step.get("_target_"))
        name = target.rpartition(".")[2] if target.startswith("autoware_ml.") else ""
        place = (*at, index)
        if name == "LoadAnnotations3D":
            annotations = _step(_Annotations, step, place, path)
        elif name == "LoadPointsFromMultiSweeps":
            pipeline += _loading(_step(_Sweeps, step, place, path), path, place)
        elif name == "PointsRangeFilter":
            limits = _step(_Range, step, place, path).point_cloud_range
            pipeline.append({"type": "PointsRangeFilter", "point_cloud_range": list(limits)})
        elif name in _GROUND_TRUTH:
            left_out.append(name)
        else:
            raise ConfigError(
                f"{path}: {'.'.join(map(str, place))}._target_ is {shown(step.get('_target_'))}, which is not known "
                "here: frames would be others than those that the network was trained on. Take it out of "
                "val_transforms, and train without it."
            )
    if annotations.filter_attributes:
        left_out.append("filter_attributes")
    if left_out:
        _logger.info("%s: %s of the ground truth are left to whoever makes info files", path, ", ".join(left_out))
    return [*pipeline, {"type": "Pack3DDetInputs", "keys": ["points"]}], annotations


def _step(kind: type[Any], step: Mapping[str, Any], place: Sequence[str | int], path: Path) -> Any:
    values = {key: value for key, value in step.items() if not (key.startswith("_") and key.endswith("_"))}
    return parse(kind, values, file=path, at=place, error=ConfigError, remedy=_REMEDY)


def _loading(step: _Sweeps, path: Path, place: Sequence[str | int]) -> list[dict[str, Any]]:
    """The key frame, and the earlier sweeps that are joined to it: `sweeps_num` counts the key frame."""
    if step.time_dim is not None and step.time_dim != 4:
        raise ConfigError(
            f"{path}: {'.'.join(map(str, place))}.time_dim is {step.time_dim}, but must be 4: the time lag is put "
            "nowhere else here."
        )
    if step.remove_close and step.close_radius != 1.0:
        raise ConfigError(
            f"{path}: {'.'.join(map(str, place))}.close_radius is {step.close_radius:g}, but must be 1: no other "
            "radius is known here."
        )
    columns = list(step.use_dim or range(min(step.load_dim, 4)))
    key = {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": step.load_dim, "use_dim": step.load_dim}
    if step.time_dim is None and step.sweeps_num == 1:
        return [{**key, "use_dim": columns}]
    if step.time_dim is None and 4 in columns:
        raise ConfigError(
            f"{path}: {'.'.join(map(str, place))} joins sweeps and takes column 4 without time_dim; only the "
            "time lag can stand there."
        )
    sweeps = {
        "type": "LoadPointsFromMultiSweeps",
        "sweeps_num": step.sweeps_num - 1,
        "load_dim": step.load_dim,
        "use_dim": columns,
        "pad_empty_sweeps": step.pad_empty_sweeps,
        "remove_close": step.remove_close,
        "close_is_circle": True,
        "test_mode": True,
    }
    return [key, sweeps]
