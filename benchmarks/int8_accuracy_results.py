"""Results of `benchmarks.int8_accuracy`: kept per variant, compared with FP16, written as JSON and as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from base.boxes import Boxes3D
from base.files import atomic_path, write_json
from benchmarks.int8_accuracy_variants import FP16
from eval.metrics import TOTAL, DetectionMetrics, FrameResult, evaluate_detections
from eval.statistics import BootstrapComparison, Difference, paired_bootstrap

__all__ = ["DEFAULT_RANGES_M", "StoredRun", "write_results"]

DEFAULT_RANGES_M = ((0.0, 20.0), (20.0, 35.0), (35.0, 51.0))
# Matching threshold at which the best confidence is looked up.
_F1_THRESHOLD_M = 0.5
_GOAL_MAP, _GOAL_CELL = 0.1, -0.5


class StoredRun:
    """Ground truth and detections of a run in its folder; a variant's file is whole or absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, method: str) -> bool:
        """Whether a variant is done."""
        return self._path(method).is_file()

    def save_frames(self, frames: Sequence[FrameResult], scenes: Sequence[str]) -> None:
        """Keeps tokens, scenes and ground truth."""
        truth = [frame.ground_truth for frame in frames]
        points = [t.num_points if t.num_points is not None else np.zeros(len(t), np.int64) for t in truth]
        with atomic_path(self._folder / "frames.npz") as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                tokens=np.array([frame.token for frame in frames]),
                scenes=np.array(scenes),
                points=np.concatenate(points),
                **_columns(truth),
            )

    def save_detections(self, method: str, detections: Sequence[Boxes3D]) -> None:
        """Keeps a variant's detections, one entry per frame."""
        with atomic_path(self._path(method)) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **_columns(detections))

    def frames(self, method: str) -> list[FrameResult]:
        """A variant's detections beside the ground truth."""
        with np.load(self._folder / "frames.npz") as stored:
            tokens = [str(token) for token in stored["tokens"]]
            truth = _boxes(stored, stored["points"])
        with np.load(self._path(method)) as stored:
            detections = _boxes(stored, None)
        return [FrameResult(*item) for item in zip(tokens, detections, truth, strict=True)]

    def scenes(self) -> list[str]:
        """Scene of each frame."""
        with np.load(self._folder / "frames.npz") as stored:
            return [str(scene) for scene in stored["scenes"]]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder

    def _path(self, method: str) -> Path:
        return self._folder / "detections" / f"{method}.npz"


def write_results(run: StoredRun, methods: Sequence[str], class_names: Sequence[str], resamples: int) -> str:
    """Compares every variant with FP16 and writes `results.json` and `results.md`; returns the tables.

    Intervals are over scenes, since frames of one scene resemble each other.
    """
    scenes = run.scenes()
    baseline = run.frames(FP16)
    base = evaluate_detections(baseline, class_names, ranges_m=DEFAULT_RANGES_M)
    rows: list[dict[str, Any]] = [{"method": FP16, **_absolute(base)}]
    for method in methods:
        if method == FP16:
            continue
        frames = run.frames(method)
        metrics = evaluate_detections(frames, class_names, ranges_m=DEFAULT_RANGES_M)
        comparison = paired_bootstrap(
            baseline,
            frames,
            class_names,
            ranges_m=DEFAULT_RANGES_M,
            groups=scenes,
            num_resamples=resamples,
            label_a=FP16,
            label_b=method,
        )
        rows.append({"method": method, **_absolute(metrics), **_against(comparison, base, metrics)})
    summary = {"frames": len(scenes), "scenes": len(set(scenes)), "resamples": resamples, "variants": rows}
    write_json(run.folder / "results.json", summary)
    tables = _tables(rows, class_names)
    with atomic_path(run.folder / "results.md") as temporary:
        temporary.write_text(tables, encoding="utf-8")
    return tables


def _absolute(metrics: DetectionMetrics) -> dict[str, Any]:
    """AP in points, by range and class; best-F1 confidence by class."""
    return {
        "map": {part.name: _points(part.mean_ap) for part in metrics.ranges},
        "ap": {part.name: {c.class_name: _points(c.mean_ap) for c in part.classes} for part in metrics.ranges},
        "best_score": {c.class_name: _number(c.at(_F1_THRESHOLD_M).best_score) for c in metrics.total.classes},
    }


def _against(comparison: BootstrapComparison, base: DetectionMetrics, metrics: DetectionMetrics) -> dict[str, Any]:
    cells = [item for item in comparison.differences if item.class_name is not None and item.range_name != TOTAL]
    known = [item for item in cells if not math.isnan(item.difference)]
    worst = min(known, key=lambda item: item.difference, default=None)
    shifts = {
        a.class_name: b.at(_F1_THRESHOLD_M).best_score - a.at(_F1_THRESHOLD_M).best_score
        for a, b in zip(base.total.classes, metrics.total.classes, strict=True)
    }
    means = {item.range_name: _difference(item) for item in comparison.differences if item.class_name is None}
    goal = all(abs(part["difference"]) < _GOAL_MAP for part in means.values() if part["difference"] is not None)
    return {
        "difference": means,
        "difference_by_class": {
            item.class_name: _difference(item)
            for item in comparison.differences
            if item.class_name and item.range_name == TOTAL
        },
        "worst_cell": None
        if worst is None
        else {"class": worst.class_name, "range": worst.range_name, **_difference(worst)},
        "best_score_shift": {name: _number(value) for name, value in shifts.items()},
        "goal_met": bool(goal and worst is not None and 100 * worst.difference > _GOAL_CELL),
    }


def _difference(item: Difference) -> dict[str, Any]:
    return {
        "difference": _points(item.difference),
        "low": _points(item.low),
        "high": _points(item.high),
        "verdict": item.verdict,
    }


def _tables(rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> str:
    ranges = list(rows[0]["map"])
    lines = [
        "AP in points (mean over 0.5, 1, 2 and 4 m); Δ against FP16 with 95 % intervals.",
        "",
        _row(["", *(f"{name}" for name in ranges)]),
        _row(["---"] * (len(ranges) + 1)),
    ]
    lines += [_row([row["method"], *(_value(row["map"][name]) for name in ranges)]) for row in rows]
    compared = rows[1:]
    names = [*(f"Δ {name}" for name in ranges), "worst class × range", "goal"]
    lines += ["", _row(["", *names]), _row(["---"] * (len(names) + 1))]
    lines += [
        _row(
            [
                row["method"],
                *(_interval(row["difference"][name]) for name in ranges),
                _cell(row["worst_cell"]),
                "met" if row["goal_met"] else "missed",
            ]
        )
        for row in compared
    ]
    lines += ["", _row(["Δ AP", *class_names]), _row(["---"] * (len(class_names) + 1))]
    lines += [
        _row([row["method"], *(_interval(row["difference_by_class"][name]) for name in class_names)])
        for row in compared
    ]
    lines += [
        "",
        f"Confidence of the best F1 at {_F1_THRESHOLD_M:g} m, and its shift against FP16.",
        "",
        _row(["", *class_names]),
        _row(["---"] * (len(class_names) + 1)),
        _row([FP16, *(_value(rows[0]["best_score"][name], 3) for name in class_names)]),
    ]
    lines += [
        _row([row["method"], *(_signed(row["best_score_shift"][name], 3) for name in class_names)]) for row in compared
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _interval(item: dict[str, Any]) -> str:
    if item["difference"] is None:
        return "–"
    text = _signed(item["difference"])
    return text if item["low"] is None else f"{text} [{_signed(item['low'])}, {_signed(item['high'])}]"


def _cell(item: dict[str, Any] | None) -> str:
    return "–" if item is None else f"{_signed(item['difference'])} ({item['class']}, {item['range']})"


def _value(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:+.{digits}f}"


def _points(value: float) -> float | None:
    return None if math.isnan(value) else round(100.0 * value, 4)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)


def _columns(frames: Sequence[Boxes3D]) -> dict[str, Any]:
    return {
        "counts": np.array([len(boxes) for boxes in frames], np.int64),
        "boxes": np.concatenate([boxes.boxes for boxes in frames]),
        "scores": np.concatenate([boxes.scores for boxes in frames]),
        "labels": np.concatenate([boxes.labels for boxes in frames]),
    }


def _boxes(stored: Any, points: Any) -> list[Boxes3D]:
    ends = np.cumsum(stored["counts"])[:-1]
    parts = [np.split(stored[name], ends) for name in ("boxes", "scores", "labels")]
    counts = np.split(points, ends) if points is not None else [None] * len(parts[0])
    return [Boxes3D(*columns) for columns in zip(*parts, counts, strict=True)]
