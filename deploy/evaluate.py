"""One backend over a dataset, on one device or on many:
`[torchrun --nproc-per-node N -m | python -m] deploy.evaluate --backend cuda --onnx-dir DIR --data-root DIR --out DIR`.

Under torchrun every process runs frames rank, rank + N, … on a device of its own. The first one sums up: metrics,
counts of inputs and detections are those of a single process.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import DEFAULT_POINTS, FRAMES, whole_number
from base.checks import add_accept, recorded, settle
from base.command import EXIT_FAILED, EXIT_PASSED, EXIT_USAGE, add_log_level, run_command, run_main
from base.determinism import set_determinism
from base.errors import BackendUnavailable, ConfigError
from base.files import sha256_file, user_path
from base.messages import plain_lines
from base.ownership import owned_folder
from base.tables import text_table
from base.torchrun import Processes, joined
from deploy import cli
from deploy.accuracy import limits_on_losses
from deploy.cloud_limit import check_frames
from deploy.config.names import BACKENDS, ONNX_BACKENDS
from deploy.config.paths import input_path
from deploy.config.schema import DeployConfig, GatesConfig
from deploy.devices import resolve_device
from models.known_checks import KNOWN_CHECKS

if TYPE_CHECKING:
    from datasets.frames import Frame, FrameSource
    from eval.evaluator import BackendEvaluation
    from eval.gates import GateResult
    from models.spec import ModelSpec
    from runtime.detector import InspectableDetector

__all__ = ["DETECTIONS", "RESULTS", "main"]

DETECTIONS, RESULTS = "detections.jsonl", "results.json"
# Backend -> the option that says where its network comes from.
_SOURCES = {"pytorch": "checkpoint", "tensorrt": "engine_dir", **dict.fromkeys(ONNX_BACKENDS, "onnx_dir")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description="Score one backend on a dataset; write results.json and detections.jsonl. Under torchrun, "
        "processes share the frames, one GPU each, to the same result.",
        epilog="Exit code: 0 done; 1 so much was lost on the way into the network that the score says little; 2 wrong "
        "input or configuration, or the backend cannot run here.",
    )
    parser.add_argument("--backend", required=True, choices=BACKENDS, help="what runs the network")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of everything the command writes")
    model = parser.add_argument_group("the model")
    model.add_argument("--model-config", default=cli.DEFAULT_MODEL_CONFIG, metavar="PY", help="default %(default)s")
    model.add_argument("--checkpoint", metavar="PTH", help="weights, for pytorch; what ONNX files must come from")
    model.add_argument(
        "--onnx-dir", metavar="DIR", help="ONNX files, for onnx, openvino, cuda; what engines must be of"
    )
    model.add_argument("--engine-dir", metavar="DIR", help="engines, for tensorrt")
    model.add_argument(
        "--rot-y-axis-reference", action="store_true", help="the files were exported in Autoware's convention"
    )
    data = parser.add_argument_group("the frames")
    data.add_argument("--data-root", metavar="DIR", help="dataset; default: the model config's")
    data.add_argument("--info-file", metavar="PKL", help="of the dataset, relative to it; default: the model config's")
    data.add_argument(
        "--num-samples", type=FRAMES, default=-1, metavar="N", help="frames to score; -1 (default) is all"
    )
    data.add_argument(
        "--warmup",
        type=whole_number(0, 1_000_000),
        default=2,
        metavar="N",
        help="frames of each process that are not timed (%(default)s)",
    )
    cli.add_max_points(data)
    data.add_argument("--nuscenes", action="store_true", help="also nuScenes' official score, with NDS")
    run = parser.add_argument_group("how to run")
    run.add_argument(
        "--device", default="auto", help="auto (default), cpu, cuda or cuda:N; under torchrun not the last"
    )
    run.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="CPU threads of each process; with another number the last digits of a CPU backend may differ (1)",
    )
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    with joined() as processes:
        return run_command(
            lambda: processes.run(lambda: _evaluate_owning(args, processes), EXIT_USAGE),
            processes.log_level(args.log_level),
            args.accept,
        )


def _evaluate_owning(args: argparse.Namespace, processes: Processes) -> int:
    with owned_folder(user_path(args.out), "--out") if processes.is_first else contextlib.nullcontext():
        return _evaluate(args, processes)


def _evaluate(args: argparse.Namespace, processes: Processes) -> int:
    from datasets.frames import open_frames
    from deploy.detectors import cannot_run_here
    from eval.evaluator import run_frames, summarize
    from eval.losses import judge_losses
    from eval.ranges import reach_of
    from models.config import load_model_config
    from models.spec import ModelSpec

    begin = time.monotonic()
    if getattr(args, _SOURCES[args.backend]) is None:
        raise ConfigError(f"--backend={args.backend} needs --{_SOURCES[args.backend].replace('_', '-')}.")
    if args.threads < 1:
        raise ConfigError(f"--threads is {args.threads}; give 1 or more.")
    cfg = load_model_config(input_path(args.model_config))
    spec = dataclasses.replace(ModelSpec.from_config(cfg), rot_y_axis_reference=args.rot_y_axis_reference)
    if args.nuscenes:
        from eval.metrics.nuscenes_frames import check_nuscenes_classes

        check_nuscenes_classes(spec.class_names, spec.post_max_size * len(spec.tasks), args.model_config)
    frames = open_frames(cfg, "val", args.data_root, args.info_file)
    if processes.is_first:
        frames.check_ground_truth(args.num_samples, reach_of(spec))
    if processes.is_first:
        check_frames(frames, args.num_samples, args.max_points or DEFAULT_POINTS, spec)
    try:
        detector, precision = _open(args, cfg, spec, _device(args, processes))
        with detector:
            runs = run_frames(
                detector,
                _Watched(frames, processes),
                num_samples=args.num_samples,
                warmup=args.warmup,
                share=(processes.rank, processes.size),
                show_progress=processes.is_first,
            )
            shares = processes.gather((detector.device, runs))
            if shares is None:
                return EXIT_PASSED
            everything = [run for _, share in shares for run in share]
            result = summarize(detector, everything, precision=precision, nuscenes=args.nuscenes)
            settle(judge_losses(result.summary))
    except BackendUnavailable as unavailable:
        raise cannot_run_here(args.backend, unavailable) from unavailable
    devices = [device for device, _ in shares]
    gates = limits_on_losses(result.summary, GatesConfig())
    _write(args, spec, result, devices, gates, time.monotonic() - begin)
    summary = _summary(result, devices, gates, user_path(args.out))
    print(plain_lines(f"\n{summary}"))  # noqa: T201 - what the command is for
    return EXIT_FAILED if any(gate.status == "FAILED" for gate in gates) else EXIT_PASSED


class _Watched:
    """Frames that end when another process has failed."""

    def __init__(self, frames: FrameSource, processes: Processes) -> None:
        self._frames, self._processes = frames, processes

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Frame:
        self._processes.check()
        return self._frames[index]


def _device(args: argparse.Namespace, processes: Processes) -> str:
    name: str = args.device
    if name == "auto" and processes.size > 1:
        found = resolve_device("auto", args.backend, DeployConfig())
        name = "cpu" if found == "cpu" else "cuda"
    return resolve_device(processes.device(name), args.backend, DeployConfig())


def _open(args: argparse.Namespace, cfg: Any, spec: ModelSpec, device: str) -> tuple[InspectableDetector, str]:
    """The detector, and what its network computes in."""
    from deploy.detectors import DetectorFiles, Network, open_checked_detector

    checkpoint = None if args.checkpoint is None else input_path(args.checkpoint)
    network = None
    if args.backend == "pytorch":
        from export.rotation import fold_rot_y_axis_reference
        from models.build import build_model, load_checkpoint

        assert checkpoint is not None
        model = build_model(cfg)
        load_checkpoint(model, checkpoint)
        if spec.rot_y_axis_reference:
            model, _ = fold_rot_y_axis_reference(model, dataclasses.replace(spec, rot_y_axis_reference=False))
        network = Network(model)
    onnx_dir, engine_dir = (None if path is None else user_path(path) for path in (args.onnx_dir, args.engine_dir))
    set_determinism(0, threads=args.threads)
    files = DetectorFiles(network, onnx_dir, engine_dir, checkpoint)
    return open_checked_detector(
        args.backend,
        files,
        spec=spec,
        device=device,
        threads=args.threads,
        max_points=args.max_points or DEFAULT_POINTS,
    )


def _write(
    args: argparse.Namespace,
    spec: ModelSpec,
    result: BackendEvaluation,
    devices: list[str],
    gates: list[GateResult],
    seconds: float,
) -> None:
    from eval.detections_file import write_detections
    from eval.machine import package_versions
    from eval.results import RunResults, StepResult, write_results

    out = user_path(args.out)
    checkpoint = None if args.checkpoint is None else input_path(args.checkpoint)
    run = {
        "mode": "evaluate",
        "precision": result.summary.precision,
        "rot_y_axis_reference": args.rot_y_axis_reference,
        "checkpoint": None if checkpoint is None else checkpoint.name,
        "checkpoint_sha256": None if checkpoint is None else sha256_file(checkpoint),
        "model_config": Path(args.model_config).name,
        "dataset": args.data_root,
        "processes": len(devices),
        "devices": devices,
        "threads": args.threads,
    }
    reasons = "; ".join(gate.reason for gate in gates if gate.reason)
    results = RunResults(
        title=spec.name,
        run=run,
        steps=(StepResult(f"evaluate {args.backend}", "FAILED" if reasons else "PASSED", reasons, round(seconds, 3)),),
        gates=tuple(gates),
        evaluations=(result.summary,),
        nuscenes=() if result.nuscenes is None else (result.nuscenes,),
        driving=() if result.driving is None else (result.driving,),
        detections={result.summary.label: DETECTIONS},
        checks=recorded(),
        versions=package_versions(),
    )
    # The record names the detections: an earlier one goes before new detections come.
    (out / RESULTS).unlink(missing_ok=True)
    write_detections(result.frames, spec.class_names, out / DETECTIONS)
    write_results(results, out / RESULTS)


def _summary(result: BackendEvaluation, devices: list[str], gates: list[GateResult], out: Path) -> str:
    from eval.losses import loss_lines

    summary, total = result.summary, result.latency["total"]
    row = (
        summary.label,
        f"{summary.metrics.mean_ap:.4f}" if summary.metrics.total.num_ground_truth else "none",
        *(() if result.nuscenes is None else (f"{result.nuscenes.nds:.4f}",)),
        f"{total.p50:.1f} ms",
        f"{total.p99:.1f} ms",
        str(summary.num_frames),
        f"{len(devices)} on {', '.join(dict.fromkeys(devices))}",
    )
    more = () if result.nuscenes is None else ("NDS",)
    header = ("backend", "mAP", *more, "p50 latency", "p99 latency", "frames", "processes")
    parts = [text_table(header, [row]), *(["\n".join(lines)] if (lines := loss_lines([summary])) else [])]
    parts += [f"FAILED: {gate.reason}" for gate in gates if gate.reason]
    return "\n\n".join([*parts, f"{out / RESULTS}, {out / DETECTIONS}"])


if __name__ == "__main__":
    run_main(main)
