"""Speed of the detection metrics: `python -m benchmarks.metrics [--frames 100 1000 10000] [--out FILE]`.

The load is AWML's: 60 detections and 60 ground truths a frame, BEV centre distance at four thresholds and plane
distance at two, one range. perception_eval 1.3.6 scores 0.34 such frames a second on one core.
"""

from __future__ import annotations

import argparse
import logging
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import user_path, write_json
from base.tables import text_table
from benchmarks.scenes import CLASS_NAMES, make_frames
from eval.machine import MachineInfo
from eval.metrics import (
    CENTER_DISTANCE,
    CENTER_DISTANCE_BEV,
    IOU_3D,
    IOU_BEV,
    PERCEPTION_EVAL,
    PLANE_DISTANCE,
    DetectionScorer,
    MatchingMode,
    MatchingRules,
    ObjectLimits,
    ObjectTable,
)
from eval.metrics.nuscenes import NuScenesScorer

__all__ = ["Measurement", "main", "measure"]

REFERENCE_FRAMES_PER_S = {"awml": 0.34, "all_modes": 0.135, "nuscenes": 9.4}
"""Of perception_eval 1.3.6 (its manager) and nuscenes-devkit 1.1.9 on the same load, one core."""

_BOXES_PER_FRAME = 60
_FRAMES_AT_ONCE = 128
_DISTANCES = (0.5, 1.0, 2.0, 4.0)
_OVERLAPS = (0.3, 0.5, 0.7)

Modes = dict[str, tuple[MatchingMode, tuple[float, ...]]]
_AWML: Modes = {"bev": (CENTER_DISTANCE_BEV, _DISTANCES), "plane": (PLANE_DISTANCE, (2.0, 4.0))}
_ALL: Modes = {
    "bev": (CENTER_DISTANCE_BEV, _DISTANCES),
    "center": (CENTER_DISTANCE, _DISTANCES),
    "plane": (PLANE_DISTANCE, _DISTANCES),
    "iou_bev": (IOU_BEV, _OVERLAPS),
    "iou_3d": (IOU_3D, _OVERLAPS),
}
_TOTAL = {"total": (0.0, 121.0)}
_RANGES = _TOTAL | {"0-50 m": (0.0, 50.0), "50-90 m": (50.0, 90.0), "90-121 m": (90.0, 121.0)}

Scorer = DetectionScorer | NuScenesScorer


@dataclass(frozen=True)
class Measurement:
    """One load at one size.

    Attributes:
        load: What was scored.
        frames: How many frames.
        seconds: Time from the boxes in memory to the metrics, the least of the repetitions.
        cpu_seconds: Processor time of that, which other work on the machine lengthens less.
        frames_per_s: Frames by `seconds`.
        times_reference: That relative to `REFERENCE_FRAMES_PER_S`; NaN without one.
        peak_memory_mb: Of the process so far; the frames are made chunk by chunk and not kept.
    """

    load: str
    frames: int
    seconds: float
    cpu_seconds: float
    frames_per_s: float
    times_reference: float
    peak_memory_mb: float


def _detection_scorers(modes: Modes, ranges: dict[str, tuple[float, float]]) -> list[Scorer]:
    limits = {name: ObjectLimits(low, high, min_num_points=0.0) for name, (low, high) in ranges.items()}
    return [
        DetectionScorer(CLASS_NAMES, [thresholds] * len(CLASS_NAMES), limits, MatchingRules(mode, PERCEPTION_EVAL))
        for mode, thresholds in modes.values()
    ]


LOADS: dict[str, Callable[[], list[Scorer]]] = {
    "awml": lambda: _detection_scorers(_AWML, _TOTAL),
    "awml, four ranges": lambda: _detection_scorers(_AWML, _RANGES),
    "all_modes": lambda: _detection_scorers(_ALL, _TOTAL),
    "nuscenes": lambda: [NuScenesScorer(CLASS_NAMES, filtered=True)],
}
"""Name -> makes the scorers: AWML's configuration in one range and in all, five modes with 18 thresholds, nuScenes."""


def measure(load: str, num_frames: int, *, repetitions: int = 1) -> Measurement:
    """Times the scoring alone; making the frames is not counted.

    Args:
        load: One of `LOADS`.
        num_frames: Frames.
        repetitions: The fastest counts.
    """
    best = cpu = math.inf
    for _ in range(repetitions):
        scorers = LOADS[load]()
        spent = spent_cpu = 0.0
        for start in range(0, num_frames, _FRAMES_AT_ONCE):
            count = min(_FRAMES_AT_ONCE, num_frames - start)
            estimates, truth = make_frames(count, _BOXES_PER_FRAME, seed=start)
            began, began_cpu = time.perf_counter(), time.process_time()
            _add(scorers, estimates, truth, count)
            spent, spent_cpu = spent + time.perf_counter() - began, spent_cpu + time.process_time() - began_cpu
        began, began_cpu = time.perf_counter(), time.process_time()
        for scorer in scorers:
            scorer.result()
        best = min(best, spent + time.perf_counter() - began)
        cpu = min(cpu, spent_cpu + time.process_time() - began_cpu)
    speed = num_frames / best
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = speed / REFERENCE_FRAMES_PER_S.get(load, math.nan)
    return Measurement(load, num_frames, best, cpu, speed, times, memory)


def _add(scorers: Sequence[Scorer], estimates: ObjectTable, truth: ObjectTable, num_frames: int) -> None:
    for scorer in scorers:
        scorer.add(estimates, truth, num_frames)


def growth_exponent(measurements: Sequence[Measurement]) -> float:
    """Slope of log processor time over log frames: 1 is linear; NaN with fewer than two sizes."""
    if len({item.frames for item in measurements}) < 2:
        return math.nan
    frames = np.log([item.frames for item in measurements])
    return float(np.polyfit(frames, np.log([item.cpu_seconds for item in measurements]), 1)[0])


def table(measurements: Sequence[Measurement]) -> str:
    """The measurements as text."""
    header = ("load", "frames", "seconds", "CPU s", "frames/s", "× reference", "peak MB")
    cells = [
        (
            item.load,
            f"{item.frames:,}",
            f"{item.seconds:.3f}",
            f"{item.cpu_seconds:.3f}",
            f"{item.frames_per_s:,.0f}",
            "–" if math.isnan(item.times_reference) else f"{item.times_reference:,.0f}",
            f"{item.peak_memory_mb:.0f}",
        )
        for item in measurements
    ]
    rows = [text_table(header, cells, right=range(1, len(header)))]
    for load in dict.fromkeys(item.load for item in measurements):
        exponent = growth_exponent([item for item in measurements if item.load == load])
        if not math.isnan(exponent):
            rows.append(f"time of '{load}' grows with frames to the power {exponent:.2f}")
    return "\n".join(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="metrics", description="Measure how fast detection metrics are computed.")
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[100, 1000, 10000], metavar="N", help="sizes to measure"
    )
    parser.add_argument("--loads", nargs="+", choices=tuple(LOADS), default=list(LOADS), help="what to score")
    parser.add_argument("--repetitions", type=int, default=1, help="the fastest counts (default %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the measurements as JSON")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _measure_all(args), args.log_level)


def _measure_all(args: argparse.Namespace) -> None:
    if min(*args.frames, args.repetitions, 1) < 1:
        raise ConfigError("--frames and --repetitions must be 1 or more")
    measured = []
    for load in args.loads:
        for frames in sorted(set(args.frames)):
            measured.append(measure(load, frames, repetitions=args.repetitions))
            logging.getLogger(__name__).info("%s, %d frames: %.2f s", load, frames, measured[-1].seconds)
    print(table(measured))  # noqa: T201 - what the command is for
    if args.out:
        rows = [{key: None if value != value else value for key, value in asdict(item).items()} for item in measured]
        write_json(user_path(args.out), {"machine": asdict(MachineInfo.current()), "measurements": rows})


if __name__ == "__main__":
    run_main(main)
