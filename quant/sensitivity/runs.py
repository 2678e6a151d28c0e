"""All runs of the network over one frame, and over all frames."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from base.progress import progress
from eval.metrics import FrameResult, default_ranges
from eval.statistics import paired_bootstrap
from quant.calibration.processes import in_processes
from quant.sensitivity.profile import Effect
from runtime.decode import decode

if TYPE_CHECKING:
    from torch import Tensor

    from models.spec import ModelSpec
    from quant.sensitivity.frames import SensitivityFrame

__all__ = [
    "FrameRecord",
    "FrameRun",
    "Run",
    "clock",
    "over_frames",
    "run_of",
    "score",
    "scored_frame",
    "scoring_groups",
]

MIN_GROUPS = 10
"""Fewest scenes that the bootstrap draws; with fewer it draws frames."""

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class FrameRun:
    """One run of the network over one frame.

    Attributes:
        detections: Decoded boxes.
        noise: For each output, the sum of (y - x)²; y is the output in floating point.
    """

    detections: Boxes3D
    noise: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """What one frame gave; small, so that all frames' are kept.

    Attributes:
        token, scene, ground_truth: Of the frame.
        signal: For each output in floating point, the sum of y².
        runs: In an order that is the same for every frame.
        seconds: Work of each part of the runs, by name.
        macs: Of one run of the network, of all runs, of each unit's layers.
    """

    token: str
    scene: str
    ground_truth: Boxes3D
    signal: tuple[float, ...]
    runs: tuple[FrameRun, ...]
    seconds: dict[str, float]
    macs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """One setting of the quantizers over all frames.

    Attributes:
        results: Detections of every frame.
        sqnr_db: Output -> signal to quantization noise over all frames.
    """

    results: tuple[FrameResult, ...]
    sqnr_db: dict[str, float]


def scored_frame(outputs: Sequence[Tensor], reference: Sequence[Tensor], spec: ModelSpec) -> FrameRun:
    """Decodes the outputs of a run and compares them with those in floating point."""
    # The same tensor: this output does not depend on what was switched.
    noise = tuple(
        0.0 if value is plain else float((value.double() - plain.double()).square().sum())
        for value, plain in zip(outputs, reference, strict=True)
    )
    names = [head.name for head in spec.heads]
    arrays = {name: value.float().cpu().numpy() for name, value in zip(names, outputs, strict=True)}
    return FrameRun(decode(arrays, spec), noise)


def run_of(records: Sequence[FrameRecord], index: int, spec: ModelSpec) -> Run:
    """The run of one index over all frames."""
    results = tuple(FrameResult(r.token, r.runs[index].detections, r.ground_truth) for r in records)
    sqnr = {}
    for column, head in enumerate(spec.heads):
        signal = sum(record.signal[column] for record in records)
        sqnr[head.name] = _decibel(signal, sum(record.runs[index].noise[column] for record in records))
    return Run(results, sqnr)


def score(baseline: Run, run: Run, spec: ModelSpec, groups: Sequence[str] | None, **settings: Any) -> Effect:
    """SQNR and mAP of a run, and its difference to another with its interval.

    Args:
        baseline: What it is compared with.
        run: The same frames.
        spec: Of the model.
        groups: Scene of each frame, where scenes are drawn.
        **settings: Of `eval.statistics.paired_bootstrap`.
    """
    reach = max(abs(spec.point_cloud_range[axis]) for axis in (0, 1, 3, 4))
    outermost = max(high for _, high in default_ranges(reach))
    compared = paired_bootstrap(
        baseline.results, run.results, spec.class_names, ranges_m=((0.0, outermost),), groups=groups, **settings
    ).total
    return Effect(run.sqnr_db, compared.b, compared.difference, compared.low, compared.high, compared.verdict)


def scoring_groups(scenes: Sequence[str]) -> list[str] | None:
    """The scenes, where there are enough of them to be drawn; else None: frames are drawn."""
    return list(scenes) if all(scenes) and len(set(scenes)) >= MIN_GROUPS else None


def over_frames(
    frames: Iterable[SensitivityFrame],
    work: Callable[[Iterator[SensitivityFrame]], Iterator[R]],
    *,
    label: str,
    workers: int | None,
    on_cpu: bool,
    show_progress: bool,
) -> list[R]:
    """`work` over all frames, one result a frame, in the order of the frames.

    Every process computes with one thread, so that neither their number nor the machine changes a bit.

    Args:
        frames: A sequence, or any iterable, which one process goes through.
        work: Called once in each process with its share of the frames.
        label: Of the progress bar.
        workers: Processes; None: one a processor on a CPU.
        on_cpu: Whether the model lies there.
        show_progress: Whether to show a progress bar.

    Raises:
        DataError: no frames.
        ConfigError: several processes were asked for and cannot share the frames.
    """
    sequence = frames if isinstance(frames, Sequence) else None
    shareable = on_cpu and sequence is not None
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if shareable else 1
    if workers < 1 or (workers > 1 and not shareable):
        raise ConfigError(f"workers is {workers}; several processes need a model on the CPU and a sequence of frames.")
    total = None if sequence is None else len(sequence)

    def share(part: tuple[int, int]) -> Iterator[tuple[int, R]]:
        first, step = part
        own = itertools.count(first, step)
        chosen = iter(frames) if sequence is None else (sequence[index] for index in range(first, len(sequence), step))
        return zip(own, work(chosen), strict=False)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        workers = min(workers, max(total or 1, 1))
        found = share((0, 1)) if workers == 1 else in_processes(share, [(first, workers) for first in range(workers)])
        results = dict(progress(found, label, total) if show_progress else found)
    finally:
        torch.set_num_threads(threads)
    if not results:
        raise DataError(f"The {label} was given no frames.")
    return [results[index] for index in sorted(results)]


def clock() -> float:
    """Seconds of work: the process's on a CPU; on a machine with a CUDA device, of the wall."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf
