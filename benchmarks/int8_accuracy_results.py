"""Results of `benchmarks.int8_accuracy`: kept per variant, compared with FP16, written as JSON and as tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.files import atomic_path, read_json, write_json
from benchmarks.int8_accuracy_tables import F1_THRESHOLD_M, tables
from benchmarks.int8_accuracy_variants import FP16, file_name
from eval.metrics import TOTAL, DetectionMetrics, FrameResult
from eval.statistics import BootstrapComparison, Difference, Resampled, compare_resampled, resample
from quant.calibration.processes import in_processes

__all__ = ["DEFAULT_RANGES_M", "Drawn", "StoredRun", "write_results"]

DEFAULT_RANGES_M = ((0.0, 20.0), (20.0, 35.0), (35.0, 51.0))
_GOAL_MAP, _GOAL_CELL = 0.1, -0.5


class StoredRun:
    """Ground truth and detections of a run in its folder; a variant's file is whole or absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, method: str) -> bool:
        """Whether a variant is done."""
        return self._path(method).is_file()

    def variants(self) -> list[str]:
        """Those that are done, by name; of a name too long for a file its beginning and a hash."""
        return sorted(path.stem for path in (self._folder / "detections").glob("*.npz"))

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

    def save_detections(
        self, method: str, detections: Sequence[Boxes3D], network_ms: NDArray[np.float32] | None = None
    ) -> None:
        """Keeps a variant's detections, one entry per frame, and the network's time on each where it was taken."""
        times: dict[str, Any] = {} if network_ms is None else {"network_ms": network_ms}
        with atomic_path(self._path(method)) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **_columns(detections), **times)

    def network_ms(self, method: str) -> NDArray[np.float32] | None:
        """A variant's time of backbone, neck and head on each frame, where it was taken."""
        with np.load(self._path(method)) as stored:
            return np.asarray(stored["network_ms"]) if "network_ms" in stored else None

    def save_refusals(self, reasons: Mapping[str, str]) -> None:
        """Keeps why variants do not run, beside those of before."""
        if reasons:
            write_json(self._folder / "refused.json", {**self.refusals(), **reasons})

    def refusals(self) -> dict[str, str]:
        """Variants that do not run -> the reason."""
        path = self._folder / "refused.json"
        return {str(name): str(why) for name, why in read_json(path).items()} if path.exists() else {}

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
        return self._folder / "detections" / f"{file_name(method)}.npz"


class Drawn:
    """Variants' AP on all frames and on many draws of them, each computed once, however often it is asked for."""

    def __init__(self, run: StoredRun, class_names: Sequence[str], resamples: int, workers: int | None = None) -> None:
        """Prepares.

        Args:
            run: Detections of the variants.
            class_names: Of the labels.
            resamples: Of the bootstrap, over scenes.
            workers: Processes that draw; None: one a processor.
        """
        self._run, self._class_names, self._resamples, self._workers = run, class_names, resamples, workers
        self._sides: dict[str, Resampled] = {}

    def of(self, names: Sequence[str]) -> dict[str, Resampled]:
        """Of each variant; those that are new are drawn side by side."""
        missing = [name for name in dict.fromkeys(names) if name not in self._sides]
        scenes = self._run.scenes() if missing else []

        def work(share: Sequence[str]) -> Iterator[tuple[str, Resampled]]:
            for name in share:
                yield (
                    name,
                    resample(
                        self._run.frames(name),
                        self._class_names,
                        ranges_m=DEFAULT_RANGES_M,
                        groups=scenes,
                        num_resamples=self._resamples,
                    ),
                )

        if missing:
            workers = min(self._workers or len(os.sched_getaffinity(0)), len(missing))
            shares = [missing[first::workers] for first in range(workers)]
            self._sides |= dict(work(missing) if workers == 1 else in_processes(work, shares))
        return {name: self._sides[name] for name in names}

    def points(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Rows as `results.json` has them of its variants, without differences."""
        sides = self.of(names)
        return [{"method": name, **_absolute(sides[name].metrics), **_times(self._run, name)} for name in names]


def write_results(
    run: StoredRun,
    methods: Sequence[str],
    class_names: Sequence[str],
    resamples: int,
    pairs: Sequence[tuple[str, str]] = (),
    workers: int | None = 1,
    drawn: Drawn | None = None,
) -> str:
    """Compares every variant with FP16 and writes `results.json` and `results.md`; returns the tables.

    Intervals are over scenes, since frames of one scene resemble each other.

    Args:
        run: Detections of every variant.
        methods: The variants, FP16 among them or not.
        class_names: Of the labels.
        resamples: Of the bootstrap.
        pairs: Variants to compare with each other, too.
        workers: Processes that draw; None: one a processor.
        drawn: What was drawn of this run already.
    """
    wanted = [(FP16, method) for method in methods if method != FP16] + list(pairs)
    scenes, names = run.scenes(), list(dict.fromkeys((FP16, *methods)))
    sides = (drawn or Drawn(run, class_names, resamples, workers)).of(names)
    compared = [_compared(sides[a], sides[b], a, b) for a, b in wanted]
    rows = [{"method": FP16, **_absolute(sides[FP16].metrics), **_times(run, FP16)}]
    rows += [
        {"method": wanted[index][1], **compared[index], **_times(run, wanted[index][1])}
        for index in range(len(wanted) - len(pairs))
    ]
    between = [
        {"method": f"{b} against {a}", **compared[index]}
        for index, (a, b) in enumerate(wanted)
        if index >= len(wanted) - len(pairs)
    ]
    summary = {
        "frames": len(scenes),
        "scenes": len(set(scenes)),
        "resamples": resamples,
        "variants": rows,
        "pairs": between,
    }
    if refused := run.refusals():
        summary["refused"] = refused
    write_json(run.folder / "results.json", summary)
    text = tables(rows, between, class_names)
    with atomic_path(run.folder / "results.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _compared(first: Resampled, second: Resampled, label_a: str, label_b: str) -> dict[str, Any]:
    """Of the second variant: its AP, and its differences from the first."""
    comparison = compare_resampled(first, second, label_a=label_a, label_b=label_b)
    return {**_absolute(second.metrics), **_against(comparison, first.metrics, second.metrics)}


def _times(run: StoredRun, method: str) -> dict[str, Any]:
    """The network's median and 90th percentile over the frames, in milliseconds, where times were taken."""
    values = run.network_ms(method)
    if values is None or not np.isfinite(values).all():
        return {}
    middle, high = np.percentile(values, (50, 90))
    return {"network_ms": {"median": round(float(middle), 4), "p90": round(float(high), 4)}}


def _absolute(metrics: DetectionMetrics) -> dict[str, Any]:
    """AP in points, by range and class; best-F1 confidence by class."""
    return {
        "map": {part.name: _points(part.mean_ap) for part in metrics.ranges},
        "ap": {part.name: {c.class_name: _points(c.mean_ap) for c in part.classes} for part in metrics.ranges},
        "best_score": {c.class_name: _number(c.at(F1_THRESHOLD_M).best_score) for c in metrics.total.classes},
    }


def _against(comparison: BootstrapComparison, base: DetectionMetrics, metrics: DetectionMetrics) -> dict[str, Any]:
    cells = [item for item in comparison.differences if item.class_name is not None and item.range_name != TOTAL]
    known = [item for item in cells if not math.isnan(item.difference)]
    worst = min(known, key=lambda item: item.difference, default=None)
    shifts = {
        a.class_name: b.at(F1_THRESHOLD_M).best_score - a.at(F1_THRESHOLD_M).best_score
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
        "cells": {
            part: {item.class_name: _difference(item) for item in cells if item.range_name == part}
            for part in dict.fromkeys(item.range_name for item in cells)
        },
        "cells_summary": _cells_summary(known),
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


def _cells_summary(cells: Sequence[Difference]) -> dict[str, Any]:
    """How many cells are worse than the goal, how many differ for sure, and what chance alone would do.

    `equal_model_misses` is the chance that a model whose true difference is 0 in every cell has one below the goal on
    so many frames: the cells' errors taken as normal and independent, each as wide as its interval says.
    """
    wide = [item for item in cells if not math.isnan(item.low)]
    normal = NormalDist()
    errors = [(item.high - item.low) / (2.0 * normal.inv_cdf(0.975)) for item in wide]
    within = math.prod(normal.cdf(-_GOAL_CELL / (100.0 * error)) if error > 0.0 else 1.0 for error in errors)
    return {
        "cells": len(cells),
        "worse_than_goal": int(sum(100.0 * item.difference < _GOAL_CELL for item in cells)),
        "surely_worse_than_goal": int(sum(100.0 * item.high < _GOAL_CELL for item in wide)),
        "surely_below_0": int(sum(item.verdict == "worse" for item in wide)),
        "surely_above_0": int(sum(item.verdict == "better" for item in wide)),
        "median_standard_error": _points(median(errors)) if errors else None,
        "equal_model_misses": round(1.0 - within, 4) if errors else None,
    }


def _points(value: float) -> float | None:
    return None if math.isnan(value) else round(100.0 * float(value), 4)


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
