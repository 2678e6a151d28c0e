"""Our own engine as a contender: backbone, neck and head in a CUDA graph, its layers one by one, several at a time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.checks.reference import store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.cuda_engine.network import DeviceNetwork, Launch
    from runtime.cuda_engine.plan import NetworkPlan

__all__ = [
    "CachingDevice",
    "Engine",
    "LayerTime",
    "Throughput",
    "layer_times",
    "relative_errors",
    "throughput",
]


class CachingDevice(CudaDevice):
    """Compiles every kernel once, however many networks use it."""

    def compile_image(
        self, source: str, title: str, *, architecture: str | None = None, options: Sequence[str] = ()
    ) -> bytes:
        """As `CudaDevice.compile_image`; may be called from several threads."""
        images: dict[Any, bytes] = self.__dict__.setdefault("_images", {})
        key = (source, architecture, tuple(options))
        if key not in images:
            images[key] = super().compile_image(source, title, architecture=architecture, options=options)
        return images[key]


@dataclass(eq=False)
class Engine:
    """One network with buffers of its own, ready to run.

    Attributes:
        device: Where.
        stream: The stream that `run` puts it on.
        network: Its kernels and buffers.
        graph: All of it, captured.
    """

    device: CudaDevice
    stream: int
    network: DeviceNetwork
    graph: Any

    @classmethod
    def load(cls, device: CudaDevice, stream: int, plan: NetworkPlan, canvas: NDArray[np.float32]) -> Engine:
        """Compiles, fills the canvas (C, H, W), runs once and captures."""
        from runtime.cuda_engine.network import DeviceNetwork

        network = DeviceNetwork(device, plan)
        network.canvas.write(device, stream, store(canvas, plan.canvas))
        network.enqueue(stream)
        device.synchronize(stream)
        return cls(device, stream, network, capture(device, stream, lambda: network.enqueue(stream)))

    def run(self) -> None:
        """Puts the whole network on the stream, as one graph."""
        self.device.launch_graph(self.graph, self.stream)

    def outputs(self) -> dict[str, NDArray[np.float32]]:
        """Output name -> (channels, height, width), of the latest run."""
        return {name: self.network.read_output(name, self.stream) for name in self.network.outputs}


def capture(device: CudaDevice, stream: int, enqueue: Callable[[], None]) -> Any:
    """What `enqueue` puts on the stream, as a graph."""
    device.begin_capture(stream)
    enqueue()
    return device.end_capture(stream)


def relative_errors(found: dict[str, NDArray[np.float32]], exact: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    """Output name -> RMS of the difference over RMS of the exact result around its mean.

    Raises:
        ValueError: a value found is NaN or infinite.
    """
    errors = {}
    for name, wanted in exact.items():
        got = found[name].reshape(wanted.shape)
        if not np.isfinite(got).all():
            raise ValueError(f"output '{name}' has values that are no numbers")
        difference = got.astype(np.float64) - wanted
        errors[name] = float(np.sqrt((difference**2).mean()) / max(float(np.std(wanted, dtype=np.float64)), 1e-12))
    return errors


@dataclass(frozen=True)
class LayerTime:
    """One launch, microseconds.

    Attributes:
        label: Its ONNX node; "heads" for all branches.
        in_order_us: Between events around it while the whole network runs: its input lies where the layer before left
            it, but no kernel overlaps with its neighbours. Median.
        repeated_us: The launch again and again in a graph, overlapping with itself; its input is in the cache where it
            fits there. Mean of a replay's launches, median over replays.
    """

    label: str
    in_order_us: float
    repeated_us: float


def layer_times(engine: Engine, *, repeats: int = 60, launches: int = 20) -> list[LayerTime]:
    """Every launch of the network in order.

    Args:
        engine: Whose canvas is filled.
        repeats: Runs through the network, and replays of each layer's graph.
        launches: Launches of one layer in its graph.
    """
    device, stream = engine.device, engine.stream
    layers = engine.network.launches
    events = [device.create_event() for _ in range(len(layers) + 1)]
    samples: list[list[float]] = [[] for _ in layers]
    for _ in range(repeats):
        # Work in front, so that the host has queued all launches before the first of them starts: they then follow
        # each other without a gap.
        for _ in range(8):
            engine.run()
        device.record(events[0], stream)
        for launch, event in zip(layers, events[1:], strict=True):
            engine.network.enqueue_layer(launch, stream)
            device.record(event, stream)
        device.wait(events[-1])
        for index in range(len(layers)):
            samples[index].append(device.elapsed_ms(events[index], events[index + 1]) * 1e3)
    return [
        LayerTime(launch.label, statistics.median(taken), _repeated_us(engine, launch, max(repeats // 4, 5), launches))
        for launch, taken in zip(layers, samples, strict=True)
    ]


def _repeated_us(engine: Engine, launch: Launch, replays: int, launches: int) -> float:
    device, stream = engine.device, engine.stream

    def enqueue() -> None:
        for _ in range(launches):
            engine.network.enqueue_layer(launch, stream)

    graph = capture(device, stream, enqueue)
    events = [device.create_event() for _ in range(replays + 1)]
    device.launch_graph(graph, stream)
    device.record(events[0], stream)
    for event in events[1:]:
        device.launch_graph(graph, stream)
        device.record(event, stream)
    device.wait(events[-1])
    times = [device.elapsed_ms(events[index], events[index + 1]) for index in range(replays)]
    return statistics.median(times) * 1e3 / launches


@dataclass(frozen=True)
class Throughput:
    """Several networks at a time on one GPU.

    Attributes:
        precision: "int8" or "fp16".
        streams: Networks, each with a stream and buffers of its own.
        frames: That all of them ran together.
        frames_per_second: Of all together.
    """

    precision: str
    streams: int
    frames: int
    frames_per_second: float


def throughput(
    precision: str, device: CudaDevice, plan: NetworkPlan, canvas: NDArray[np.float32], counts: Sequence[int],
    frames: int = 400,
) -> list[Throughput]:  # fmt: skip
    """Frames per second for each number of networks.

    Args:
        precision: Of the plan.
        device: Where.
        plan: The network.
        canvas: (C, H, W) of every one.
        counts: How many networks at a time.
        frames: That each network runs for each count.
    """
    engines = [Engine.load(device, device.create_stream(), plan, canvas) for _ in range(max(counts))]
    found = []
    for count in counts:
        _run_together(device, engines[:count], max(frames // 10, 1))
        seconds = _run_together(device, engines[:count], frames)
        found.append(Throughput(precision, count, count * frames, count * frames / seconds))
    return found


def _run_together(device: CudaDevice, engines: Sequence[Engine], frames: int) -> float:
    """Seconds from the common start until the last stream is empty."""
    first = engines[0].stream
    begin, end = device.create_event(), device.create_event()
    ends = [device.create_event() for _ in engines]
    # A run in front holds the start back until every stream has work queued.
    engines[0].run()
    device.record(begin, first)
    for engine in engines[1:]:
        device.wait_in_stream(engine.stream, begin)
    for _ in range(frames):
        for engine in engines:
            engine.run()
    for engine, event in zip(engines, ends, strict=True):
        device.record(event, engine.stream)
        device.wait_in_stream(first, event)
    device.record(end, first)
    device.wait(end)
    return device.elapsed_ms(begin, end) / 1e3
