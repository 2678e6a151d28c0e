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
from eval.metrics import FrameResult
from eval.score_stream import JsonLines

__all__ = ["DETECTIONS", "MANIFEST_KIND", "read_detections", "write_detections"]

DETECTIONS = "detections.jsonl"
"""Name of the file in a folder of one detector's detections."""
MANIFEST_KIND = "detections"
"""Kind of the manifest that lies beside it there."""
_COLUMNS = ("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy")


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
    for number, value in JsonLines(Path(path)).values():
        where = f"'{path}' line {number}"
        if not isinstance(value, dict) or not {"token", "est", "gt"} <= set(value):
            raise DataError(f"{where} is no frame: it needs 'token', 'est' and 'gt'")
        detections, truth = (_boxes(value[key], label_of, f"{where}, {key}") for key in ("est", "gt"))
        frames.append(FrameResult(str(value["token"]), detections, truth))
    if not frames:
        raise DataError(f"'{path}' holds no frames")
    return tuple(frames)


def _boxes(rows: list[dict[str, Any]], label_of: dict[str, int], where: str) -> Boxes3D:
    try:
        values = [[math.nan if row[name] is None else float(row[name]) for name in _COLUMNS] for row in rows]
        labels = [label_of[row["label"]] for row in rows]
        scores = [float(row.get("score", 1.0)) for row in rows]
        points = [int(row["num_points"]) for row in rows if "num_points" in row]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: a box is not as this program writes it ({type(error).__name__}: {error}); the classes are "
            f"{', '.join(label_of)}"
        ) from error
    return Boxes3D(
        np.array(values, np.float32).reshape(-1, len(_COLUMNS)),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        np.array(points, np.int64) if points and len(points) == len(rows) else None,
    )
