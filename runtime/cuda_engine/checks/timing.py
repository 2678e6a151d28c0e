"""The time of work on a stream, from replays of a captured graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.cuda.device import CudaDevice

__all__ = ["replay_time_us"]


def replay_time_us(device: CudaDevice, stream: int, enqueue: Callable[[], None], replays: int = 200) -> float:
    """Mean microseconds of one execution of what `enqueue` puts on the stream, replayed back to back."""
    device.begin_capture(stream)
    enqueue()
    graph = device.end_capture(stream)
    before, after = device.create_event(), device.create_event()
    for _ in range(10):
        device.launch_graph(graph, stream)
    device.record(before, stream)
    for _ in range(replays):
        device.launch_graph(graph, stream)
    device.record(after, stream)
    device.wait(after)
    return device.elapsed_ms(before, after) * 1000 / replays
