"""CenterPoint on a CPU: PyTorch, ONNX Runtime and OpenVINO, FP32 and INT8, on the instructions that newer CPUs have.

    python -m benchmarks.cpu --model-config CONFIG --fp32 DIR --int8 DIR [--mixed DIR] [--checkpoint FILE]
        [--data-root DIR] [--threads 2] [--rounds 10] [--out FILE.json]

Every contender is a process of its own, with as many cores as it has threads; all are open before the first frame is
timed, and they take turns, in another order each round, so that clocks and neighbours treat all alike. A turn begins
with frames that are not counted: a detector that runs all the time does not find caches that another one filled, nor
threads of another that still wait for work. Ratios are medians of the ratios of a round.
OpenVINO's integer kernels are measured on AMX, on AVX512-VNNI and on AVX2 by oneDNN's ONEDNN_MAX_CPU_ISA; ONNX Runtime
has no such switch and runs on the best that it finds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import whole_number
from base.command import EXIT_PASSED, add_log_level, run_command, run_main
from base.files import user_path, write_json
from base.progress import progress
from base.tables import text_table
from eval.codec import to_json
from eval.machine import MachineInfo, package_versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CONTENDERS", "Contender", "CpuReport", "CpuRow", "main", "measure"]

_MODEL_CONFIG = "configs/model/centerpoint_t4_demo.py"
_ISA = "ONEDNN_MAX_CPU_ISA"
_WARMUP = 3
_SETTLE = 2


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        backend: "pytorch", "onnx" or "openvino".
        precision: "fp32", "int8", or "mixed": INT8 files of which some layers stay in floating point.
        isa: Limit of oneDNN's instructions; empty for none.
    """

    backend: str
    precision: str
    isa: str = ""

    @property
    def label(self) -> str:
        """Backend, precision and instructions."""
        return " ".join(part for part in (self.backend, self.precision, _SHOWN.get(self.isa, self.isa)) if part)


_SHOWN = {"AVX512_CORE_VNNI": "VNNI", "AVX2": "AVX2"}
CONTENDERS = (
    Contender("pytorch", "fp32"),
    Contender("onnx", "fp32"),
    Contender("onnx", "int8"),
    Contender("openvino", "fp32"),
    Contender("openvino", "int8"),
    Contender("openvino", "int8", "AVX512_CORE_VNNI"),
    Contender("openvino", "int8", "AVX2"),
    Contender("openvino", "mixed"),
    Contender("openvino", "mixed", "AVX512_CORE_VNNI"),
)
"""In the order of the table; ratios are to the second. Those of a precision that has no files are left out."""
_BASE = CONTENDERS[1]


@dataclass(frozen=True)
class CpuRow:
    """A contender in the table.

    Attributes:
        contender: Which.
        stages_ms: Stage -> median of all frames, milliseconds; "total" last.
        ratio: ONNX Runtime's FP32 frame over this one's: medians of a round, their median.
        skipped: Why it was not measured; nothing else holds then.
    """

    contender: Contender
    stages_ms: dict[str, float]
    ratio: float
    skipped: str = ""


@dataclass(frozen=True)
class CpuReport:
    """All contenders of one run."""

    model: str
    threads: int
    rounds: int
    points: int
    rows: tuple[CpuRow, ...]
    machine: MachineInfo
    versions: dict[str, str]

    def table(self) -> str:
        """Stages by column."""
        stages = next(tuple(row.stages_ms) for row in self.rows if row.stages_ms)
        rows: list[tuple[str, ...]] = []
        for row in self.rows:
            if row.skipped:
                rows.append((row.contender.label, f"SKIPPED: {row.skipped}"))
            else:
                values = (f"{row.stages_ms[stage]:.1f}" for stage in stages)
                rows.append((row.contender.label, *values, f"{row.ratio:.2f}"))
        return text_table(("", *stages, "ratio"), rows, right=range(1, 2 + len(stages)))


@dataclass(frozen=True)
class _Job:
    """What a contender's process needs."""

    contender: Contender
    model_config: Path
    checkpoint: Path | None
    folders: dict[str, Path]
    threads: int


def _serve(connection: Connection, job: _Job, cores: Sequence[int], clouds: Sequence[NDArray[np.float32]]) -> None:
    """A contender's process: opens its detector, then times a pass over the clouds whenever it is asked for one."""
    os.sched_setaffinity(0, cores)
    if job.contender.isa:
        os.environ[_ISA] = job.contender.isa
    from base.errors import UserError

    try:
        detector = _open(job)
    except UserError as reason:
        connection.send(str(reason))
        return
    for index in range(_WARMUP):
        detector(clouds[index % len(clouds)])
    connection.send("")
    while connection.recv():
        for index in range(_SETTLE):
            detector(clouds[index % len(clouds)])
        frames = [detector(cloud) for cloud in clouds]
        connection.send([{**frame.stages_ms, "total": frame.total_ms} for frame in frames])
    detector.close()


def _open(job: _Job) -> Any:
    from deploy.detectors import DetectorFiles, Network, open_checked_detector
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from models.spec import ModelSpec

    cfg = load_model_config(job.model_config)
    spec = ModelSpec.from_config(cfg)
    files = DetectorFiles(onnx_dir=job.folders[job.contender.precision])
    if job.contender.backend == "pytorch":
        import torch

        torch.set_num_threads(job.threads)
        model = build_model(cfg)
        if job.checkpoint is not None:
            load_checkpoint(model, job.checkpoint)
        files = DetectorFiles(Network(model))
    return open_checked_detector(job.contender.backend, files, spec=spec, device="cpu", threads=job.threads)[0]


def measure(
    model_config: Path,
    checkpoint: Path | None,
    folders: Mapping[str, Path],
    clouds: Sequence[NDArray[np.float32]],
    *,
    threads: int,
    rounds: int,
    contenders: Sequence[Contender] = CONTENDERS,
) -> tuple[CpuRow, ...]:
    """Times the contenders by turns.

    Args:
        model_config, checkpoint: The model; without a checkpoint PyTorch has seeded weights.
        folders: Precision -> folder with both ONNX files; "mixed" may be absent.
        clouds: (N, C) float32 each; a turn is one pass over them, behind the first frames again.
        threads: Of each contender; it is bound to as many cores.
        rounds: Turns of each.
    """
    cores = sorted(os.sched_getaffinity(0))[:threads]
    context = multiprocessing.get_context("spawn")
    processes, ends, skipped = [], {}, {}
    contenders = [contender for contender in contenders if contender.precision in folders]
    for contender in contenders:
        here, there = context.Pipe()
        job = _Job(contender, model_config, checkpoint, dict(folders), threads)
        process = context.Process(target=_serve, args=(there, job, cores, list(clouds)), daemon=True)
        process.start()
        there.close()
        processes.append(process)
        try:
            reason = here.recv()
        except EOFError:
            reason = "its process ended; see the messages above"
        if reason:
            skipped[contender] = str(reason)
        else:
            ends[contender] = here
    turns: dict[Contender, list[list[dict[str, float]]]] = {contender: [] for contender in ends}
    shuffle = random.Random(0).shuffle
    for _ in progress(range(rounds), "rounds"):
        order = list(ends)
        shuffle(order)
        for contender in order:
            ends[contender].send(True)
            turns[contender].append(ends[contender].recv())
    for end in ends.values():
        end.send(False)
    for process in processes:
        process.join()
    return tuple(_row(contender, turns, skipped.get(contender, "")) for contender in contenders)


def _row(contender: Contender, turns: Mapping[Contender, list[list[dict[str, float]]]], skipped: str) -> CpuRow:
    if skipped:
        return CpuRow(contender, {}, float("nan"), skipped)
    frames = [frame for turn in turns[contender] for frame in turn]
    stages = {stage: statistics.median(frame[stage] for frame in frames) for stage in frames[0]}
    ratio = float("nan")
    if _BASE in turns:
        pairs = zip(turns[_BASE], turns[contender], strict=True)
        ratio = statistics.median(_turn_ms(base) / _turn_ms(own) for base, own in pairs)
    return CpuRow(contender, stages, ratio)


def _turn_ms(frames: Sequence[Mapping[str, float]]) -> float:
    return statistics.median(frame["total"] for frame in frames)


def _clouds(args: argparse.Namespace) -> list[NDArray[np.float32]]:
    from deploy.config.paths import input_path
    from models.config import load_model_config
    from models.spec import ModelSpec

    cfg = load_model_config(input_path(args.model_config))
    if args.data_root:
        from datasets.frames import open_frames

        source = open_frames(cfg, "val", str(input_path(args.data_root)))
        return [source[index].points for index in range(min(len(source), args.frames))]
    from benchmarks.gpu_cloud import lidar_cloud

    columns = ModelSpec.from_config(cfg).point_columns
    return [lidar_cloud(args.points, columns, seed) for seed in range(args.frames)]


def _run(args: argparse.Namespace) -> int:
    from deploy.config.paths import input_path

    clouds = _clouds(args)
    given = {"fp32": args.fp32, "int8": args.int8, "mixed": args.mixed}
    folders = {precision: input_path(folder) for precision, folder in given.items() if folder}
    config = input_path(args.model_config)
    checkpoint = input_path(args.checkpoint) if args.checkpoint else None
    rows = measure(config, checkpoint, folders, clouds, threads=args.threads, rounds=args.rounds)
    points = round(statistics.mean(len(cloud) for cloud in clouds))
    machine = MachineInfo.current()
    report = CpuReport(config.stem, args.threads, args.rounds, points, rows, machine, package_versions())
    print(f"{report.model}, {points} points, {args.threads} threads, milliseconds\n{report.table()}")  # noqa: T201
    if args.out:
        write_json(user_path(args.out), to_json(report) | {"instructions": _instructions()})
    return EXIT_PASSED


def _instructions() -> list[str]:
    """What of a CPU matters here, as Linux names it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []
    return sorted({"avx2", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16"} & set(flags))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="cpu", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model-config", default=_MODEL_CONFIG, help="default %(default)s")
    parser.add_argument("--checkpoint", help="weights of PyTorch; seeded where left out")
    parser.add_argument("--fp32", required=True, metavar="DIR", help="both ONNX files, FP32")
    parser.add_argument("--int8", required=True, metavar="DIR", help="both ONNX files, INT8")
    parser.add_argument("--mixed", metavar="DIR", help="both ONNX files, INT8 with layers in floating point")
    parser.add_argument("--data-root", metavar="DIR", help="T4 dataset; generated clouds where left out")
    parser.add_argument("--frames", type=whole_number(1, 1000), default=5, help="of a turn, default %(default)s")
    parser.add_argument("--points", type=whole_number(1, 10**7), default=200_000, help="of each generated cloud")
    parser.add_argument("--threads", type=whole_number(1, 1024), default=2, help="default %(default)s")
    parser.add_argument("--rounds", type=whole_number(1, 10**4), default=10, help="default %(default)s")
    parser.add_argument("--out", metavar="JSON", help="where to write the results")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


if __name__ == "__main__":
    run_main(main)
