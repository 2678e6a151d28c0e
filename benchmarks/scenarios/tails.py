"""The tail of a stream of frames: percentiles, and what each slow frame met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.scenarios.watch import Faults

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.scenarios.watch import GpuSample, Watch

__all__ = ["FrameLog", "SlowFrame", "Tail"]

SLOW = 1.25
"""A frame that takes so many times the median is slow."""
_SHOWN = 20


@dataclass(frozen=True)
class Tail:
    """Milliseconds; percentiles interpolate between sorted samples.

    Attributes:
        frames: How many.
        p999_over_p50: The promise: how much longer than usual one frame of a thousand takes.
    """

    frames: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    p999_over_p50: float

    @classmethod
    def of(cls, samples_ms: Sequence[float] | NDArray[np.float64]) -> Tail:
        """Of at least one sample."""
        samples = np.asarray(samples_ms, np.float64)
        p50, p99, p999 = (float(value) for value in np.percentile(samples, (50, 99, 99.9)))
        return cls(len(samples), float(samples.mean()), p50, p99, p999, float(samples.max()), p999 / p50)


@dataclass(frozen=True)
class SlowFrame:
    """Attributes:
    index: Of the frame.
    total_ms: What it took.
    points: Of its cloud.
    causes: What happened meanwhile, the likeliest first.
    """

    index: int
    total_ms: float
    points: int
    causes: tuple[str, ...]


class FrameLog:
    """One row a frame; its memory is touched before the first one, and nothing of it grows."""

    def __init__(self, frames: int) -> None:
        self.count = 0
        self.begin_s, self.total_ms = np.full(frames, -1.0), np.full(frames, -1.0)
        self.points = np.full(frames, -1, np.int64)
        self._faults = np.full((frames, 4), -1, np.int64)
        self._stages = np.full((frames, 0), -1.0)
        self.stage_names: tuple[str, ...] = ()

    def prepare(self, stages: Sequence[str]) -> None:
        """Before the first frame: the stages that there will be."""
        self.stage_names = tuple(stages)
        self._stages = np.full((len(self.total_ms), len(stages)), -1.0)

    def add(
        self, begin_s: float, end_s: float, points: int, stages_ms: dict[str, float], before: Faults, after: Faults
    ) -> None:
        """A frame; one beyond the last begins anew."""
        row = self.count % len(self.total_ms)
        self.begin_s[row], self.total_ms[row], self.points[row] = begin_s, (end_s - begin_s) * 1e3, points
        self._faults[row] = (
            after.minor - before.minor, after.major - before.major, after.voluntary - before.voluntary,
            after.involuntary - before.involuntary,
        )  # fmt: skip
        for column, name in enumerate(self.stage_names):
            self._stages[row, column] = stages_ms.get(name, 0.0)
        self.count += 1

    @property
    def kept(self) -> int:
        """Rows in use."""
        return min(self.count, len(self.total_ms))

    def tail(self) -> Tail:
        """Of all rows."""
        return Tail.of(self.total_ms[: self.kept])

    def stage_medians(self) -> dict[str, float]:
        """Stage -> milliseconds."""
        medians = np.median(self._stages[: self.kept], axis=0) if self.kept else []
        return dict(zip(self.stage_names, map(float, medians), strict=True))

    def slow(self, watch: Watch) -> tuple[list[SlowFrame], dict[str, int]]:
        """The slowest frames beyond `SLOW` times the median, and of all such how many have which first cause."""
        total = self.total_ms[: self.kept]
        medians = np.median(self._stages[: self.kept], axis=0)
        other = float(np.median(total - self._stages[: self.kept].sum(axis=1)))
        rows = np.flatnonzero(total > SLOW * np.median(total))
        rows = rows[np.argsort(-total[rows], kind="stable")]
        found = [
            SlowFrame(int(row), float(total[row]), int(self.points[row]), self._causes(row, medians, other, watch))
            for row in rows
        ]
        return found[:_SHOWN], dict(Counter(_kind(frame.causes[0]) for frame in found))

    def _causes(self, row: int, medians: NDArray[np.float64], other: float, watch: Watch) -> tuple[str, ...]:
        begin, total = self.begin_s[row], self.total_ms[row]
        end = begin + total / 1e3
        causes: list[str] = []
        stages = self._stages[row] - medians
        rest = total - self._stages[row].sum() - other
        largest = int(np.argmax(stages)) if len(stages) else -1
        for first, last, generation in watch.collections:
            if first < end and last > begin:
                causes.append(f"garbage collection, generation {generation}, {(last - first) * 1e3:.2f} ms")
        minor, major, _, involuntary = (int(value) for value in self._faults[row])
        if major:
            causes.append(f"{major} pages read from a disk")
        if involuntary:
            causes.append(f"another process ran {involuntary} times")
        if minor:
            causes.append(f"{minor} pages touched first")
        if largest >= 0 and stages[largest] > rest:
            stage = f"stage {self.stage_names[largest]}, {stages[largest]:+.2f} ms"
            clock = _clock(watch.gpu, begin, end)
            causes.insert(0, f"{stage}, {clock}" if clock else stage)
        elif not causes:
            causes.append(f"the host, {rest:+.2f} ms, unnamed")
        return tuple(causes)


def _kind(cause: str) -> str:
    """A cause without its numbers."""
    if cause.startswith("stage "):
        return cause.split(",")[0] + (", other clocks" if "MHz" in cause else "")
    if cause.startswith("the host"):
        return "the host, unnamed"
    return " ".join(word for word in cause.split(",")[0].split() if not word.isdigit())


def _clock(samples: Sequence[GpuSample], begin: float, end: float) -> str:
    """The clock around a frame where it is not the usual one."""
    clocks = [(sample.at_s, sample.sm_mhz) for sample in samples if sample.sm_mhz is not None]
    if not clocks:
        return ""
    usual = Counter(clock for _, clock in clocks).most_common(1)[0][0]
    nearest = min(clocks, key=lambda item: abs(item[0] - (begin + end) / 2))[1]
    return "" if nearest == usual else f"{nearest:.0f} MHz in place of {usual:.0f}"
