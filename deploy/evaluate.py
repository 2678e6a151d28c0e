"""One backend over a dataset, on one device or on many:
`[torchrun --nproc-per-node N -m | python -m] deploy.evaluate --backend cuda --onnx-dir DIR --data-root DIR --out DIR`.

Under torchrun every process runs frames rank, rank + N, … on a device of its own. The first one sums up: metrics,
counts of inputs and detections are those of a single process. `--part K/N` does the same on machines that know nothing
of each other, and `--merge` sums up their files.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import DEFAULT_POINTS, FRAMES, whole_number
from base.checks import add_accept, found_since, recorded
from base.command import EXIT_PASSED, EXIT_USAGE, add_log_level, run_command, run_main
from base.determinism import set_determinism
from base.errors import BackendUnavailable, ConfigError
from base.files import sha256_file, user_path
from base.messages import plain_lines
from base.ownership import owned_folder
from base.parts import PART_MARK
from base.shares import SHARE, Share
from base.torchrun import Processes, joined
from deploy import cli
from deploy.cloud_limit import check_frames
from deploy.config.names import BACKENDS, ONNX_BACKENDS
from deploy.config.paths import input_path
from deploy.config.schema import DeployConfig
from deploy.devices import resolve_device
from deploy.evaluation_record import Evaluated, conclude, merge_parts
from deploy.work_dir import marks_of
from models.known_checks import KNOWN_CHECKS

if TYPE_CHECKING:
    from base.checks import CheckResult
    from datasets.frames import Frame, FrameSource
    from eval.frame_run import FrameRun
    from models.spec import ModelSpec
    from runtime.detector import InspectableDetector

__all__ = ["main"]

# What --merge takes from the parts.
_OF_THE_PARTS = ("backend", "checkpoint", "onnx_dir", "engine_dir", "data_root", "info_file", "untimed", "nuscenes")
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
    parser.add_argument("--backend", choices=BACKENDS, help="what runs the network")
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
    run.add_argument(
        "--untimed", action="store_true", help="tell no latencies and no machine: results.json repeats byte for byte"
    )
    parts = run.add_mutually_exclusive_group()
    parts.add_argument(
        "--part",
        type=SHARE,
        metavar="K/N",
        help="run the K-th of every N frames, untimed, and write part-K-of-N.json into --out",
    )
    parts.add_argument(
        "--merge",
        nargs="+",
        default=[],
        metavar="JSON",
        help="score all N parts, to the bytes of one run with --untimed; needs no other option but --out",
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
    if not processes.is_first:
        return _evaluate(args, processes)
    marks = marks_of("results.json", "detections.jsonl") if args.part is None else {_part_name(args.part): PART_MARK}
    with owned_folder(user_path(args.out), "--out", marks=marks):
        return _evaluate(args, processes)


def _evaluate(args: argparse.Namespace, processes: Processes) -> int:
    out = user_path(args.out)
    if args.merge:
        _require_nothing_else(args, processes)
        return merge_parts([user_path(path) for path in args.merge], out)
    if args.part is not None and processes.size > 1:
        raise ConfigError(
            "--part is for machines that know nothing of each other; start one process, without torchrun."
        )
    _check_arguments(args)
    return _run(args, processes, out)


def _require_nothing_else(args: argparse.Namespace, processes: Processes) -> None:
    """The parts say what was evaluated: an option that says it again could only contradict them."""
    given = [f"--{name.replace('_', '-')}" for name in _OF_THE_PARTS if getattr(args, name)]
    if given or processes.size > 1:
        raise ConfigError(f"--merge takes all from the parts; leave out {', '.join(given) or 'torchrun'}.")


def _check_arguments(args: argparse.Namespace) -> None:
    if args.backend is None:
        raise ConfigError(f"--backend is missing; give one of {', '.join(BACKENDS)}.")
    if getattr(args, _SOURCES[args.backend]) is None:
        raise ConfigError(f"--backend={args.backend} needs --{_SOURCES[args.backend].replace('_', '-')}.")
    if args.threads < 1:
        raise ConfigError(f"--threads is {args.threads}; give 1 or more.")


def _run(args: argparse.Namespace, processes: Processes, out: Path) -> int:
    from datasets.frames import open_frames
    from deploy.detectors import cannot_run_here
    from eval.evaluator import run_frames
    from eval.ranges import reach_of
    from models.config import load_model_config
    from models.spec import ModelSpec

    begin = time.monotonic()
    cfg = load_model_config(input_path(args.model_config))
    spec = dataclasses.replace(ModelSpec.from_config(cfg), rot_y_axis_reference=args.rot_y_axis_reference)
    if args.nuscenes:
        from eval.metrics.nuscenes_frames import check_nuscenes_classes

        check_nuscenes_classes(spec.class_names, spec.post_max_size * len(spec.tasks), args.model_config)
    frames = open_frames(cfg, "val", args.data_root, args.info_file)
    share: Share = args.part or Share(processes.rank + 1, processes.size)
    if share.number == 1:
        frames.check_ground_truth(args.num_samples, reach_of(spec))
        check_frames(frames, args.num_samples, args.max_points or DEFAULT_POINTS, spec)
    count = len(frames) if args.num_samples == -1 else args.num_samples
    if args.part is not None and not share.indices(count):
        raise ConfigError(f"There is no part {share} of {count} frames; cut them into fewer parts.")
    opening = recorded()
    try:
        detector, precision = _open(args, cfg, spec, _device(args, processes))
        with detector:
            runs = run_frames(
                detector,
                _Watched(frames, processes),
                num_samples=args.num_samples,
                warmup=0 if args.untimed or args.part is not None else args.warmup,
                share=(share.number - 1, share.of),
                show_progress=processes.is_first,
            )
            shares = processes.gather((detector.device, runs))
            if shares is None:
                return EXIT_PASSED
            what = _evaluated(args, detector, precision, frames.info_sha256, count)
            if args.part is not None:
                return _write_part(args, what, opening, runs, detector.device)
            everything = [run for _, own in shares for run in own]
            devices = [device for device, _ in shares]
            seconds = None if args.untimed else time.monotonic() - begin
            return conclude(what, everything, devices=devices, dataset=args.data_root, seconds=seconds, out=out)
    except BackendUnavailable as unavailable:
        raise cannot_run_here(args.backend, unavailable) from unavailable


def _evaluated(
    args: argparse.Namespace, detector: InspectableDetector, precision: str, info_sha256: str, frames: int
) -> Evaluated:
    from eval.machine import package_versions

    checkpoint = None if args.checkpoint is None else input_path(args.checkpoint)
    folders = ((args.onnx_dir, "*.onnx"), (args.engine_dir, "*.engine"))
    files = [file for folder, names in folders if folder is not None for file in user_path(folder).glob(names)]
    return Evaluated(
        backend=detector.name,
        precision=precision,
        decode=detector.decoder.name,
        spec=detector.spec.to_dict(),
        classes=detector.spec.class_names,
        config=Path(args.model_config).name,
        checkpoint=None if checkpoint is None else checkpoint.name,
        checkpoint_sha256=None if checkpoint is None else sha256_file(checkpoint),
        files={file.name: sha256_file(file) for file in sorted(files)},
        info_sha256=info_sha256,
        frames=frames,
        threads=args.threads,
        nuscenes=args.nuscenes,
        versions=package_versions(),
    )


def _write_part(
    args: argparse.Namespace,
    what: Evaluated,
    opening: tuple[CheckResult, ...],
    runs: Sequence[FrameRun],
    device: str,
) -> int:
    from eval.parts import EvaluationPart, write_evaluation_part

    path = user_path(args.out) / _part_name(args.part)
    part = EvaluationPart(device, args.data_root, tuple(runs), opening, found_since(opening))
    write_evaluation_part(path, args.part, what.model_dump(), part)
    print(plain_lines(f"{path}: part {args.part} of the evaluation, {len(runs)} of {what.frames} frames"))  # noqa: T201
    return EXIT_PASSED


def _part_name(part: Share) -> str:
    return f"part-{part.number}-of-{part.of}.json"


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


if __name__ == "__main__":
    run_main(main)
