"""An evaluation by several machines: each runs a share of the frames, and what they found is scored once.

A part holds frames as they were run: boxes to the last bit, and counts. Metrics are computed of all frames together, so
that they are those of one run. Times are no part of it: several machines have none in common.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from base.boxes import Boxes3D
from base.checks import CheckResult
from base.parsing import Count, FiniteFloat, Items, NonEmptyStr, PositiveInt, Record, Text, misfit
from base.parts import Part, read_parts, write_part
from base.shares import Share
from eval.frame_run import FrameRun
from eval.metrics import FrameResult
from eval.metrics.nuscenes_frames import FramePose
from runtime.counts import BoxCounts, VoxelCounts

__all__ = ["EvaluationPart", "MergedRuns", "read_evaluation_parts", "write_evaluation_part"]

_KIND = "evaluation"
_NUMBERS = 9  # of a box
_LARGEST = float(np.finfo(np.float32).max)
_Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
_Row = Annotated[Items[_Number | None], Field(min_length=_NUMBERS, max_length=_NUMBERS)]
_Label = Annotated[int, Field(ge=0, le=2**15)]
_MatrixRow = Annotated[Items[FiniteFloat], Field(min_length=4, max_length=4)]
_Matrix = Annotated[Items[_MatrixRow], Field(min_length=4, max_length=4)]


class _BoxesForm(Record):
    """`Boxes3D`, in float32 as it is; an unknown velocity is null."""

    boxes: Items[_Row]
    scores: Items[_Number]
    labels: Items[_Label]
    num_points: Items[Count] | None


class _VoxelCountsForm(Record):
    voxels: Count
    dropped_voxels: Count
    dropped_points: Count
    outside_points: Count
    invalid_points: Count


class _BoxCountsForm(Record):
    broken: Count
    without_size: Count


class _PoseForm(Record):
    lidar2ego: _Matrix
    ego2global: _Matrix


class _FrameForm(Record):
    index: Count
    token: NonEmptyStr
    scene: Text
    est: _BoxesForm
    gt: _BoxesForm
    counts: _VoxelCountsForm
    dropped: _BoxCountsForm
    num_points: Count
    invalid_points: Count
    zero_points: Count
    pose: _PoseForm | None
    time_s: FiniteFloat | None


class _CheckForm(Record):
    check: NonEmptyStr
    outcome: Literal["error", "accepted", "warning"]
    count: PositiveInt
    messages: Items[Text]


class _PartForm(Record):
    device: NonEmptyStr
    dataset: Text | None
    opening_checks: Items[_CheckForm]
    frame_checks: Items[_CheckForm]
    runs: Annotated[Items[_FrameForm], Field(min_length=1)]


@dataclass(frozen=True, eq=False)
class EvaluationPart:
    """What one machine found.

    Attributes:
        device: That its backend ran on.
        dataset: As the command was given it.
        runs: Its frames.
        opening_checks: What checks found before any frame was run; the same on every machine, but for what the first
            alone looks at.
        frame_checks: What they found of its frames.
    """

    device: str
    dataset: str | None
    runs: tuple[FrameRun, ...]
    opening_checks: tuple[CheckResult, ...]
    frame_checks: tuple[CheckResult, ...]


@dataclass(frozen=True, eq=False)
class MergedRuns:
    """All parts of an evaluation.

    Attributes:
        work: What they agree in, as given to `write_evaluation_part`; plain values of a file.
        file: Of the first part, for messages about `work`.
        parts: By number.
    """

    work: Mapping[str, Any]
    file: Path
    parts: tuple[EvaluationPart, ...]

    @property
    def runs(self) -> list[FrameRun]:
        """Every frame, in order."""
        return sorted((run for part in self.parts for run in part.runs), key=lambda run: run.index)

    def checks(self) -> tuple[CheckResult, ...]:
        """What checks found: at the opening, as the first part saw it, then of all frames, added up."""
        found: dict[tuple[str, str], CheckResult] = {}
        for result in (*self.parts[0].opening_checks, *(item for part in self.parts for item in part.frame_checks)):
            key = (result.check, result.outcome)
            known = found.get(key)
            if known is None:
                found[key] = result
                continue
            messages = tuple(dict.fromkeys((*known.messages, *result.messages)))
            most = max(len(known.messages), len(result.messages))
            found[key] = dataclasses.replace(known, count=known.count + result.count, messages=messages[:most])
        return tuple(found.values())


def write_evaluation_part(path: str | Path, share: Share, work: Mapping[str, Any], part: EvaluationPart) -> None:
    """Writes one part.

    Args:
        path: The file, JSON.
        share: Which part.
        work: What all parts must agree in, as plain values; `frames`, the number of all frames, and `classes`, the
            names of the labels, among them.
        part: What was found.
    """
    content = {
        "device": part.device,
        "dataset": part.dataset,
        "opening_checks": [dataclasses.asdict(result) for result in part.opening_checks],
        "frame_checks": [dataclasses.asdict(result) for result in part.frame_checks],
        "runs": [_plain_run(run) for run in part.runs],
    }
    write_part(path, _KIND, share, work, content)


def read_evaluation_parts(paths: Sequence[str | Path]) -> MergedRuns:
    """Reads all parts of one evaluation.

    Raises:
        DataError: a file is broken, or the parts are of other models, frames or settings, or not those of one whole.
    """
    parts = read_parts(paths, _KIND, _PartForm)
    first = parts[0]
    frames, classes = first.work.get("frames"), first.work.get("classes")
    if type(frames) is not int or not isinstance(classes, list):
        raise misfit(first.file, ["work"], list(first.work), "'frames', a number, and 'classes', a list, must be in it")
    return MergedRuns(first.work, first.file, tuple(_part(part, frames, len(classes)) for part in parts))


def _part(part: Part[_PartForm], frames: int, num_classes: int) -> EvaluationPart:
    form = part.content
    expected, found = list(part.share.indices(frames)), [run.index for run in form.runs]
    if found != expected:
        raise misfit(part.file, ["content", "runs"], found, f"part {part.share} of {frames} frames has {expected}")
    return EvaluationPart(
        form.device,
        form.dataset,
        tuple(_run(part.file, run, num_classes) for run in form.runs),
        tuple(CheckResult(item.check, item.outcome, item.count, item.messages) for item in form.opening_checks),
        tuple(CheckResult(item.check, item.outcome, item.count, item.messages) for item in form.frame_checks),
    )


def _plain_run(run: FrameRun) -> dict[str, Any]:
    pose = None
    if run.pose is not None:
        pose = {"lidar2ego": run.pose.lidar2ego.tolist(), "ego2global": run.pose.ego2global.tolist()}
    return {
        "index": run.index,
        "token": run.result.token,
        "scene": run.scene,
        "est": _plain_boxes(run.result.detections),
        "gt": _plain_boxes(run.result.ground_truth),
        "counts": dataclasses.asdict(run.counts),
        "dropped": dataclasses.asdict(run.dropped),
        "num_points": run.num_points,
        "invalid_points": run.invalid_points,
        "zero_points": run.zero_points,
        "pose": pose,
        "time_s": run.time_s,
    }


def _plain_boxes(boxes: Boxes3D) -> dict[str, Any]:
    return {
        "boxes": [[None if math.isnan(x) else x for x in row] for row in boxes.boxes.tolist()],
        "scores": boxes.scores.tolist(),
        "labels": boxes.labels.tolist(),
        "num_points": None if boxes.num_points is None else boxes.num_points.tolist(),
    }


def _run(file: Path, form: _FrameForm, num_classes: int) -> FrameRun:
    place = ("content", "runs", form.index)
    return FrameRun(
        index=form.index,
        result=FrameResult(
            form.token,
            _boxes(file, form.est, (*place, "est"), num_classes),
            _boxes(file, form.gt, (*place, "gt"), num_classes),
        ),
        scene=form.scene,
        stages_ms={},
        total_ms=0.0,
        timed=False,
        counts=VoxelCounts(**form.counts.model_dump()),
        dropped=BoxCounts(**form.dropped.model_dump()),
        num_points=form.num_points,
        invalid_points=form.invalid_points,
        zero_points=form.zero_points,
        pose=None if form.pose is None else FramePose(_matrix(form.pose.lidar2ego), _matrix(form.pose.ego2global)),
        time_s=form.time_s,
    )


def _boxes(file: Path, form: _BoxesForm, place: Sequence[str | int], num_classes: int) -> Boxes3D:
    count = len(form.boxes)
    for name in ("scores", "labels", "num_points"):
        column = getattr(form, name)
        if column is not None and len(column) != count:
            raise misfit(file, [*place, name], list(column), f"there are {count} boxes")
    if form.labels and max(form.labels) >= num_classes:
        raise misfit(file, [*place, "labels"], max(form.labels), f"there are {num_classes} classes")
    values = np.array([[math.nan if x is None else x for x in row] for row in form.boxes], np.float32)
    return Boxes3D(
        values.reshape(-1, _NUMBERS),
        np.array(form.scores, np.float32),
        np.array(form.labels, np.int64),
        None if form.num_points is None else np.array(form.num_points, np.int64),
    )


def _matrix(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array(rows, np.float64)
