"""Times the tilings of every layer of the released models: `python -m benchmarks.gpu_tune --out FILE`.

The file is runtime/cuda_engine/tilings.json, which `runtime.cuda_engine.tiling` reads: a layer of a shape that it lists
is cut as measured, any other as estimated. INT8 results are the same for every tiling.

Each tiling computes all tiles, and those that a street activates in one sweep and in ten: what counts is the time of
ten, with a part of the others. About a minute a model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.files import user_path, write_json
from base.progress import progress
from benchmarks.gpu_cloud import occupied_cells, street_cloud
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.activity import tile_words
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.network import DeviceNetwork
from runtime.cuda_engine.plan import MAP_TYPES
from runtime.cuda_engine.reach import map_reaches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runtime.cuda_engine.activity import TiledLayer
    from runtime.cuda_engine.network import Launch

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
# Ten sweeps, one, and all tiles: what a microsecond of each counts.
_WEIGHTS = {"ten": 1.0, "one": 0.3, "all": 0.5}


def main(arguments: Sequence[str] | None = None) -> int:
    """Tunes and writes the file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_tune", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    add_log_level(parser)
    args = parser.parse_args(arguments)
    return run_command(lambda: _tune_all(args), args.log_level)


def _tune_all(args: argparse.Namespace) -> None:
    found: dict[str, dict[str, int | bool]] = {}
    gpu = ""
    for architecture, cell_m in _MODELS.values():
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
    write_json(user_path(args.out), {"gpu": gpu, "tilings": dict(sorted(found.items()))})
    sys.stdout.write(f"{len(found)} layer shapes on {gpu}\n")


def _tune(
    device: CudaDevice,
    network: DeviceNetwork,
    cells: dict[str, NDArray[np.bool_]],
    found: dict[str, dict[str, int | bool]],
) -> None:
    stream, reaches = device.create_stream(), map_reaches(network.plan)
    shapes = {network.signature(launch.label): launch.label for launch in network.launches}
    new = {signature: label for signature, label in shapes.items() if signature not in found}
    network.prepare(tiling for label in new.values() for tiling in network.tilings(label))
    for signature, label in progress(new.items(), "tuning", len(new), unit="layer"):
        times = []
        for tiling in network.tilings(label):
            launch, layer = network.launch_of(label, tiling), network.tiled(label, tiling, reaches)
            taken = {"all": _time_us(device, network, launch, stream)}
            for name, occupied in cells.items():
                tiles = active_tiles(layer, occupied)
                launch.arguments.tiles.list = device.upload_new(np.append(tiles, np.uint32(0)))
                launch.arguments.tiles.counts = device.upload_new(np.array([len(tiles), 0], np.int32))
                taken[name] = _time_us(device, network, launch, stream)
            times.append((sum(_WEIGHTS[name] * time for name, time in taken.items()), taken, tiling))
        _, best, tiling = min(times, key=lambda item: item[0])
        found[signature] = tiling.choice
        said = ", ".join(
            f"{name} {best[name]:.1f} us (fastest {min(item[1][name] for item in times):.1f})" for name in best
        )
        sys.stdout.write(f"{signature}: {said}, {tiling.choice}\n")


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
