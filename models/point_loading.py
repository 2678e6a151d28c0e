"""What the columns of a model's points are: names, from the steps of its config that load points.

Columns of a file are named by the dataset that writes such files; the steps of the test pipeline choose, reorder and
overwrite them, as mmdet3d 1.4 does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from base.checks import Finding, settle
from base.errors import ConfigError
from base.messages import shown_place
from base.parsing import Items, Record, misfit, parse
from models.known_checks import KNOWN_CHECKS
from models.point_columns import SQUASHED, T4_RECORD, XYZ_INTENSITY, record_columns, unnamed_columns
from models.unsupported import refuse_augmented, step_kind

__all__ = ["PointLoading", "config_loading", "innermost", "network_columns", "point_loading"]

# Dataset of mmdet3d, or this project's -> columns of its point files. Those of others are named as far as all agree.
_RECORDS = {
    "T4Dataset": T4_RECORD,
    "NuScenesDataset": T4_RECORD,
    "LyftDataset": T4_RECORD,
    "KittiDataset": XYZ_INTENSITY,
    "WaymoDataset": (*XYZ_INTENSITY, "elongation"),
}
# The column that mmdet3d's LoadPointsFromMultiSweeps overwrites with the time lag, in key frame and sweeps.
_TIME_COLUMN = 4

_Columns = Annotated[int, Field(ge=1, le=64)]
_Column = Annotated[int, Field(ge=0, le=63)]


class _Loading(Record, extra="ignore"):
    """What both loading steps say."""

    load_dim: _Columns | None = None
    use_dim: _Columns | Annotated[Items[_Column], Field(min_length=1)] | None = None

    def used(self, default_load: int, default_use: Sequence[int], file: str, at: Sequence[str | int]) -> list[int]:
        """Indices of the columns that the step leaves, in order."""
        load_dim = self.load_dim or default_load
        used = self.use_dim or default_use
        indices = list(range(used)) if isinstance(used, int) else list(used)
        if max(indices) >= load_dim:
            must = f"must name columns 0 to {load_dim - 1}, those of load_dim"
            raise misfit(file, [*at, "use_dim"], self.use_dim or indices, must, error=ConfigError)
        return indices


class _FromFile(_Loading):
    """mmdet3d's LoadPointsFromFile."""

    shift_height: bool = False
    norm_intensity: bool = False
    norm_elongation: bool = False


class _Sweeps(_Loading):
    """mmdet3d's LoadPointsFromMultiSweeps; `time_dim` was an argument of it before version 1."""

    sweeps_num: Annotated[int, Field(ge=0, le=10_000)] = 10
    remove_close: bool = False
    pad_empty_sweeps: bool = False
    close_is_circle: bool = False
    time_dim: int | None = None


@dataclass(frozen=True)
class PointLoading:
    """What a pipeline says of points.

    Attributes:
        columns: Names of the columns that it leaves, in order.
        record: Names of the numbers of a point in the files that it reads; `load_dim` of them.
        place: Where in the config that number stands.
        sweeps_num: Most earlier sweeps that are joined to the key frame; None where no step joins any.
        remove_close, pad_empty_sweeps: How, as mmdet3d names it.
        close_is_circle: What `remove_close` removes, as autoware-ml has it.
    """

    columns: tuple[str, ...]
    record: tuple[str, ...]
    place: tuple[str | int, ...]
    sweeps_num: int | None
    remove_close: bool = False
    pad_empty_sweeps: bool = False
    close_is_circle: bool = False


def innermost(dataset: Any) -> Any:
    """The dataset inside wrappers such as CBGSDataset or RepeatDataset."""
    while isinstance(dataset, Mapping) and isinstance(dataset.get("dataset"), Mapping):
        dataset = dataset["dataset"]
    return dataset


def point_loading(
    pipeline: Sequence[Any], file: str, at: Sequence[str | int] = ("pipeline",), dataset: str = "T4Dataset"
) -> PointLoading | None:
    """What the steps of a pipeline make of the columns of a file.

    Args:
        pipeline: Steps of a config.
        file, at: Where they stand, for messages.
        dataset: Type of the dataset whose files they read.

    Returns:
        None where no step loads points, or one does that is unknown here: nothing then says what a column is.

    Raises:
        ConfigError: a step uses columns that it does not load or an absurd number of them, or the columns of sweeps
            are others than those of the key frame that they are joined to.
    """
    known = _RECORDS.get(dataset, XYZ_INTENSITY)
    found: PointLoading | None = None
    for index, step in enumerate(pipeline):
        kind, place = step_kind(step), (*at, index)
        if kind in ("LoadPointsFromFile", "LoadPoints"):
            found = _key_frame(parse(_FromFile, dict(step), file=file, at=place, error=ConfigError), known, file, place)
        elif kind in ("LoadPointsFromMultiSweeps", "LoadSweeps"):
            sweeps = parse(_Sweeps, dict(step), file=file, at=place, error=ConfigError)
            found = _joined(found, sweeps, known, file, place)
        elif kind.startswith("Load") and "Points" in kind:
            found = None
    return found


def _key_frame(step: _FromFile, known: Sequence[str], file: str, at: tuple[str | int, ...]) -> PointLoading:
    used = step.used(6, (0, 1, 2), file, at)
    record = record_columns(step.load_dim or 6, known)
    columns = [record[index] for index in used]
    for column, squashed in ((3, step.norm_intensity), (4, step.norm_elongation)):
        if squashed:
            if len(columns) <= column:
                must = f"must name at least {column + 1} columns, since column {column} is normalized"
                raise misfit(file, [*at, "use_dim"], used, must, error=ConfigError)
            columns[column] = f"{SQUASHED}{columns[column]}"
    if step.shift_height:
        columns.insert(3, "height")
    return PointLoading(tuple(columns), record, (*at, "load_dim"), None)


def _joined(
    key: PointLoading | None, step: _Sweeps, known: Sequence[str], file: str, at: tuple[str | int, ...]
) -> PointLoading | None:
    used = step.used(5, (0, 1, 2, 4), file, at)
    if step.time_dim not in (None, _TIME_COLUMN):
        must = f"must be {_TIME_COLUMN}: mmdet3d 1.4 puts the time lag nowhere else"
        raise misfit(file, [*at, "time_dim"], step.time_dim, must, error=ConfigError)
    if key is None:
        return None
    sweep = record_columns(step.load_dim or 5, known)
    # The time lag overwrites a column of both before they are joined, and `use_dim` chooses afterwards.
    here, there = (_with_time(columns) for columns in (key.columns, sweep))
    if here is None or here != there:
        raise ConfigError(
            f"{file}: {shown_place(at)} joins sweeps with the columns {', '.join(sweep)} to a key frame with "
            f"{', '.join(key.columns)}, and puts the time lag into column {_TIME_COLUMN} of both. "
            "They must be the same: let LoadPointsFromFile keep all columns in their order (use_dim = load_dim), and "
            "choose among them by use_dim of LoadPointsFromMultiSweeps."
        )
    joining = (step.sweeps_num, step.remove_close, step.pad_empty_sweeps, step.close_is_circle)
    return PointLoading(tuple(here[index] for index in used), key.record, key.place, *joining)


def _with_time(columns: Sequence[str]) -> tuple[str, ...] | None:
    if len(columns) <= _TIME_COLUMN:
        return None
    return (*columns[:_TIME_COLUMN], "time_lag", *columns[_TIME_COLUMN + 1 :])


def config_loading(cfg: Any, file: str) -> PointLoading | None:
    """What a model config says of points: the pipeline that frames go through, `val_dataloader`'s; else another's.

    Pipelines that leave other columns of the same number are warned about (check `columns-of-pipelines`).

    Returns:
        None where no pipeline says it.

    Raises:
        ConfigError: as `point_loading`; a pipeline is no list of steps, or one for tests augments its frames.
    """
    found: PointLoading | None = None
    where = ""
    for loader in ("val_dataloader", "test_dataloader", "train_dataloader"):
        loading = _of_loader(cfg.get(loader), loader, file)
        if loading is None:
            continue
        if found is None:
            found, where = loading, loader
        elif len(loading.columns) == len(found.columns) and loading.columns != found.columns:
            settle([_other_columns(f"{file}, {where}.dataset.pipeline,", found, f"{loader}.dataset.pipeline", loading)])
    return found


def _other_columns(place: str, found: PointLoading, other_place: str, other: PointLoading) -> Finding:
    return Finding(
        KNOWN_CHECKS["columns-of-pipelines"],
        place,
        ", ".join(found.columns),
        other_place,
        ", ".join(other.columns),
        "Frames go through the first, whatever the split. Weights that were trained on the other read wrong values.",
    )


def _of_loader(node: Any, loader: str, file: str) -> PointLoading | None:
    dataset = innermost(node) if isinstance(node, Mapping) else None
    while isinstance(dataset, Mapping) and isinstance(dataset.get("datasets"), list | tuple) and dataset["datasets"]:
        dataset = innermost({"dataset": dataset["datasets"][0]})  # of a ConcatDataset
    pipeline = dataset.get("pipeline") if isinstance(dataset, Mapping) and dataset is not node else None
    if pipeline is None:
        return None
    at = (loader, "dataset", "pipeline")
    if not isinstance(pipeline, list | tuple) or not all(isinstance(step, Mapping) for step in pipeline):
        raise misfit(file, at, pipeline, "must be a list of dictionaries", error=ConfigError)
    if loader != "train_dataloader":
        refuse_augmented(pipeline, file, at)
    return point_loading(pipeline, file, at, step_kind(dataset))


def network_columns(cfg: Any, in_channels: int, file: str) -> tuple[str, ...]:
    """Names of the columns that enter a config's network.

    Args:
        cfg: An `mmengine.Config`.
        in_channels: Columns that its pillar encoder takes.
        file: The config, for messages.

    Raises:
        ConfigError: the test pipeline leaves another number of columns, or the first three are not x, y, z; or as
            `config_loading`.
    """
    loading = config_loading(cfg, file)
    columns = unnamed_columns(in_channels) if loading is None else loading.columns
    if loading is None:
        remedy = "Scans, bundles and datasets cannot be held against it; give val_dataloader its pipeline."
        said = f"no pipeline says what the {in_channels} columns of a point are; they are called {', '.join(columns)}"
        settle([Finding(KNOWN_CHECKS["columns-unstated"], file, said, remedy=remedy)])
    if len(columns) != in_channels:
        raise ConfigError(
            f"{file}: the test pipeline leaves {len(columns)} columns a point ({', '.join(columns)}), but "
            f"pts_voxel_encoder.in_channels is {in_channels}. Correct use_dim of the step that loads points, or "
            "in_channels."
        )
    if columns[:3] != ("x", "y", "z"):
        raise ConfigError(
            f"{file}: the test pipeline leaves the columns {', '.join(columns)}; pillars are made of the first three, "
            "which must be x, y, z. Correct use_dim."
        )
    return columns
