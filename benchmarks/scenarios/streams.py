"""The scenarios: a frame after the other, frames at a constant rate, and several at a time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from benchmarks.scenarios.tails import FrameLog, SlowFrame, Tail
from benchmarks.scenarios.watch import Faults, GpuSample, MemorySample, Watch

if TYPE_CHECKING:
    from benchmarks.scenarios.drive import Drive
    from runtime.detector import Detector
    from runtime.graphs.detector import GraphDetector

__all__ = [
    "Clock",
    "ConstantRate",
    "Offline",
    "SingleStream",
    "constant_rate",
    "offline",
    "offline_ahead",
    "single_stream",
]

_SPIN_S = 0.0005


class Clock(Protocol):
    """Where time comes from; a test has one of its own."""

    def now(self) -> float:
        """Seconds."""

    def wait_until(self, at_s: float) -> None:
        """Comes back then, not before."""


class HostClock:
    """The host's."""

    def now(self) -> float:
        return time.perf_counter()

    def wait_until(self, at_s: float) -> None:
        # Sleeping ends late by some ten microseconds, so that the last bit is waited for awake.
        while (left := at_s - time.perf_counter()) > 0:
            if left > _SPIN_S:
                time.sleep(left - _SPIN_S)


@dataclass(frozen=True)
class SingleStream:
    """One frame after the other, each begun when the one before it is done.

    Attributes:
        tail: Wall time of a frame, from the call to the boxes.
        seconds: Of the whole run.
        fewest_points, most_points: Of a frame.
        stages_ms: Median of each stage.
        slow: The slowest frames, with what they met.
        causes: First cause -> slow frames; all of them.
        memory, gpu: First and last samples, and the extremes between.
    """

    tail: Tail
    seconds: float
    fewest_points: int
    most_points: int
    stages_ms: dict[str, float]
    slow: tuple[SlowFrame, ...]
    causes: dict[str, int]
    memory: MemoryUse
    gpu: GpuUse | None


@dataclass(frozen=True)
class MemoryUse:
    """Resident memory of the process, MiB: at the first frame, at the last one, and the most.

    Attributes:
        growth_mib_per_hour: Slope of a straight line through the second half of the samples.
    """

    first_mib: float
    last_mib: float
    most_mib: float
    growth_mib_per_hour: float

    @classmethod
    def of(cls, samples: Sequence[MemorySample]) -> MemoryUse:
        """Of at least one sample."""
        values = [sample.resident_mib for sample in samples]
        late = samples[len(samples) // 2 :]
        mean_at = sum(sample.at_s for sample in late) / len(late)
        mean = sum(sample.resident_mib for sample in late) / len(late)
        spread = sum((sample.at_s - mean_at) ** 2 for sample in late)
        rise = sum((sample.at_s - mean_at) * (sample.resident_mib - mean) for sample in late)
        return cls(values[0], values[-1], max(values), 3600 * rise / spread if spread else 0.0)


@dataclass(frozen=True)
class GpuUse:
    """What nvidia-smi said over the run: lowest and highest clocks (MHz) and memory in use (MiB), hottest, and each
    reason that held clocks down, as a bit mask -> samples."""

    samples: int
    sm_mhz: tuple[float, float]
    memory_mhz: tuple[float, float]
    memory_mib: tuple[float, float]
    hottest_c: float
    throttle: dict[str, int]

    @classmethod
    def of(cls, samples: Sequence[GpuSample]) -> GpuUse | None:
        """None where nothing was said."""

        def ends(values: Iterator[float | None]) -> tuple[float, float]:
            known = [value for value in values if value is not None] or [float("nan")]
            return min(known), max(known)

        if not samples:
            return None
        reasons = sorted({sample.throttle for sample in samples})
        return cls(
            len(samples),
            ends(sample.sm_mhz for sample in samples),
            ends(sample.memory_mhz for sample in samples),
            ends(sample.memory_mib for sample in samples),
            ends(sample.temperature_c for sample in samples)[1],
            {reason: sum(sample.throttle == reason for sample in samples) for reason in reasons},
        )


@dataclass(frozen=True)
class ConstantRate:
    """Frames come whether the detector is ready or not; a frame that a newer one overtook is not run.

    Attributes:
        rate_hz: Frames a second.
        came, ran: Frames.
        overtaken: That never ran, because a newer one had come.
        late: Results that came after the next frame had come.
        latency: From a frame's coming to its boxes.
        stalest_ms: The oldest that the newest result ever was, just before the next one came.
    """

    rate_hz: float
    came: int
    ran: int
    overtaken: int
    late: int
    latency: Tail
    stalest_ms: float

    @property
    def misses(self) -> int:
        """Frames whose result did not come in time, or not at all."""
        return self.late + self.overtaken


@dataclass(frozen=True)
class Offline:
    """As many frames as they can, each detector in a thread of its own.

    Attributes:
        how: How many detectors, and how they take frames.
        frames: Of all.
        frames_per_second: Of all together.
        latency: Of a frame in its thread.
    """

    how: str
    frames: int
    frames_per_second: float
    latency: Tail


def single_stream(
    detector: Detector, drive: Drive, *, frames: int, warmup: int, watch: Watch, minutes: float | None = None
) -> SingleStream:
    """Runs a stream.

    Args:
        detector: Points to boxes.
        drive: Its frames, over and over.
        frames: That count; with `minutes`, the most that are kept.
        warmup: Frames before them.
        watch: Started.
        minutes: Run so long in place of `frames`.
    """
    log = FrameLog(frames)
    for index in range(max(warmup, 1)):
        inference = detector(drive[index])
    log.prepare(tuple(inference.stages_ms))
    start = time.perf_counter()
    end = None if minutes is None else start + 60 * minutes
    for index in itertools.count():
        points = drive[index]
        before = Faults.now()
        begin = time.perf_counter()
        inference = detector(points)
        _ = inference.detections
        done = time.perf_counter()
        log.add(begin, done, len(points), dict(inference.stages_ms), before, Faults.now())
        if done >= end if end is not None else index + 1 >= frames:
            break
    seconds = time.perf_counter() - start
    slow, causes = log.slow(watch)
    memory = [sample for sample in watch.memory if sample.at_s >= start] or watch.memory[-1:]
    counts = log.points[: log.kept]
    return SingleStream(
        log.tail(), seconds, int(counts.min()), int(counts.max()), log.stage_medians(), tuple(slow), causes,
        MemoryUse.of(memory), GpuUse.of([sample for sample in watch.gpu if sample.at_s >= start]),
    )  # fmt: skip


def constant_rate(
    detector: Detector, drive: Drive, *, rate_hz: float, frames: int, warmup: int, clock: Clock | None = None
) -> ConstantRate:
    """Frames at a rate; where the detector is late, the newest frame wins.

    Args:
        frames: That come.
        warmup: Frames before, as fast as they go.
        clock: The host's where None.
    """
    clock = clock or HostClock()
    for index in range(warmup):
        _ = detector(drive[index]).detections
    period = 1 / rate_hz
    start = clock.now() + period
    latencies: list[float] = []
    late = overtaken = index = 0
    stalest, newest = 0.0, start
    while index < frames:
        clock.wait_until(start + index * period)
        # What came while the last frame ran: all but the newest are passed over.
        current = min(int((clock.now() - start) / period + 1e-9), frames - 1)
        overtaken += max(0, current - index)
        index = max(index, current)
        came = start + index * period
        _ = detector(drive[index]).detections
        done = clock.now()
        latencies.append((done - came) * 1e3)
        late += done > came + period
        # Until now the result before this one was the newest that there was.
        stalest, newest = max(stalest, done - newest), came
        index += 1
    return ConstantRate(
        rate_hz, frames, len(latencies), overtaken, late, Tail.of(latencies), stalest * 1e3
    )  # fmt: skip


def offline(detectors: Sequence[Detector], drives: Sequence[Drive], *, frames: int, warmup: int) -> Offline:
    """Every detector takes the next frame as soon as it is free.

    Args:
        detectors: At least one, each with buffers of its own; all on the first GPU, or on the CPU.
        drives: The same frames for each, in memory that it reads.
        frames: Of all.
        warmup: Of each, before.
    """
    for detector, drive in zip(detectors, drives, strict=True):
        for index in range(warmup):
            _ = detector(drive[index]).detections
    taken, lock, latencies = itertools.count(), threading.Lock(), [0.0] * frames

    def work(detector: Detector, drive: Drive) -> None:
        while True:
            with lock:
                index = next(taken)
            if index >= frames:
                return
            begin = time.perf_counter()
            _ = detector(drive[index]).detections
            latencies[index] = (time.perf_counter() - begin) * 1e3

    with ThreadPoolExecutor(len(detectors)) as pool:
        begin = time.perf_counter()
        for done in [pool.submit(work, *pair) for pair in zip(detectors, drives, strict=True)]:
            done.result()
        seconds = time.perf_counter() - begin
    return Offline(f"{len(detectors)} at a time", frames, frames / seconds, Tail.of(latencies))


def offline_ahead(detector: GraphDetector, drive: Drive, *, frames: int, warmup: int) -> Offline:
    """One network; each cloud travels while the frame before it is computed. The latency is from result to result."""
    for index in range(warmup):
        _ = detector(drive[index]).detections
    latencies: list[float] = []
    begin = last = time.perf_counter()
    for result in detector.frame.detect_all(drive[index] for index in range(frames)):
        _ = result.boxes
        now = time.perf_counter()
        latencies.append((now - last) * 1e3)
        last = now
    return Offline("1, clouds copied ahead", frames, frames / (last - begin), Tail.of(latencies))
