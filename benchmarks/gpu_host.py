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
from benchmarks.drawn_networks import DRAWN, drawn_frame, drawn_spec
from eval.codec import to_json
from eval.machine import MachineInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
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


def measure_sweeps(frame: PointsFrame, model: str, spec: ModelSpec, points: int, *, frames: int) -> list[HostRow]:
    """Ten sweeps of a tenth of the points each: joined on the device, and joined by numpy.

    Args:
        frame: Open, of that capacity.
        model: Its name.
        spec: Of it; with a time lag.
        points: Of ten sweeps together.
        frames: That count of each.
    """
    from runtime.cuda_engine.checks.cases import large_cloud
    from runtime.cuda_engine.checks.sweep_checks import drive
    from runtime.sweeps import JoinedSweeps, SweepSettings

    settings = SweepSettings(9, close_m=1.0)
    ring, host = frame.open_sweeps(settings), JoinedSweeps(spec, settings)
    locked = [frame.intake.new_cloud(points // 10) for _ in range(_CLOUDS)]
    for seed, memory in enumerate(locked):
        memory[:] = large_cloud(spec, len(memory), seed)
    contenders: dict[str, Callable[..., Any]] = {
        "ten sweeps, joined on the device": lambda *given: frame.detect_joined(ring, *given),
        "ten sweeps, joined by numpy": lambda points, *where: frame.detect(host.add(points, *where)),
    }
    rows = []
    for name, run in contenders.items():
        walls, devices = list[float](), list[float]()
        for index, (time_s, pose) in enumerate(drive(frames + 20)):
            begin = time.perf_counter()
            result = run(locked[index % _CLOUDS], time_s, pose)
            if index >= 20:
                walls.append((time.perf_counter() - begin) * 1e3)
                devices.append(sum(result.stages_ms.values()))
        rest = [wall - device for wall, device in zip(walls, devices, strict=True)]
        rows.append(HostRow(model, name, *_percentiles(walls), float(np.median(devices)), *_percentiles(rest)))
    return rows


def copy_rows(points: int, columns: int, repeats: int = 300) -> list[tuple[str, ...]]:
    """Microseconds of the host's copy of a cloud alone, by threads and size of a part: p50, p99."""
    from runtime.cuda_engine import host_copy

    rng = np.random.default_rng(0)
    clouds = [rng.random((points, columns), np.float32) for _ in range(_CLOUDS)]
    target: NDArray[np.float32] = np.zeros_like(clouds[0])
    usual, rows = host_copy.PART_BYTES, []
    try:
        for threads in (1, 2, 3, 4, 6, 8):
            for part_bytes in (1 << 17, 1 << 18, 1 << 19, 1 << 20):
                host_copy.PART_BYTES = part_bytes
                copy, times = host_copy.HostCopy(threads), []
                for index in range(repeats):
                    # As long as a frame takes: threads go to sleep between two clouds.
                    time.sleep(0.001)
                    begin = time.perf_counter()
                    copy.copy(target, clouds[index % _CLOUDS], lambda part: None)
                    times.append((time.perf_counter() - begin) * 1e6)
                copy.close()
                rows.append((str(threads), str(part_bytes >> 10), *(f"{value:.0f}" for value in _percentiles(times))))
    finally:
        host_copy.PART_BYTES = usual
    return rows


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(values, (50, 99))
    return float(p50), float(p99)


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
    for name in DRAWN:
        frame = drawn_frame(device, name, args.points)
        clouds = [large_cloud(drawn_spec(name), args.points, seed) for seed in range(_CLOUDS)]
        rows += measure_frame(frame, name, clouds, frames=args.frames, rounds=args.rounds)
        rows += measure_sweeps(frame, name, drawn_spec(name), args.points, frames=min(args.frames, 200))
        frame.intake.close()
    machine = MachineInfo.current()
    device.close()
    copies = copy_rows(args.points, 5)
    print(text_table(("threads", "part KB", "copy p50 us", "p99"), copies, right=range(4)))  # noqa: T201
    columns = ("model", "cloud in", "wall p50", "p99", "device p50", "host p50", "p99")
    values = [
        (row.model, row.place, *(f"{value:.3f}" for value in (
            row.wall_p50_ms, row.wall_p99_ms, row.device_p50_ms, row.host_p50_ms, row.host_p99_ms)))
        for row in rows
    ]  # fmt: skip
    print(f"{args.points} points, ms\n{text_table(columns, values, right=range(2, 7))}\n{machine.describe()}")  # noqa: T201 - the command's result
    if args.out:
        write_json(
            user_path(args.out), to_json({"points": args.points, "rows": rows, "copies": copies, "machine": machine})
        )
    return EXIT_PASSED


if __name__ == "__main__":
    run_main(main)
