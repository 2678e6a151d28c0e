"""What a frame costs beside the GPU's work: wall time less device time, by where the caller's cloud lies.

    python -m benchmarks.gpu_host [--points 271156] [--frames 400] [--rounds 5] [--out host.json]

Networks of the released sizes with drawn weights, INT8: no file is needed. Clouds differ from frame to frame. Device
time is the sum of the stages of the same cloud in page-locked memory, between events of the graph: a cloud elsewhere
costs the device no more. Contenders take turns.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.arguments import whole_number
from base.command import EXIT_PASSED, add_log_level, run_command, run_main
from base.files import user_path, write_json
from base.tables import text_table
from eval.codec import to_json
from eval.machine import MachineInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.frame import DeviceFrame
    from runtime.cuda_engine.points_frame import PointsFrame

__all__ = ["HostRow", "measure_frame"]

_CLOUDS = 8


@dataclass(frozen=True)
class HostRow:
    """One place where clouds lie, or one way to take results.

    Attributes:
        model, place: What and where.
        wall_p50_ms, wall_p99_ms: Of a call from a cloud to a result.
        device_p50_ms: Sum of the stages of page-locked clouds.
        host_p50_ms, host_p99_ms: Wall time less that sum, frame by frame.
    """

    model: str
    place: str
    wall_p50_ms: float
    wall_p99_ms: float
    device_p50_ms: float
    host_p50_ms: float
    host_p99_ms: float


def measure_frame(
    frame: PointsFrame, model: str, clouds: Sequence[NDArray[np.float32]], *, frames: int, rounds: int
) -> list[HostRow]:
    """Rows of one model; every contender has its turn in every round.

    Args:
        frame: Open.
        model: Its name.
        clouds: At least one, of any memory.
        frames: Of a turn.
        rounds: Turns.
    """
    locked = [frame.intake.new_cloud(len(cloud)) for cloud in clouds]
    for memory, cloud in zip(locked, clouds, strict=True):
        memory[:] = cloud
    wide = [np.concatenate([cloud, cloud[:, :1]], axis=1) for cloud in clouds]
    for memory in wide:
        frame.intake.lock(memory)
    columns = clouds[0].shape[1]
    contenders: dict[str, Callable[[int], Any]] = {
        "page-locked": lambda i: frame.detect(locked[i]),
        "page-locked, boxes read": lambda i: frame.detect(locked[i]).boxes,
        "page-locked, one column too many": lambda i: frame.detect(wide[i][:, :columns]),
        "other memory": lambda i: frame.detect(clouds[i]),
        "page-locked, copied ahead": lambda i: next(frame.detect_all([locked[i]])),
    }
    device_ms = [
        float(np.median([sum(frame.detect(memory).stages_ms.values()) for _ in range(40)])) for memory in locked
    ]
    walls: dict[str, list[float]] = {name: [] for name in contenders}
    hosts: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    for _ in range(rounds):
        for name, run in contenders.items():
            for index in range(5):
                run(index % len(clouds))
            for index in range(frames):
                which = index % len(clouds)
                begin = time.perf_counter()
                run(which)
                wall = (time.perf_counter() - begin) * 1e3
                walls[name].append(wall)
                hosts[name].append(wall - device_ms[which])
    device = float(np.median(device_ms))
    return [
        HostRow(
            model, name, *_percentiles(walls[name]), device, *_percentiles(hosts[name])
        )
        for name in contenders
    ]  # fmt: skip


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(values, (50, 99))
    return float(p50), float(p99)


def _frames(device: CudaDevice, points: int) -> list[tuple[str, DeviceFrame, ModelSpec]]:
    from runtime.cuda_engine.checks.cases import engine_spec, random_weights, stock_spec
    from runtime.cuda_engine.checks.frame_checks import stock_architecture
    from runtime.cuda_engine.checks.random_plans import Architecture, random_plan
    from runtime.cuda_engine.frame import DeviceFrame

    released, stock = engine_spec(760), stock_spec()
    plans = {
        "760 x 760": (released, Architecture((760, 760)), 16),
        "stock, six tasks": (stock, stock_architecture(stock), 0),
    }
    return [
        (
            name,
            DeviceFrame(device, spec, random_plan(plan, "int8"), random_weights(spec, hidden), capacity=points),
            spec,
        )
        for name, (spec, plan, hidden) in plans.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="gpu_host", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--points", type=whole_number(1, 1 << 24), default=271_156, help="default %(default)s")
    parser.add_argument("--frames", type=whole_number(1, 1 << 20), default=400, help="of a turn, default %(default)s")
    parser.add_argument("--rounds", type=whole_number(1, 1000), default=5, help="turns, default %(default)s")
    parser.add_argument("--device", type=whole_number(0, 1023), default=0, help="index of the CUDA device")
    parser.add_argument("--out", metavar="JSON", help="where to write the rows")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _measure(args), args.log_level)


def _measure(args: argparse.Namespace) -> int:
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.checks.cases import large_cloud

    rows: list[HostRow] = []
    device = CudaDevice.open(args.device)
    for name, frame, spec in _frames(device, args.points):
        clouds = [large_cloud(spec, args.points, seed) for seed in range(_CLOUDS)]
        rows += measure_frame(frame, name, clouds, frames=args.frames, rounds=args.rounds)
        frame.intake.close()
    machine = MachineInfo.current()
    device.close()
    columns = ("model", "cloud in", "wall p50", "p99", "device p50", "host p50", "p99")
    values = [
        (row.model, row.place, *(f"{value:.3f}" for value in (
            row.wall_p50_ms, row.wall_p99_ms, row.device_p50_ms, row.host_p50_ms, row.host_p99_ms)))
        for row in rows
    ]  # fmt: skip
    print(f"{args.points} points, ms\n{text_table(columns, values, right=range(2, 7))}\n{machine.describe()}")  # noqa: T201 - the command's result
    if args.out:
        write_json(user_path(args.out), to_json({"points": args.points, "rows": rows, "machine": machine}))
    return EXIT_PASSED


if __name__ == "__main__":
    run_main(main)
