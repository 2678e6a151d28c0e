"""Times the tilings of every layer of the released models: `python -m benchmarks.gpu_tune --out FILE`.

The file is runtime/cuda_engine/tilings.json, which `runtime.cuda_engine.tiling` reads: a layer of a shape that it lists
is cut as measured, any other as estimated. INT8 results are the same for every tiling.

Each tiling computes all tiles, and those that a street activates in one sweep and in ten: what counts is the time of
ten, with a part of the others. About a minute a model.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.files import user_path, write_json
from base.progress import progress
from benchmarks.gpu_cloud import occupied_cells, street_cloud
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.activity import tile_words
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.network import DeviceNetwork, Tiling
from runtime.cuda_engine.plan import MAP_TYPES
from runtime.cuda_engine.reach import map_reaches
from runtime.cuda_engine.tiling import ConvTiling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from runtime.cuda_engine.activity import TiledLayer
    from runtime.cuda_engine.network import Launch
    from runtime.cuda_engine.reach import Reach

__all__ = ["active_tiles", "main"]

# The model configs in configs/model, with the size of a cell in metres.
_MODELS = {
    "760": (Architecture((760, 760)), 0.32),
    "1020": (Architecture((1020, 1020), upsamples=(0.5, 1, 2)), 0.24),
    "demo": (
        Architecture((320, 320), channels=(64, 128, 192), depths=(3, 5, 3), strides=(2, 2, 2), neck_channels=96), 0.32,
    ),
}  # fmt: skip
_LAUNCHES, _ROUNDS = 12, 3
# Of a layer's cuts, so many are timed in every way to store and to take turns.
_REFINED = 6
# Ten sweeps, one, and all tiles: what a microsecond of each counts.
_WEIGHTS = {"ten": 1.0, "one": 0.3, "all": 0.5}


def main(arguments: Sequence[str] | None = None) -> int:
    """Tunes and writes the file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_tune", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--times", type=Path, help="JSON file for the times of every tiling")
    parser.add_argument(
        "--models", nargs="+", choices=sorted(_MODELS), default=sorted(_MODELS), help="whose layers (all)"
    )
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    add_log_level(parser)
    args = parser.parse_args(arguments)
    return run_command(lambda: _tune_all(args), args.log_level)


def _tune_all(args: argparse.Namespace) -> None:
    found: dict[str, list[_Timed]] = {}
    gpu = ""
    for architecture, cell_m in (_MODELS[model] for model in args.models):
        cells = {
            name: occupied_cells(street_cloud(sweeps), architecture.size, cell_m)
            for name, sweeps in (("one", 1), ("ten", 10))
        }
        for map_type in MAP_TYPES:
            # A device of its own for each network: its memory is freed with it.
            device = CudaDevice.open(args.device)
            gpu = device.name
            _tune(device, DeviceNetwork(device, random_plan(architecture, map_type)), cells, found)
            device.close()
    tilings = {signature: times[0].tiling.choice for signature, times in sorted(found.items())}
    write_json(user_path(args.out), {"gpu": gpu, "tilings": tilings})
    if args.times is not None:
        write_json(user_path(args.times), {name: [item.row for item in times] for name, times in found.items()})
    sys.stdout.write(f"{len(found)} layer shapes on {gpu}\n")


def _tune(
    device: CudaDevice,
    network: DeviceNetwork,
    cells: dict[str, NDArray[np.bool_]],
    found: dict[str, list[_Timed]],
) -> None:
    """Adds the tilings of each new shape, the best one first."""
    stream, reaches = device.create_stream(), map_reaches(network.plan)
    shapes = {network.signature(launch.label): launch.label for launch in network.launches}
    new = {signature: label for signature, label in shapes.items() if signature not in found}
    network.prepare(tiling for label in new.values() for tiling in _first_ways(network.tilings(label)))
    for signature, label in progress(new.items(), "tuning", len(new), unit="layer"):

        def timed(tiling: Tiling, label: str = label) -> _Timed:
            return _time_tiling(device, network, network.launch_of(label, tiling), reaches, cells, stream)

        times = sorted(map(timed, _first_ways(network.tilings(label))), key=lambda item: item.cost)
        others = [*_other_ways(network.tilings(label), [item.tiling for item in times[:_REFINED]])]
        network.prepare(others)
        times = sorted([*times, *map(timed, others)], key=lambda item: item.cost)
        best = times[0]
        found[signature] = times
        said = ", ".join(
            f"{name} {taken:.1f} us (fastest {min(item.taken[name] for item in times):.1f})"
            for name, taken in best.taken.items()
        )
        sys.stdout.write(f"{signature}: {said}, {best.tiling.choice}\n")


@dataclass(frozen=True)
class _Timed:
    """A tiling with its microseconds by what is computed, and what they count together."""

    tiling: Tiling
    taken: dict[str, float]

    @property
    def cost(self) -> float:
        return sum(_WEIGHTS[name] * time for name, time in self.taken.items())

    @property
    def row(self) -> dict[str, Any]:
        return {**{name: round(time, 2) for name, time in self.taken.items()}, **self.tiling.choice}


def _first_ways(tilings: Iterable[Tiling]) -> list[Tiling]:
    """Each cut in one way: by the copy engine and by turns where it can; what is no convolution has one way."""
    ways: dict[Tiling | tuple[int, ...], Tiling] = {}
    for tiling in tilings:
        cut = tiling.cut if isinstance(tiling, ConvTiling) else tiling
        if cut not in ways or _way(tiling) > _way(ways[cut]):
            ways[cut] = tiling
    return list(ways.values())


def _other_ways(tilings: Iterable[Tiling], timed: Sequence[Tiling]) -> Iterator[Tiling]:
    """The ways of the cuts of some tilings, without these."""
    cuts = {tiling.cut for tiling in timed if isinstance(tiling, ConvTiling)}
    for tiling in tilings:
        if isinstance(tiling, ConvTiling) and tiling.cut in cuts and tiling not in timed:
            yield tiling


def _way(tiling: Tiling) -> tuple[bool, bool]:
    return (tiling.ordered, tiling.staged) if isinstance(tiling, ConvTiling) else (False, False)


def _time_tiling(
    device: CudaDevice,
    network: DeviceNetwork,
    launch: Launch,
    reaches: dict[str, Reach],
    cells: dict[str, NDArray[np.bool_]],
    stream: int,
) -> _Timed:
    taken = {"all": _time_us(device, network, launch, stream)}
    for name, occupied in cells.items():
        tiles = active_tiles(network.tiled(launch.label, launch.tiling, reaches), occupied)
        # As long as the list of all tiles: kernels may read ahead of its end.
        words: NDArray[np.uint32] = np.zeros(launch.arguments.tiles.all, np.uint32)
        words[: len(tiles)] = tiles
        launch.arguments.tiles.list = device.upload_new(words)
        launch.arguments.tiles.counts = device.upload_new(np.array([len(tiles), 0], np.int32))
        taken[name] = _time_us(device, network, launch, stream)
    return _Timed(launch.tiling, taken)


def active_tiles(layer: TiledLayer, cells: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """The list that the device makes of a first frame, of a layer of one part: the tiles whose reach has a cell."""
    sums = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1), np.int64)
    sums[1:, 1:] = cells.cumsum(axis=0).cumsum(axis=1)
    ((rows, columns),) = layer.tile_reaches
    top, bottom, left, right = rows[:, :1], rows[:, 1:] + 1, columns[:, 0], columns[:, 1] + 1
    held = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    row, column = np.nonzero(held)
    return tile_words(row, column, 1)


def _time_us(device: CudaDevice, network: DeviceNetwork, launch: Launch, stream: int) -> float:
    """Of one launch among several in a graph: so short a kernel ends before the host has put the next one there."""
    device.begin_capture(stream)
    for _ in range(_LAUNCHES):
        network.enqueue_layer(launch, stream)
    graph, before, after = device.end_capture(stream), device.create_event(), device.create_event()
    device.launch_graph(graph, stream)
    times = []
    for _ in range(_ROUNDS):
        device.record(before, stream)
        device.launch_graph(graph, stream)
        device.record(after, stream)
        device.wait(after)
        times.append(device.elapsed_ms(before, after) / _LAUNCHES * 1e3)
    return min(times)


if __name__ == "__main__":
    run_main(main)
