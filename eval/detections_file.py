"""Detections and ground truth of an evaluation as JSON Lines, in the form that `//eval:score` reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from base.boxes import Boxes3D
from base.errors import DataError
from base.files import atomic_path
from base.messages import printable, shown, shown_file
from eval.metrics import FrameResult
from eval.score_stream import JsonLines

__all__ = ["DETECTIONS", "DETECTIONS_MARK", "MANIFEST_KIND", "read_detections", "write_detections"]

DETECTIONS = "detections.jsonl"
"""Name of the file in a folder of one detector's detections."""
DETECTIONS_MARK = rb'\A\{"token":"'
"""What is found in every such file (`base.keeping.require_ours`)."""
MANIFEST_KIND = "detections"
"""Kind of the manifest that lies beside it there."""
_MAX_NUMBER = 1e9
_MAX_COUNT = 2**31 - 1
_COLUMNS = ("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy")
_SIZES, _MAY_BE_UNKNOWN = frozenset("lwh"), frozenset(("vx", "vy"))


def write_detections(frames: Sequence[FrameResult], class_names: Sequence[str], path: str | Path) -> None:
    """Writes a frame a line, every number as it is: equal frames give equal bytes.

    Args:
        frames: To write.
        class_names: Names of the labels.
        path: Where to, ending in ".jsonl".
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for frame in frames:
            value = {
                "token": frame.token,
                "est": _rows(frame.detections, class_names, scored=True),
                "gt": _rows(frame.ground_truth, class_names, scored=False),
            }
            file.write(json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n")


def _rows(boxes: Boxes3D, class_names: Sequence[str], *, scored: bool) -> list[dict[str, Any]]:
    rows = []
    for index, values in enumerate(boxes.boxes.tolist()):
        # An unknown velocity is null.
        row: dict[str, Any] = {"label": class_names[int(boxes.labels[index])]}
        row |= {name: None if math.isnan(value) else value for name, value in zip(_COLUMNS, values, strict=True)}
        if scored:
            row["score"] = float(boxes.scores[index])
        elif boxes.num_points is not None:
            row["num_points"] = int(boxes.num_points[index])
        rows.append(row)
    return rows


def read_detections(path: str | Path, class_names: Sequence[str]) -> tuple[FrameResult, ...]:
    """Reads what `write_detections` wrote.

    Args:
        path: The file.
        class_names: Names of the labels, in order.

    Raises:
        DataError: the file is missing, broken, or holds a class that is not among the names.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    frames = []
    tokens: set[str] = set()
    for number, value in JsonLines(Path(path)).values():
        where = f"{shown_file(path)} line {number}"
        if not isinstance(value, dict) or not {"token", "est", "gt"} <= set(value):
            raise DataError(f"{where} is no frame: it needs 'token', 'est' and 'gt'")
        if not isinstance(value["token"], str | int):
            raise DataError(f"{where}: token is {shown(value['token'])}; it must be a string")
        if str(value["token"]) in tokens:
            raise DataError(f"{where}: token {shown(value['token'])} has come before; every frame is scored once")
        tokens.add(str(value["token"]))
        detections, truth = (_boxes(value[key], label_of, f"{where}, {key}") for key in ("est", "gt"))
        frames.append(FrameResult(str(value["token"]), detections, truth))
    if not frames:
        raise DataError(f"'{path}' holds no frames")
    return tuple(frames)


def _boxes(rows: Any, label_of: dict[str, int], where: str) -> Boxes3D:
    try:
        values = [[_number(name, row[name]) for name in _COLUMNS] for row in rows]
        labels = [label_of[row["label"]] for row in rows]
        scores = [row.get("score", 1.0) for row in rows]
        points = [row["num_points"] for row in rows if "num_points" in row]
        _check_scores(scores, points)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: a box is not as this program writes it ({type(error).__name__}: {printable(str(error))}); the "
            f"classes are {', '.join(label_of)}"
        ) from error
    return Boxes3D(
        np.array(values, np.float32).reshape(-1, len(_COLUMNS)),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        np.array(points, np.int64) if points and len(points) == len(rows) else None,
    )


def _number(name: str, value: Any) -> float:
    """Text is no number, true is none, and what float32 cannot hold is no measurement; a velocity may be unknown."""
    if value is None and name in _MAY_BE_UNKNOWN:
        return math.nan
    if not _is_number(value):
        raise ValueError(f"{name}: {shown(value)} is no number of a box")
    if name in _SIZES and value < 0:
        raise ValueError(f"{name}: {shown(value)} is no size of a box")
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _MAX_NUMBER  # NaN is not


def _check_scores(scores: Sequence[Any], counts: Sequence[Any]) -> None:
    for score in scores:
        if not _is_number(score):
            raise ValueError(f"score: {shown(score)} is no number of a box")
    for count in counts:
        if type(count) is not int or not 0 <= count <= _MAX_COUNT:
            raise ValueError(f"{shown(count)} is no number of points")
