"""Timing several contenders by turns, so that whatever the clocks do, they do to all of them alike."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.latency import LatencyStats

if TYPE_CHECKING:
    from runtime.cuda.device import CudaDevice

__all__ = ["Contender", "EventClock", "Ratio", "Timing", "host_clock", "interleave", "ratio"]

# Runs something so many times and gives the milliseconds of each run.
Clock = Callable[[Callable[[], Any], int], list[float]]


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        key: Short name, as on the command line.
        label: Name in tables.
        run: Does it once; on a GPU it may return before the work is done.
    """

    key: str
    label: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """What a contender took.

    Attributes:
        key, label: Of the contender.
        stats: Over all runs, milliseconds.
        rounds_ms: Median of each round; shorter than the other contenders' where `note` says why.
        note: What kept it from all rounds, or empty.
    """

    key: str
    label: str
    stats: LatencyStats
    rounds_ms: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True)
class Ratio:
    """How many times longer one contender takes than another, from medians of the same rounds.

    Attributes:
        slower, faster: Their keys; the ratio may nevertheless be below 1.
        median, low, high: Over the rounds.
    """

    slower: str
    faster: str
    median: float
    low: float
    high: float


class EventClock:
    """Times runs on one stream by events in it.

    The runs are queued without waiting, so that the stream never idles where the host is fast enough, and the first
    does not count: the caches are in the state that the contender's own previous run leaves, as in steady running.
    """

    def __init__(self, device: CudaDevice, stream: int, capacity: int) -> None:
        """Args:
        capacity: Most runs that one call times.
        """
        self._device = device
        self._stream = stream
        self._events = [device.create_event() for _ in range(capacity + 1)]

    def __call__(self, run: Callable[[], Any], count: int) -> list[float]:
        """Milliseconds of `count` runs in a row; a run may only put work on the clock's stream."""
        events = self._events[: count + 1]
        run()
        self._device.record(events[0], self._stream)
        for event in events[1:]:
            run()
            self._device.record(event, self._stream)
        self._device.wait(events[-1])
        return [self._device.elapsed_ms(before, after) for before, after in itertools.pairwise(events)]


def host_clock(run: Callable[[], Any], count: int) -> list[float]:
    """Milliseconds of `count` runs by the host's clock; a run returns when its work is done. One more goes first."""
    run()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1e3)
    return times


def interleave(
    contenders: Sequence[Contender], clock: Clock, *, rounds: int, runs: int, warmup: int = 3, limit_s: float = math.inf
) -> dict[str, Timing]:
    """Times every contender in every round, each round beginning with another one.

    Args:
        contenders: At least one.
        clock: How a contender's runs are timed.
        rounds: How often everyone has a turn.
        runs: Timed runs of a turn.
        warmup: Untimed runs of each contender before the first round.
        limit_s: Seconds that one contender may take in all; it has no turn after that.

    Returns:
        Key -> timing, in the order of the contenders.
    """
    samples: dict[str, list[list[float]]] = {contender.key: [] for contender in contenders}
    notes: dict[str, str] = {}
    spent = dict.fromkeys(samples, 0.0)
    for contender in contenders:
        for _ in range(warmup):
            contender.run()
    for index in range(rounds):
        shift = index % len(contenders)
        for contender in (*contenders[shift:], *contenders[:shift]):
            key = contender.key
            if key in notes:
                continue
            begin = time.perf_counter()
            samples[key].append(clock(contender.run, runs))
            spent[key] += time.perf_counter() - begin
            if spent[key] > limit_s and index + 1 < rounds:
                notes[key] = f"{index + 1} of {rounds} rounds: its {limit_s:g} s were used up"
    return {
        contender.key: Timing(
            contender.key,
            contender.label,
            LatencyStats.from_samples([ms for turn in samples[contender.key] for ms in turn]),
            tuple(statistics.median(turn) for turn in samples[contender.key]),
            notes.get(contender.key, ""),
        )
        for contender in contenders
    }


def ratio(timings: Mapping[str, Timing], slower: str, faster: str) -> Ratio:
    """`slower` over `faster`, round by round; rounds that only one of them has are left out."""
    pairs = zip(timings[slower].rounds_ms, timings[faster].rounds_ms, strict=False)
    values = [above / below for above, below in pairs]
    return Ratio(slower, faster, statistics.median(values), min(values), max(values))
