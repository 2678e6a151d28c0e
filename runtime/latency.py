"""Latency over many frames: warm-up left out, then count, mean and percentiles for each stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["TOTAL", "LatencyRecorder", "LatencyStats"]

TOTAL = "total"


@dataclass(frozen=True)
class LatencyStats:
    """Summary of one stage, milliseconds. Percentiles interpolate linearly between the sorted samples; `std` is that of
    the samples (n − 1), 0 for a single one."""

    count: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def from_samples(cls, samples_ms: Sequence[float]) -> LatencyStats:
        """Summary of at least one sample.

        Raises:
            ValueError: there is none: a latency of nothing would read as a latency of zero.
        """
        if len(samples_ms) == 0:
            raise ValueError("No latency samples: every frame was warm-up, or none was run.")
        samples = np.asarray(samples_ms, np.float64)
        p50, p90, p95, p99 = (float(v) for v in np.percentile(samples, (50, 90, 95, 99)))
        std = float(samples.std(ddof=1)) if len(samples) > 1 else 0.0
        return cls(
            len(samples), float(samples.mean()), std, float(samples.min()), p50, p90, p95, p99, float(samples.max())
        )

    @property
    def frames_per_second(self) -> float:
        """Throughput of frames run one after the other: 1000 / mean."""
        return 1000.0 / self.mean

    def to_dict(self) -> dict[str, float]:
        """Plain numbers for JSON, by field name."""
        return dataclasses.asdict(self)


class LatencyRecorder:
    """Collects the stage times of each frame; the first `warmup` frames are run but not counted."""

    def __init__(self, warmup: int = 0) -> None:
        if warmup < 0:
            raise ValueError(f"warmup must be 0 or more frames, got {warmup}")
        self._warmup = warmup
        self._frames = 0
        self._samples: dict[str, list[float]] = {}

    def add(self, stages_ms: Mapping[str, float], total_ms: float | None = None) -> None:
        """Adds one frame.

        Args:
            stages_ms: Stage -> milliseconds, in the order in which they ran.
            total_ms: Wall time of the frame; the sum of the stages where None.
        """
        self._frames += 1
        if self._frames <= self._warmup:
            return
        total = sum(stages_ms.values()) if total_ms is None else total_ms
        for stage, value in (*stages_ms.items(), (TOTAL, total)):
            self._samples.setdefault(stage, []).append(float(value))

    def samples_ms(self, stage: str = TOTAL) -> tuple[float, ...]:
        """The counted samples of a stage in order of the frames."""
        return tuple(self._samples.get(stage, ()))

    def summary(self) -> dict[str, LatencyStats]:
        """Stage -> summary, `TOTAL` last; empty where no frame was counted."""
        ordered = [stage for stage in self._samples if stage != TOTAL]
        if TOTAL in self._samples:
            ordered.append(TOTAL)
        return {stage: LatencyStats.from_samples(self._samples[stage]) for stage in ordered}
