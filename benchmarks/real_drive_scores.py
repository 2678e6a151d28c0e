"""What is told of a detector on a real drive: AP with intervals, headings, agreement with another precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.tables import markdown_table
from eval.box_comparison import BoxComparator, BoxTolerance, nearest_pairs
from eval.intervals import FEW_GROUPS
from eval.metrics import FrameResult
from eval.statistics import BootstrapComparison, Difference, paired_bootstrap

__all__ = ["agreement", "frames_in_view", "heading_errors", "intervals", "objects_to_find", "tables"]

RANGES_M = ((0.0, 50.0),)
_MATCH_M, _MIN_SCORE = 2.0, 0.3
_MOVED = BoxTolerance(min_score=_MIN_SCORE, max_center_m=0.1, search_radius_m=0.5)


def frames_in_view(frames: Sequence[FrameResult], half_angle_deg: float) -> list[FrameResult]:
    """Detections and ground truth within an angle of straight ahead: what a camera's labels cover."""
    return [
        FrameResult(
            frame.token,
            frame.detections.select(_seen(frame.detections, half_angle_deg)),
            frame.ground_truth.select(_seen(frame.ground_truth, half_angle_deg)),
        )
        for frame in frames
    ]


def objects_to_find(frames: Sequence[FrameResult], class_names: Sequence[str]) -> dict[str, int]:
    """Objects of each class within the range that is scored; of the classes that have some."""
    counts = dict.fromkeys(class_names, 0)
    for frame in frames:
        truth = frame.ground_truth
        distance = np.hypot(truth.boxes[:, 0], truth.boxes[:, 1])
        for label in truth.labels[(distance > RANGES_M[0][0]) & (distance < RANGES_M[-1][1])].tolist():
            counts[class_names[label]] += 1
    return {name: count for name, count in counts.items() if count}


def _seen(boxes: Boxes3D, half_angle_deg: float) -> NDArray[np.bool_]:
    angle = np.degrees(np.arctan2(boxes.boxes[:, 1], boxes.boxes[:, 0]))
    return np.asarray(np.abs(angle) < half_angle_deg)


def heading_errors(frames: Sequence[FrameResult], class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By class, and of all: matched objects, median error (rad), share beyond 90°.

    An object is matched with the nearest detection of its class with a score above 0.3 within 2 m.
    """
    errors: dict[str, list[float]] = {name: [] for name in (*class_names, "all")}
    for frame in frames:
        found, truth = frame.detections, frame.ground_truth
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            own = found.boxes[(found.labels == label) & (found.scores > _MIN_SCORE)]
            if label < 0 or not len(own):
                continue
            distance = np.hypot(own[:, 0] - box[0], own[:, 1] - box[1])
            if distance.min() < _MATCH_M:
                error = abs(math.remainder(float(own[distance.argmin(), 6] - box[6]), 2.0 * math.pi))
                errors[class_names[label]].append(error)
                errors["all"].append(error)
    return {
        name: {
            "matched": len(values),
            "median_rad": float(np.median(values)),
            "mean_rad": float(np.mean(values)),
            "beyond_90_deg": float(np.mean(np.array(values) > math.pi / 2)),
        }
        for name, values in errors.items()
        if values
    }


def intervals(
    base: Sequence[FrameResult] | None,
    frames: Sequence[FrameResult],
    class_names: Sequence[str],
    block: int,
    resamples: int,
) -> dict[str, Any]:
    """AP in points by class, or its difference from `base`, with 95 % intervals over blocks of consecutive frames.

    Args:
        base: To compare with; None: with no detections at all, which leaves the AP itself.
        frames: Of one drive, in its order.
        class_names: Of the labels.
        block: Frames that are drawn together, since neighbours resemble each other.
        resamples: Of the bootstrap.
    """
    if base is None:
        base = [FrameResult(frame.token, Boxes3D.empty(), frame.ground_truth) for frame in frames]
    comparison: BootstrapComparison = paired_bootstrap(
        base,
        frames,
        class_names,
        ranges_m=RANGES_M,
        groups=[str(index // block) for index in range(len(frames))],
        num_resamples=resamples,
        label_a="base",
        label_b="this",
    )
    return {name: _cell(comparison.of(name)) for name in objects_to_find(frames, class_names)}


def _cell(item: Difference) -> dict[str, float | None]:
    return {"value": _points(item.difference), "low": _points(item.low), "high": _points(item.high)}


def _points(value: float) -> float | None:
    return None if math.isnan(value) else round(100.0 * value, 2)


def agreement(base: Sequence[FrameResult], frames: Sequence[FrameResult]) -> dict[str, Any]:
    """Boxes of `frames` against those of `base` with a score of 0.3 on either side.

    Lost and gained have no partner of their class within 0.5 m; moved are more than 10 cm apart; the shift of the score
    is over all pairs.
    """
    comparator = BoxComparator(_MOVED)
    shifts: list[NDArray[np.float64]] = []
    turned = 0
    for first, second in zip(base, frames, strict=True):
        a, b = first.detections, second.detections
        comparator.add(a, b)
        pairs = nearest_pairs(a, b, _MOVED.search_radius_m)
        strong = (a.scores[pairs[:, 0]] >= _MIN_SCORE) | (b.scores[pairs[:, 1]] >= _MIN_SCORE)
        rows, columns = pairs[strong].T
        shifts.append(b.scores[columns].astype(np.float64) - a.scores[rows])
        apart = np.mod(b.boxes[columns, 6] - a.boxes[rows, 6] + np.pi, 2 * np.pi) - np.pi
        turned += int((np.abs(apart) > np.pi / 2).sum())
    result = comparator.result()
    shift = np.concatenate(shifts)
    return {
        "boxes": int(result.num_reference),
        "matched": int(result.matched),
        "moved": int(result.moved),
        "lost": int(result.lost),
        "gained": int(result.gained),
        "turned": turned,
        "mean_score_shift": float(shift.mean()) if len(shift) else None,
        "mean_abs_score_shift": float(np.abs(shift).mean()) if len(shift) else None,
    }


def tables(results: dict[str, Any]) -> str:
    """The results in Markdown.

    Args:
        results: Of the command: "variants" and "against", by name.
    """
    variants = results["variants"]
    classes = list(dict.fromkeys(name for row in variants.values() for name in row["ap"]))
    objects = ", ".join(f"{count} {name}" for name, count in results["objects"].items())
    lines = [
        f"AP in points (mean over 0.5, 1, 2 and 4 m), {results['frames']} frames, "
        f"{objects or 'no object in view: there is nothing to find, and no AP'}; 95 % intervals.",
        "",
    ]
    drawn = results["drawn"]
    if drawn < FEW_GROUPS and any(cell["low"] is not None for row in variants.values() for cell in row["ap"].values()):
        lines += [f"Intervals over {drawn} blocks of frames are too narrow; there should be {FEW_GROUPS}.", ""]
    head = ["", *classes, "headings matched", "median error", "beyond 90°"]
    lines += markdown_table(head, [[name, *_ap(row, classes), *_heading(row)] for name, row in variants.items()])
    if results["against"]:
        lines += ["", f"Δ AP against {results['base']}, paired.", ""]
        rows = [
            [name, *(_interval(row.get(kind), signed=True) for kind in classes)]
            for name, row in results["against"].items()
        ]
        lines += markdown_table(["", *classes], rows)
    for title, rows_of in results["agreement"].items():
        lines += ["", f"Boxes against {results['base']} on {title}.", ""]
        keys = ("boxes", "matched", "moved", "lost", "gained", "turned")
        body = [
            [
                name,
                *(str(row[key]) for key in keys),
                _signed(row["mean_score_shift"]),
                _signed(row["mean_abs_score_shift"]),
            ]
            for name, row in rows_of.items()
        ]
        lines += markdown_table(["", *keys, "score shift", "size of it"], body)
    return "\n".join(lines) + "\n"


def _ap(row: dict[str, Any], classes: Sequence[str]) -> list[str]:
    return [_interval(row["ap"].get(name)) for name in classes]


def _heading(row: dict[str, Any]) -> list[str]:
    heading = row["headings"].get("all")
    if heading is None:
        return ["0", "–", "–"]
    return [str(heading["matched"]), f"{heading['median_rad']:.2f} rad", f"{heading['beyond_90_deg']:.0%}"]


def _interval(item: dict[str, Any] | None, *, signed: bool = False) -> str:
    if item is None or item["value"] is None:
        return "–"
    form = "+.1f" if signed else ".1f"
    if item["low"] is None:
        return f"{item['value']:{form}}"
    return f"{item['value']:{form}} [{item['low']:{form}}, {item['high']:{form}}]"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"
