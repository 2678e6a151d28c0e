"""Times the tilings of every layer of the released models: `python -m runtime.cuda_engine.tune --out FILE`.

The file is runtime/cuda_engine/tilings.json, which `tiling` reads: a layer of a shape that it lists is cut as measured,
any other as estimated. INT8 results are the same for every tiling.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.files import user_path, write_json
from base.progress import progress
from runtime.cuda.device import CudaDevice
from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
from runtime.cuda_engine.network import DeviceNetwork
from runtime.cuda_engine.plan import MAP_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.cuda_engine.network import Launch

__all__ = ["main"]

# The model configs in configs/model.
_ARCHITECTURES = (
    Architecture((760, 760)),
    Architecture((1020, 1020), upsamples=(0.5, 1, 2)),
    Architecture((320, 320), channels=(64, 128, 192), depths=(3, 5, 3), strides=(2, 2, 2), neck_channels=96),
)
_REPEATS, _ROUNDS = 10, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Tunes and writes the file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m runtime.cuda_engine.tune", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    add_log_level(parser)
    args = parser.parse_args(arguments)
    return run_command(lambda: _tune_all(args), args.log_level)


def _tune_all(args: argparse.Namespace) -> None:
    found: dict[str, dict[str, int | bool]] = {}
    gpu = ""
    for architecture in _ARCHITECTURES:
        for map_type in MAP_TYPES:
            # A device of its own for each network: its memory is freed with it.
            device = CudaDevice.open(args.device)
            gpu = device.name
            plan = random_plan(architecture, map_type)
            _tune(device, DeviceNetwork(device, plan), found)
            device.close()
    write_json(user_path(args.out), {"gpu": gpu, "tilings": dict(sorted(found.items()))})
    sys.stdout.write(f"{len(found)} layer shapes on {gpu}\n")


def _tune(device: CudaDevice, network: DeviceNetwork, found: dict[str, dict[str, int | bool]]) -> None:
    stream = device.create_stream()
    shapes = {network.signature(launch.label): launch.label for launch in network.launches}
    new = {signature: label for signature, label in shapes.items() if signature not in found}
    network.prepare(tiling for label in new.values() for tiling in network.tilings(label))
    for signature, label in progress(new.items(), "tuning", len(new), unit="layer"):
        launches = [network.launch_of(label, tiling) for tiling in network.tilings(label)]
        times = [min(_time_us(device, network, launch, stream) for _ in range(_ROUNDS)) for launch in launches]
        best = launches[times.index(min(times))]
        found[signature] = best.tiling.choice
        sys.stdout.write(f"{signature}: {min(times):.1f} us, first choice {times[0]:.1f} us, {best.tiling.choice}\n")


def _time_us(device: CudaDevice, network: DeviceNetwork, launch: Launch, stream: int) -> float:
    before, after = device.create_event(), device.create_event()
    network.enqueue_layer(launch, stream)
    device.record(before, stream)
    for _ in range(_REPEATS):
        network.enqueue_layer(launch, stream)
    device.record(after, stream)
    device.wait(after)
    return device.elapsed_ms(before, after) / _REPEATS * 1e3


if __name__ == "__main__":
    run_main(main)
