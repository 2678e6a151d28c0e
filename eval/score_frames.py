"""Frames of detections and ground truth from a file, checked, in chunks."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from base.messages import printable, shown
from base.progress import progress
from eval.metrics import ObjectTable
from eval.score_labels import canonical_label
from eval.score_stream import JsonDocument, JsonLines

__all__ = ["UNKNOWN_NUM_POINTS", "FrameChunk", "FrameFile"]

UNKNOWN_NUM_POINTS = -1
"""`num_points` of a ground truth whose count the file does not give."""

_LINES = (".jsonl", ".ndjson")
_GEOMETRY = ("x", "y", "z", "l", "w", "h", "yaw")
_SIZES = ("l", "w", "h")
_MAX_NUMBER = 1e9  # metres, radians, m/s; the square of what is beyond may have no float
_MAX_BOXES = 250_000  # of a chunk, however few frames they are in
_KINDS = {"est": "detection", "gt": "ground truth"}
_POSE = ("x", "y", "z", "yaw")
_pose = itemgetter(*_POSE)
_geometry = itemgetter(*_GEOMETRY)
_velocity = itemgetter("vx", "vy")
_score = itemgetter("score")
_num_points = itemgetter("num_points")

Box = dict[str, Any]
Frame = dict[str, Any]


@dataclass(frozen=True, eq=False)
class FrameChunk:
    """Some consecutive frames.

    Attributes:
        estimates: Detections; labels index the names that the file has used so far (`FrameFile.label_names`).
        ground_truth: Ground truth, likewise; `num_points` is `UNKNOWN_NUM_POINTS` where the file gives none.
        num_frames: How many.
        ego2map: (num_frames, 4) x, y, z in metres and yaw of the ego in the map; zero where the file gives none.
    """

    estimates: ObjectTable
    ground_truth: ObjectTable
    num_frames: int
    ego2map: NDArray[np.float64]

    def in_ego(self, table: ObjectTable) -> ObjectTable:
        """Objects given in the map, seen from the ego of their frame. Velocities only turn."""
        pose = self.ego2map[table.frame]
        cos, sin = np.cos(pose[:, 3]), np.sin(pose[:, 3])

        def turn(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = vectors[:, 0], vectors[:, 1]
            return np.stack([x * cos + y * sin, y * cos - x * sin], axis=1)

        delta = table.center - pose[:, :3]
        return replace(
            table,
            center=np.concatenate([turn(delta), delta[:, 2:]], axis=1),
            yaw=table.yaw - pose[:, 3],
            velocity=turn(table.velocity),
        )


class FrameFile:
    """A file of frames in the golden files' form, JSON or JSON Lines.

    JSON: {"configs": {NAME: …}, "frames": [{"gt": [box, …], "est": [box, …]}, …]}, anything else is skipped. JSON Lines
    (.jsonl, .ndjson): one frame a line; a line {"configs": …} may come first. Both may be compressed (.gz).

    Args:
        path: The file.
        detections: A second file whose frames bring the detections ("est"), in the same order; None: they are in the
            first.
    """

    def __init__(self, path: Path, detections: Path | None = None) -> None:
        self.path = path
        self.detections = detections
        self.label_names: list[str] = []
        self._label_of: dict[str, int] = {}

    def configs(self) -> dict[str, Any]:
        """The configurations in the file, by name; empty without any."""
        found: Any = {}
        if _is_lines(self.path):
            _, first = next(JsonLines(self.path).values(), (0, {}))
            found = first.get("configs", {}) if isinstance(first, dict) else {}
        else:
            for key, value in JsonDocument(self.path).members("frames"):
                if key == "configs":
                    found = value
                    break
        if not isinstance(found, dict):
            raise DataError(
                f"'{self.path}': 'configs' is {type(found).__name__}; it must be an object of configurations"
            )
        return found

    def chunks(self, size: int) -> Iterator[FrameChunk]:
        """All frames, `size` at a time.

        Raises:
            DataError: there are no frames, or one is broken; the message names file, frame, box and value.
        """
        waiting: list[tuple[str, Frame]] = []
        count = boxes = 0
        tokens: set[Any] = set()
        for where, frame in progress(self._frames(), "scoring", None):
            token = frame.get("token")
            if token is not None:
                if token in tokens:
                    raise DataError(f"{where}: this token has come before; every frame is scored once")
                tokens.add(token)
            waiting.append((where, frame))
            count += 1
            boxes += len(frame["est"]) + len(frame["gt"])
            if len(waiting) == size or boxes > _MAX_BOXES:
                yield self._chunk(waiting)
                waiting, boxes = [], 0
        if waiting:
            yield self._chunk(waiting)
        if not count:
            raise DataError(f"'{self.path}' has no frames to score")

    def _frames(self) -> Iterator[tuple[str, Frame]]:
        """(where it stands, frame with "gt" and "est")."""
        if self.detections is None:
            for where, frame in _read_frames(self.path):
                yield where, _with_boxes(frame, where, ("gt", "est"))
            return
        pairs = zip_longest(_read_frames(self.path), _read_frames(self.detections))
        for index, (truth, found) in enumerate(pairs):
            if truth is None or found is None:
                short, long = (self.path, self.detections) if truth is None else (self.detections, self.path)
                raise DataError(
                    f"'{short}' ends after {index} frames, '{long}' goes on; both files must list the same frames "
                    "in the same order"
                )
            tokens = truth[1].get("token"), found[1].get("token")
            if tokens[0] != tokens[1]:
                raise DataError(
                    f"{truth[0]} and {found[0]} are not the same frame: tokens {shown(tokens[0])} and "
                    f"{shown(tokens[1])}; both files must list the same frames in the same order"
                )
            frame = _with_boxes(truth[1], truth[0], ("gt",))
            yield truth[0], {**frame, "est": _with_boxes(found[1], found[0], ("est",))["est"]}

    def _chunk(self, frames: list[tuple[str, Frame]]) -> FrameChunk:
        poses = np.array([_ego_pose(where, frame.get("ego2map")) for where, frame in frames])
        return FrameChunk(self._table(frames, "est"), self._table(frames, "gt"), len(frames), poses)

    def _table(self, frames: list[tuple[str, Frame]], key: str) -> ObjectTable:
        boxes: list[Box] = [box for _, frame in frames for box in frame[key]]
        counts = [len(frame[key]) for _, frame in frames]

        def locate(row: int) -> str:
            frame = int(np.searchsorted(np.cumsum(counts), row, side="right"))
            return f"{frames[frame][0]}, {key}[{row - sum(counts[:frame])}]"

        geometry = _column(boxes, _GEOMETRY, _geometry, locate)
        bad = np.flatnonzero(~(np.abs(geometry) <= _MAX_NUMBER).all(axis=1) | (geometry[:, 3:6] <= 0).any(axis=1))
        if bad.size:
            raise _bad_geometry(boxes[int(bad[0])], geometry[int(bad[0])], locate(int(bad[0])))
        count = len(boxes)
        return ObjectTable(
            frame=np.repeat(np.arange(len(frames), dtype=np.int64), counts),
            label=self._labels(boxes, locate),
            score=_scores(boxes, locate) if key == "est" else np.ones(count),
            center=geometry[:, :3],
            size=geometry[:, 3:6],
            yaw=geometry[:, 6],
            velocity=_velocities(boxes, locate),
            num_points=_point_counts(boxes, locate) if key == "gt" else np.full(count, UNKNOWN_NUM_POINTS, np.int64),
        )

    def _labels(self, boxes: list[Box], locate: Callable[[int], str]) -> NDArray[np.int64]:
        table = self._label_of
        try:
            return np.array([table[box["label"]] for box in boxes], np.int64)
        except (KeyError, TypeError):
            pass  # A new name, or something that is no name: one by one.
        for row, box in enumerate(boxes):
            name = box.get("label")
            if not isinstance(name, str):
                raise DataError(f"{locate(row)}: label is {shown(name)}; it must be the name of a class")
            if name not in table:
                try:
                    canonical_label(name)
                except DataError as error:
                    raise DataError(f"{locate(row)}: {error}") from error
                table[name] = len(self.label_names)
                self.label_names.append(name)
        return np.array([table[box["label"]] for box in boxes], np.int64)


def _is_lines(path: Path) -> bool:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix in _LINES


def _read_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    if _is_lines(path):
        index = 0
        for number, value in JsonLines(path).values():
            if number == 1 and isinstance(value, dict) and "configs" in value and not {"gt", "est"} & set(value):
                continue
            yield _named(f"'{path}' line {number} (frame {index})", value)
            index += 1
        return
    index = 0
    document = JsonDocument(path)
    for key, value in document.members("frames"):
        if key == "frames":
            yield _named(f"'{path}' frame {index}", value)
            index += 1
    if "frames" not in document.keys:
        lines = " It looks like JSON Lines: name it .jsonl." if {"gt", "est"} & set(document.keys) else ""
        raise DataError(f"'{path}' has no 'frames'; its keys are {printable(str(sorted(document.keys)))}.{lines}")


def _named(where: str, frame: Any) -> tuple[str, Frame]:
    if not isinstance(frame, dict):
        raise DataError(f"{where} is {type(frame).__name__}; a frame is an object with the lists 'gt' and 'est'")
    token = frame.get("token")
    if token is not None and not isinstance(token, (str, int)):
        raise DataError(f"{where}: token is {shown(token)}; it must be a string or a whole number")
    return (where if token is None else f"{where}, token {shown(token)}"), frame


def _ego_pose(where: str, pose: Any) -> list[float]:
    if pose is None:
        return [0.0] * len(_POSE)
    if not isinstance(pose, dict):
        raise DataError(f"{where}: ego2map is {type(pose).__name__}; it must be an object with x, y, z and yaw")
    values: list[float] = _column([pose], _POSE, _pose, lambda _: f"{where}, ego2map")[0].tolist()
    if not all(abs(value) <= _MAX_NUMBER for value in values):
        raise DataError(f"{where}: ego2map is {shown(pose)}; it needs finite numbers")
    return values


def _with_boxes(frame: Frame, where: str, keys: tuple[str, ...]) -> Frame:
    for key in keys:
        boxes = frame.get(key)
        if boxes is None:
            raise DataError(
                f"{where} has no '{key}': its {_KINDS[key]}s are missing. Give the list, empty if there are none; "
                "ground truth and detections must cover the same frames"
            )
        if not isinstance(boxes, list):
            raise DataError(f"{where}: '{key}' is {type(boxes).__name__}; it must be a list of boxes")
        for number, box in enumerate(boxes):
            if not isinstance(box, dict):
                raise DataError(f"{where}, {key}[{number}] is {type(box).__name__}; a box is an object")
    return frame


def _column(
    boxes: list[Box], names: tuple[str, ...], getter: Callable[[Box], Any], locate: Callable[[int], str]
) -> NDArray[np.float64]:
    """(N, len(names)) numbers of all boxes; null becomes NaN.

    Raises:
        DataError: a key is missing or its value is no number.
    """
    if not boxes:
        return np.zeros((0, len(names)))
    try:
        rows = [getter(box) for box in boxes] if len(names) > 1 else [(getter(box),) for box in boxes]
        # true would be 1, and an array of text has no numbers.
        if {float, int}.issuperset(map(type, chain.from_iterable(rows))):
            return np.array(rows, np.float64)
    except (KeyError, OverflowError):
        pass  # A key is missing, or an integer has no float: one by one.
    for row, box in enumerate(boxes):
        for name in names:
            if name not in box:
                raise DataError(f"{locate(row)} has no '{name}'; its keys are {printable(str(sorted(box)))}")
            value = box[name]
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise DataError(f"{locate(row)}: {name} is {shown(value)}; it must be a number")
    # What is left are nulls, and integers beyond 64 bits.
    return np.array(
        [
            [math.nan if box[name] is None else float(min(max(box[name], -1e300), 1e300)) for name in names]
            for box in boxes
        ]
    )


def _bad_geometry(box: Box, values: NDArray[np.float64], where: str) -> DataError:
    for name, value in zip(_GEOMETRY, values.tolist(), strict=True):
        if not abs(value) <= _MAX_NUMBER:
            return DataError(
                f"{where}: {name} is {shown(box[name])}; every box needs finite numbers. Leave the box out, or mend "
                "what computes it"
            )
        if name in _SIZES and value <= 0:
            return DataError(
                f"{where}: {name} is {value:g}; length, width and height must be above 0, in metres"
                + (" (is it the logarithm that the network gives?)" if value < 0 else "")
            )
    raise AssertionError(f"{where}: nothing is wrong with {box}")


def _scores(boxes: list[Box], locate: Callable[[int], str]) -> NDArray[np.float64]:
    scores = _column(boxes, ("score",), _score, locate)[:, 0]
    bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if bad.size:
        row = int(bad[0])
        raise DataError(
            f"{locate(row)}: score is {shown(boxes[row]['score'])}; it must lie in [0, 1], as a sigmoid gives it"
        )
    return scores


def _optional(
    boxes: list[Box], names: tuple[str, ...], getter: Callable[[Box], Any], locate: Callable[[int], str]
) -> NDArray[np.float64]:
    """Like `_column`; what is missing counts as null."""
    try:
        collections.deque(map(getter, boxes), maxlen=0)
    except KeyError:
        boxes = [{**dict.fromkeys(names), **box} for box in boxes]
    return _column(boxes, names, getter, locate)


def _velocities(boxes: list[Box], locate: Callable[[int], str]) -> NDArray[np.float64]:
    """(N, 2) m/s; NaN where it is unknown."""
    values = _optional(boxes, ("vx", "vy"), _velocity, locate)
    bad = np.flatnonzero((np.abs(values) > _MAX_NUMBER).any(axis=1))
    if bad.size:
        raise DataError(
            f"{locate(int(bad[0]))}: the velocity is infinite, or no velocity at all; use null where it is unknown"
        )
    return values


def _point_counts(boxes: list[Box], locate: Callable[[int], str]) -> NDArray[np.int64]:
    values = _optional(boxes, ("num_points",), _num_points, locate)[:, 0]
    unknown = np.isnan(values)
    bad = np.flatnonzero(~unknown & ((values < 0) | (values != np.floor(values))))
    if bad.size:
        row = int(bad[0])
        raise DataError(
            f"{locate(row)}: num_points is {shown(boxes[row]['num_points'])}; it must be a whole number, 0 or more"
        )
    return np.where(unknown, UNKNOWN_NUM_POINTS, np.where(unknown, 0, values)).astype(np.int64)
