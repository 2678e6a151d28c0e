"""What a batch could save on a GPU: `python -m benchmarks.gpu_batch --out FILE`.

The engine runs one cloud at a time; several clouds go to several networks, each with a stream of its own. Were they
one run, their tiles would share each layer's launch and its last, half empty round. How much that saves is measured
without a batch in the engine: several canvases stacked into one tall canvas are such a run, tile for tile, but for the
rows where they touch. Three ways by turns, in milliseconds a cloud: one network, cloud after cloud; several networks
at a time; one network on a tall canvas.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from base.arguments import whole_number
from base.command import EXIT_PASSED, add_log_level, run_command, run_main
from base.files import user_path, write_json
from base.tables import text_table
from benchmarks.gpu_cloud import occupied_cells, street_cloud
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.checks.skip_checks import SkippingPair
from runtime.cuda_engine.plan import MAP_TYPES, MapType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from runtime.cuda_engine.network import Tiling

__all__ = ["main", "table"]

_SIDE, _CELL_M = 760, 0.32
_COUNTS = (2, 4)
_RUNS = 40


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_batch", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    parser.add_argument("--rounds", type=whole_number(1, 10_000), default=10, help="turns of every contender")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> int:
    clouds = [occupied_cells(street_cloud(10, seed=seed), (_SIDE, _SIDE), _CELL_M) for seed in range(max(_COUNTS))]
    rows, gpu = [], ""
    for map_type in MAP_TYPES:
        for count in _COUNTS:
            # A device of its own for each: its memory is freed with it.
            device = CudaDevice.open(args.device)
            gpu = device.name
            ways = _ways(device, map_type, clouds[:count])
            times: dict[str, list[float]] = {name: [] for name in ways}
            for index in range(args.rounds + 1):
                for name in list(ways)[index % len(ways) :] + list(ways)[: index % len(ways)]:
                    taken = _milliseconds(device, ways[name]) / (_RUNS * count)
                    # The first round warms up.
                    if index:
                        times[name].append(taken)
            rows.append({"precision": map_type, "clouds": count, "ms": times})
            device.close()
    results = {"gpu": gpu, "rounds": args.rounds, "rows": rows}
    write_json(user_path(args.out), results)
    sys.stdout.write(table(results) + "\n")
    return EXIT_PASSED


class _Way:
    """Networks that run at a time, each with a stream and a graph of its own."""

    def __init__(
        self,
        device: CudaDevice,
        map_type: MapType,
        canvases: Sequence[NDArray[np.bool_]],
        tilings: Mapping[str, Tiling] | None = None,
    ) -> None:
        self._device, self.streams, self._graphs = device, list[int](), list[Any]()
        self.tilings: dict[str, Tiling] = {}
        for cells in canvases:
            stream = device.create_stream()
            plan = random_plan(Architecture((cells.shape[0], cells.shape[1])), map_type)
            pair = SkippingPair(device, plan, stream, tilings, dense=False)
            self.tilings = {launch.label: launch.tiling for launch in pair.skipping.launches}
            pair.mark(cells)
            device.begin_capture(stream)
            pair.enqueue_marks()
            pair.skipping.enqueue(stream)
            self._graphs.append(device.end_capture(stream))
            self.streams.append(stream)

    def launch(self) -> None:
        for graph, stream in zip(self._graphs, self.streams, strict=True):
            self._device.launch_graph(graph, stream)


def _ways(
    device: CudaDevice, map_type: MapType, clouds: list[NDArray[np.bool_]]
) -> dict[str, tuple[_Way, Callable[[], None]]]:
    one = _Way(device, map_type, clouds[:1])
    several = _Way(device, map_type, clouds)
    # Cut as the single canvas is: tilings were measured for its size.
    tall = _Way(device, map_type, [np.concatenate(clouds)], one.tilings)

    def after_another() -> None:
        for _ in clouds:
            one.launch()

    return {
        "one after another": (one, after_another),
        "networks at a time": (several, several.launch),
        "one tall canvas": (tall, tall.launch),
    }


def _milliseconds(device: CudaDevice, way: tuple[_Way, Callable[[], None]]) -> float:
    """Of `_RUNS` runs, from a common start until the last stream is empty."""
    (networks, launch), (begin, end) = way, (device.create_event(), device.create_event())
    first, *others = networks.streams
    # A run in front holds the start back until every stream has work queued.
    launch()
    device.record(begin, first)
    for stream in others:
        device.wait_in_stream(stream, begin)
    for _ in range(_RUNS):
        launch()
    for stream in others:
        event = device.create_event()
        device.record(event, stream)
        device.wait_in_stream(first, event)
    device.record(end, first)
    device.wait(end)
    return device.elapsed_ms(begin, end)


def table(results: dict[str, Any]) -> str:
    """Milliseconds a cloud as text, medians over the rounds, and ratios of the same rounds."""
    header = ["type", "clouds", *results["rows"][0]["ms"], "networks over one canvas"]
    lines = []
    for row in results["rows"]:
        times = row["ms"]
        ratios = [a / b for a, b in zip(times["networks at a time"], times["one tall canvas"], strict=True)]
        values = [f"{median(item):.3f}" for item in times.values()]
        said = f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        lines.append([row["precision"], str(row["clouds"]), *values, said])
    return text_table(header, lines)


if __name__ == "__main__":
    run_main(main)
