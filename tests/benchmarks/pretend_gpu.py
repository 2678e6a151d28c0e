"""A GPU and an engine that only say how long their work takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.gpu_layers import launch_works


class Moment:
    """An event: the stream's clock when it was recorded."""

    ms = -1.0


class PretendDevice:
    """Streams whose work takes the time that it says, one after the other."""

    name = "NVIDIA H100 80GB HBM3"

    def __init__(self) -> None:
        self.now: dict[int, float] = {}
        self._captured: list[float] | None = None

    def create_stream(self) -> int:
        self.now[len(self.now) + 1] = 0.0
        return len(self.now)

    def create_event(self) -> Moment:
        return Moment()

    def work(self, stream: int, ms: float) -> None:
        if self._captured is not None:
            self._captured.append(ms)
        else:
            self.now[stream] += ms

    def record(self, event: Moment, stream: int) -> None:
        event.ms = self.now[stream]

    def wait(self, event: Moment) -> None:
        assert event.ms >= 0, "the event was never recorded"

    def wait_in_stream(self, stream: int, event: Moment) -> None:
        assert event.ms >= 0
        self.now[stream] = max(self.now[stream], event.ms)

    def elapsed_ms(self, before: Moment, after: Moment) -> float:
        return after.ms - before.ms

    def begin_capture(self, stream: int) -> None:
        self._captured = []

    def end_capture(self, stream: int) -> list[float]:
        captured, self._captured = self._captured, None
        assert captured is not None
        return captured

    def launch_graph(self, graph: list[float], stream: int) -> None:
        for ms in graph:
            self.work(stream, ms)

    def synchronize(self, stream: int) -> None: ...

    def upload_new(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return values

    def download(self, target: np.ndarray[Any, Any], address: Any, stream: int) -> None:
        target[...] = address


class PretendCanvas:
    def write(self, device: Any, stream: int, values: Any) -> None:
        assert values.dtype in (np.int8, np.float16)


class PretendActivity:
    """`TileActivity` whose lists hold every second tile, and little is left where no pillar was marked."""

    def __init__(self, device: PretendDevice, labels: list[str]) -> None:
        self._device, self._labels, self.pillars = device, labels, 0

    def enqueue_marks(self, pillars: Any, counters: Any, stream: int) -> None:
        self.pillars = int(counters.max())

    def counts(self, stream: int) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(self._labels, (5 if self.pillars else 0, 10))


class PretendNetwork:
    """`DeviceNetwork`: each launch takes a microsecond for each 10 million operations; outputs are constant."""

    def __init__(self, device: PretendDevice, plan: Any, *, skips_empty: bool = False) -> None:
        self._device, self.plan, self.canvas = device, plan, PretendCanvas()
        labels = [conv.node for conv in plan.convs]
        self.activity = PretendActivity(device, labels) if skips_empty else None
        self.launches = launch_works(plan)
        self.outputs = dict.fromkeys(plan.outputs, 0.5)

    def read_output(self, name: str, stream: int) -> np.ndarray[Any, Any]:
        output = self.plan.outputs[name]
        return np.full((output.channels, output.height, output.width), self.outputs[name], np.float32)

    def enqueue_layer(self, launch: Any, stream: int) -> None:
        share = 1.0 if self.activity is None else 0.5 if self.activity.pillars else 0.01
        self._device.work(stream, share * sum(launch.flop.values()) / 1e10)

    def enqueue(self, stream: int) -> None:
        for launch in self.launches:
            self.enqueue_layer(launch, stream)
