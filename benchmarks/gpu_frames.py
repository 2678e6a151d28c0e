"""Our engine on frames of several kinds, empty tiles skipped: contenders beside those that compute all tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu_cloud import lidar_cloud, occupied_cells, street_cloud
from benchmarks.gpu_timing import Contender, Timing, ratio
from eval.codec import to_json
from runtime.cuda_engine.checks.reference import store
from runtime.cuda_engine.checks.skip_checks import marks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.network import DeviceNetwork
    from runtime.cuda_engine.plan import NetworkPlan

__all__ = ["FrameEngine", "frames_section", "kinds_of_frames"]


def kinds_of_frames(size: tuple[int, int], cell_m: float, clouds: Sequence[Path] = ()) -> dict[str, NDArray[np.bool_]]:
    """Name -> (height, width) cells that have a pillar: none, a street's of one sweep and of ten, much, all.

    Args:
        size: Of the canvas.
        cell_m: Size of a cell in metres.
        clouds: More of them: .npy files of (N, 2 or more) metres, named by their stem.
    """
    frames = {
        "empty": np.zeros(size, bool),
        "street, one sweep": occupied_cells(street_cloud(1), size, cell_m),
        "street, ten sweeps": occupied_cells(street_cloud(10), size, cell_m),
        "ground everywhere": occupied_cells(lidar_cloud(), size, cell_m),
        "full": np.ones(size, bool),
    }
    return frames | {path.stem: occupied_cells(np.load(path), size, cell_m) for path in clouds}


@dataclass(eq=False)
class FrameEngine:
    """One network that skips empty tiles, and a graph for each frame, lists included.

    Attributes:
        graphs: Frame -> what it puts on the stream.
        pillars: Frame -> number of its pillars.
        shares: Frame -> layer -> share of its tiles that are active.
    """

    device: CudaDevice
    stream: int
    network: DeviceNetwork
    graphs: Mapping[str, Any]
    pillars: Mapping[str, int]
    shares: Mapping[str, Mapping[str, float]]

    @classmethod
    def load(
        cls,
        device: CudaDevice,
        stream: int,
        plan: NetworkPlan,
        canvas: NDArray[np.float32],
        frames: Mapping[str, NDArray[np.bool_]],
    ) -> FrameEngine:
        """Compiles, fills the canvas (C, H, W) and captures each frame: its numbers stay, its pillars change."""
        from runtime.cuda_engine.network import DeviceNetwork

        network = DeviceNetwork(device, plan, skips_empty=True)
        activity = network.activity
        assert activity is not None
        network.canvas.write(device, stream, store(canvas, plan.canvas))
        graphs, shares = {}, {}
        for name, cells in frames.items():
            records, counters = (device.upload_new(values) for values in marks_of(cells))
            device.begin_capture(stream)
            activity.enqueue_marks(records, counters, stream)
            network.enqueue(stream)
            graphs[name] = device.end_capture(stream)
            # The frame before is this one, too.
            for _ in range(2):
                device.launch_graph(graphs[name], stream)
            shares[name] = {label: active / every for label, (active, every) in activity.counts(stream).items()}
        pillars = {name: int(cells.sum()) for name, cells in frames.items()}
        return cls(device, stream, network, graphs, pillars, shares)

    def contenders(self, precision: str, label: str) -> list[Contender]:
        """One for each frame: `cuda-PRECISION, FRAME`."""

        def run(graph: Any) -> Callable[[], Any]:
            return lambda: self.device.launch_graph(graph, self.stream)

        return [
            Contender(f"cuda-{precision}, {name}", f"{label}, {name}", run(graph))
            for name, graph in self.graphs.items()
        ]


def frames_section(engines: Mapping[str, FrameEngine], timings: Mapping[str, Timing]) -> dict[str, Any]:
    """The timings of frames, and how many times as long everyone takes who computes all tiles.

    Args:
        engines: Precision -> engine.
        timings: Of one run by turns, those of `contenders` among others'.
    """
    frames = [f"cuda-{precision}, {name}" for precision, engine in engines.items() for name in engine.graphs]
    others = [key for key in timings if key not in frames]
    return {
        "timings": to_json([timings[key] for key in frames]),
        "ratios": to_json([ratio(timings, other, key) for key in frames for other in others]),
        "labels": {key: timings[key].label for key in others},
        "frames": [
            {"key": f"cuda-{precision}, {name}", "pillars": engine.pillars[name], "shares": engine.shares[name]}
            for precision, engine in engines.items()
            for name in engine.graphs
        ],
    }
