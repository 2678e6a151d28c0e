"""An evaluation in parts: every frame to the last bit, and parts that do not belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.boxes import Boxes3D
from base.checks import CheckResult
from base.errors import DataError
from base.parts import write_part
from base.shares import Share
from eval.frame_run import FrameRun
from eval.metrics import FrameResult
from eval.metrics.nuscenes_frames import FramePose
from eval.parts import EvaluationPart, read_evaluation_parts, write_evaluation_part
from runtime.counts import BoxCounts, VoxelCounts

FRAMES = 7
WORK = {"frames": FRAMES, "classes": ["car", "bus"], "checkpoint": "a"}


def boxes(numbers: np.random.Generator, count: int, points: bool) -> Boxes3D:
    """Of numbers with all their digits; some velocities are unknown."""
    values = (numbers.normal(size=(count, 9)) * 10.0 ** numbers.integers(-6, 6, (count, 9))).astype(np.float32)
    values[::2, 7:] = np.nan
    labels = numbers.integers(0, 2, count)
    return Boxes3D(
        values, numbers.random(count).astype(np.float32), labels, numbers.integers(0, 99, count) if points else None
    )


def frame_run(index: int) -> FrameRun:
    numbers = np.random.default_rng(index)
    counts = VoxelCounts(*(int(x) for x in numbers.integers(0, 1000, 5)))
    pose = FramePose(numbers.normal(size=(4, 4)), numbers.normal(size=(4, 4))) if index % 2 else None
    result = FrameResult(f"frame {index}", boxes(numbers, index % 4, False), boxes(numbers, (index + 1) % 3, True))
    dropped = BoxCounts(index, 2)
    return FrameRun(index, result, "scene", {}, 0.0, False, counts, dropped, {}, 100 + index, index, 3, pose, index / 3)


def warning(count: int, *messages: str, check: str = "cloud-intensity") -> CheckResult:
    return CheckResult(check, "warning", count, messages)


def part_of(share: Share, **changes: Any) -> EvaluationPart:
    runs = tuple(frame_run(index) for index in share.indices(FRAMES))
    known: dict[str, Any] = {"device": "cpu", "dataset": "data", "opening_checks": (), "frame_checks": (), "runs": runs}
    return EvaluationPart(**{**known, **changes})


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    paths = []
    for number in (1, 2, 3):
        paths.append(tmp_path / f"{number}.json")
        write_evaluation_part(paths[-1], Share(number, 3), WORK, part_of(Share(number, 3)))
    return paths


def same(one: Boxes3D, other: Boxes3D) -> bool:
    columns: list[tuple[Any, Any]] = [(one.boxes, other.boxes), (one.scores, other.scores), (one.labels, other.labels)]
    equal = all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in columns)
    if one.num_points is None or other.num_points is None:
        return equal and one.num_points is other.num_points
    return equal and bool((one.num_points == other.num_points).all())


def test_every_frame_comes_back_as_it_was(parts: list[Path]) -> None:
    merged = read_evaluation_parts([parts[1], parts[2], parts[0]])
    assert [run.index for run in merged.runs] == list(range(FRAMES))
    for run in merged.runs:
        expected = frame_run(run.index)
        assert run.result.token == expected.result.token
        assert same(run.result.detections, expected.result.detections)
        assert same(run.result.ground_truth, expected.result.ground_truth)
        for name in ("scene", "counts", "dropped", "num_points", "invalid_points", "zero_points", "is_empty", "time_s"):
            assert getattr(run, name) == getattr(expected, name)
        assert (run.pose is None) == (expected.pose is None)
        if run.pose is not None and expected.pose is not None:
            assert (run.pose.lidar2ego == expected.pose.lidar2ego).all()
            assert (run.pose.ego2global == expected.pose.ego2global).all()
    assert dict(merged.work) == WORK
    assert merged.checks() == ()


def test_findings_add_up(tmp_path: Path) -> None:
    """What every machine sees when it opens the dataset counts once; what it sees of its frames is added."""
    opening = (warning(1, "info", check="class-names"),)
    found = [(warning(2, "a"),), (), (warning(3, "b"), warning(1, "c", check="dropped-pillars"))]
    paths = []
    for number, own in enumerate(found, 1):
        paths.append(tmp_path / f"{number}.json")
        share = Share(number, 3)
        part = part_of(share, opening_checks=opening, frame_checks=own)
        write_evaluation_part(paths[-1], share, WORK, part)
    assert read_evaluation_parts(paths).checks() == (
        warning(1, "info", check="class-names"),
        warning(5, "a"),
        warning(1, "c", check="dropped-pillars"),
    )


def test_parts_of_another_evaluation(parts: list[Path]) -> None:
    write_evaluation_part(parts[1], Share(2, 3), {**WORK, "checkpoint": "b"}, part_of(Share(2, 3)))
    with pytest.raises(DataError, match=r"is a part of another evaluation: its checkpoint is 'b', that of .* is 'a'"):
        read_evaluation_parts(parts)
    with pytest.raises(DataError, match="2/3 is missing"):
        read_evaluation_parts([parts[0], parts[2]])
    with pytest.raises(DataError, match="both part 1/3 of an evaluation"):
        read_evaluation_parts([parts[0], parts[2], parts[0]])


def test_frames_of_another_share(parts: list[Path]) -> None:
    write_evaluation_part(parts[1], Share(2, 3), WORK, part_of(Share(1, 3)))
    with pytest.raises(DataError, match=r"part 2/3 of 7 frames has \[1, 4\]"):
        read_evaluation_parts(parts)


def of_frame(**change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["runs"][0].update(change)


def of_boxes(**change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["runs"][0]["est"].update(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_frame(token=""), "token"),
        (of_frame(index=-1), "index is -1"),
        (of_frame(num_points=True), "num_points is True"),
        (of_frame(pose={"lidar2ego": [[1.0]], "ego2global": []}), "lidar2ego"),
        (of_frame(more=1), "more"),
        (of_boxes(labels=[2]), r"labels is 2, but there are 2 classes"),
        (of_boxes(labels=[]), r"labels is \[\], but there are 1 boxes"),
        (of_boxes(scores=[0.5, 0.5]), r"scores is .* but there are 1 boxes"),
        (of_boxes(scores=["0.5"]), r"scores\[0\] is '0.5'"),
        (of_boxes(boxes=[[0.0] * 8]), r"boxes\[0\]"),
        (of_boxes(boxes=[[1e39, *[0.0] * 8]]), r"boxes\[0\]\[0\] is 1e\+39"),
        (lambda content: content.update(runs=[]), "runs"),
        (lambda content: content.update(frame_checks=[{"check": "a", "outcome": "good"}]), "frame_checks"),
    ],
)
def test_content_that_no_evaluation_writes(
    parts: list[Path], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    value = json.loads(parts[1].read_text())
    change(value["content"])
    write_part(parts[1], "evaluation", Share(2, 3), value["work"], value["content"])
    with pytest.raises(DataError, match=message):
        read_evaluation_parts(parts)


def test_work_without_its_frames(tmp_path: Path) -> None:
    write_evaluation_part(tmp_path / "part", Share(), {"frames": "7"}, part_of(Share()))
    with pytest.raises(DataError, match="'frames', a number, and 'classes', a list, must be in it"):
        read_evaluation_parts([tmp_path / "part"])
