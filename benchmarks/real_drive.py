"""Scores a model on a real drive, in FP32, FP16 and INT8: AP with intervals, headings, and what INT8 does to the boxes.

    python -m benchmarks.real_drive --data data/kitti_drive --unlabelled data/kitti_unlabelled \
        --calibration generated=data/t4train real=data/kitti_unlabelled --output work_dirs/real_drive

`--data` holds `labels.json` and the scans that it names (docs/benchmarks/real_drive.md). z is lifted by the LiDAR's
1.73 m, reflectance becomes 0..255, a scan is one sweep with a time lag of 0. What was prepared or scored stays in the
output folder, and a command that was stopped goes on.
"""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import atomic_dir, sha256_file, user_path
from base.messages import shown_file
from base.ownership import owned_folder
from benchmarks.int8_accuracy_results import StoredRun
from benchmarks.int8_accuracy_scoring import network_opener, score
from benchmarks.int8_accuracy_variants import FP16, Variants, parse_variant
from benchmarks.real_drive_data import INFO_FILE, TRAIN_INFO_FILE, convert_scans, drive_scans, scans_sha256
from benchmarks.real_drive_scores import agreement, frames_in_view, heading_errors, intervals, objects_to_find, tables
from benchmarks.run_options import (
    add_drive,
    add_int8,
    add_model,
    add_output,
    add_resamples,
    add_view,
    add_workers,
    claim,
    named_folders,
    publish,
)
from eval.metrics import FrameResult
from models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from quant.stored_frames import StoredFrames

__all__ = ["DEFAULT_METHODS", "Detections", "check_input", "main", "one_sweep", "summary"]

_logger = logging.getLogger(__name__)

_FLOAT = ("fp32", FP16)
DEFAULT_METHODS = ("max", "percentile", "mse", "entropy", "sparse_mse")
_DEFAULT_LEFT = ("pts_backbone.blocks.0.*",)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="real_drive", description=__doc__.split("\n\n")[0])
    add_drive(parser)
    add_model(parser)
    add_int8(parser, DEFAULT_METHODS)
    parser.add_argument("--leave", nargs="+", default=_DEFAULT_LEFT, metavar="LAYERS", help="default %(default)s")
    add_view(parser)
    add_resamples(parser)
    add_workers(parser)
    add_output(parser, "work_dirs/real_drive")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    sources = check_input(args.data, args.unlabelled, args.calibration, args.methods)
    out = user_path(args.output)
    with owned_folder(out, "--output"):
        _measure(args, out, sources)


def check_input(
    data: Path, unlabelled: Path | None, calibration: Sequence[str], methods: Sequence[str]
) -> dict[str, Path]:
    """Checks what was given before anything is made of it: names, folders, labels, that scans are there.

    Args:
        data, unlabelled: The options of these names.
        calibration: Of `NAME=DIR` each.
        methods: Variants.

    Returns:
        Folder of each name of the calibration.

    Raises:
        ConfigError: no such method, or an entry that is none.
        DataError: a folder is missing, or what it holds is wrong.
    """
    for name in methods:
        parse_variant(name)
    sources = named_folders(calibration, "--calibration")
    if not drive_scans(user_path(data))[1]:
        raise DataError(
            f"--data: {shown_file(user_path(data))} has no labels.json, without which nothing can be scored. Scans "
            "without labels are --unlabelled."
        )
    if unlabelled:
        drive_scans(user_path(unlabelled))
    for folder in sources.values():
        if not (folder / TRAIN_INFO_FILE).is_file():
            drive_scans(folder)
    return sources


def _measure(args: argparse.Namespace, out: Path, sources: dict[str, Path]) -> None:
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config

    cfg = load_model_config(user_path(args.config))
    spec = ModelSpec.from_config(cfg)
    model = build_model(cfg)
    load_checkpoint(model, user_path(args.checkpoint))
    _claim(out, args, sources)
    variants = {name: ("", name) for name in _FLOAT}
    variants |= {f"{method} ({source})": (source, method) for source in sources for method in args.methods}
    for source, folder in {"": None, **sources}.items():
        _prepare(args, out, cfg, spec, model, source, folder, [v for v in variants.values() if v[0] == source])
    openers = {name: network_opener(spec, _folder(out, *variant)) for name, variant in variants.items()}
    once = one_sweep(cfg)
    runs = {
        "the labelled frames": _scored(out, "labelled", user_path(args.data), once, openers, model, spec, args.workers)
    }
    if args.unlabelled:
        folder = user_path(args.unlabelled)
        runs["the unlabelled scans"] = _scored(out, "unlabelled", folder, once, openers, model, spec, args.workers)
    results = summary(runs, list(variants), spec.class_names, args.view, args.block, args.resamples)
    publish(out, results, tables(results))


def one_sweep(cfg: Any) -> Any:
    """A config whose frames are one scan each; mmdet3d would pad those without earlier sweeps by the scan itself."""
    cfg = copy.deepcopy(cfg)
    for step in cfg.val_dataloader.dataset.pipeline:
        if step.type == "LoadPointsFromMultiSweeps":
            step.sweeps_num = 0
    return cfg


def _claim(out: Path, args: argparse.Namespace, sources: Mapping[str, Path]) -> None:
    """The folder belongs to one model and one choice of frames, each name of --calibration to one set of frames."""
    claim(out / "run.json", _identity(args))
    for source, folder in sources.items():
        claim(out / f"calibration_{source}.json", {f"frames of --calibration {source}": _frames_sha256(folder)})


def _identity(args: argparse.Namespace) -> dict[str, Any]:
    data, unlabelled = user_path(args.data), user_path(args.unlabelled) if args.unlabelled else None
    return {
        "config": Path(args.config).name,
        "checkpoint_sha256": sha256_file(user_path(args.checkpoint)),
        "calibrate_batches": args.calibrate_batches,
        "left": list(args.leave),
        "data": str(data),
        "data_sha256": scans_sha256(data),
        "unlabelled": str(unlabelled) if unlabelled else None,
        "unlabelled_sha256": scans_sha256(unlabelled) if unlabelled else None,
    }


def _frames_sha256(folder: Path) -> str:
    """Which frames a set of calibration frames is."""
    infos = folder / TRAIN_INFO_FILE
    return sha256_file(infos) if infos.is_file() else scans_sha256(folder)


def _folder(out: Path, source: str, method: str) -> Path:
    return out / "models" / (f"{source}-{method}" if source else method)


def _prepare(
    args: argparse.Namespace,
    out: Path,
    cfg: Any,
    spec: ModelSpec,
    model: nn.Module,
    source: str,
    folder: Path | None,
    wanted: Sequence[tuple[str, str]],
) -> None:
    """Writes the ONNX files of what is calibrated on one set of frames, unless they are there."""
    missing = [variant for variant in wanted if not _folder(out, *variant).exists()]
    if not missing:
        return
    from models.build import build_model

    frames: Any = [] if folder is None else _calibration(args, out, cfg, model, source, folder)
    made = Variants(model, spec, frames, lambda: build_model(cfg), plan=tuple(args.leave))
    for variant in missing:
        with atomic_dir(_folder(out, *variant)) as temporary:
            made.export(variant[1], temporary)
        _logger.info("%s prepared", _folder(out, *variant).name)


def _calibration(
    args: argparse.Namespace, out: Path, cfg: Any, model: nn.Module, source: str, folder: Path
) -> StoredFrames:
    from quant.calibration import calibration_batches
    from quant.stored_frames import StoredFrames

    count = args.calibrate_batches
    if (folder / TRAIN_INFO_FILE).is_file():
        return StoredFrames.read(
            calibration_batches(cfg, "train", str(folder), count, model=model), count, args.workers
        )
    converted = convert_scans(folder, out / "data" / f"calibration-{source}", list(cfg.class_names), source)
    frames = calibration_batches(one_sweep(cfg), "val", str(converted), count, model=model, info_file=INFO_FILE)
    return StoredFrames.read(frames, count, args.workers)


def _scored(
    out: Path,
    name: str,
    folder: Path,
    cfg: Any,
    openers: dict[str, Any],
    model: nn.Module,
    spec: ModelSpec,
    workers: int | None,
) -> StoredRun:
    """The detections of every variant on one set of scans."""
    from datasets.frames import open_frames

    (out / name).mkdir(exist_ok=True)
    run = StoredRun(out / name)
    waiting = {variant: opener for variant, opener in openers.items() if not run.has(variant)}
    if waiting:
        converted = convert_scans(folder, out / "data" / name, list(spec.class_names), name)
        frames = open_frames(cfg, "val", str(converted), INFO_FILE)
        (run.folder / "detections").mkdir(exist_ok=True)
        score(run, waiting, frames, len(frames), model, spec, workers)
    return run


class Detections(Protocol):
    """What keeps detections by variant."""

    def frames(self, method: str) -> list[FrameResult]:
        """A variant's, beside the ground truth."""


def summary(
    runs: Mapping[str, Detections],
    variants: Sequence[str],
    class_names: Sequence[str],
    view: float,
    block: int,
    resamples: int,
) -> dict[str, Any]:
    """What the tables show.

    Args:
        runs: Of the labelled frames, then of others.
        variants: Names; differences are against FP16.
        class_names: Of the labels.
        view: Degrees on either side of straight ahead that count.
        block: Frames drawn together.
        resamples: Of the bootstrap.
    """
    labelled = next(iter(runs.values()))
    frames = {name: frames_in_view(labelled.frames(name), view) for name in variants}
    first = frames[variants[0]]
    return {
        "frames": len(first),
        "drawn": -(-len(first) // block),
        "objects": objects_to_find(first, class_names),
        "base": FP16,
        "variants": {
            name: {
                "ap": intervals(None, frames[name], class_names, block, resamples),
                "headings": heading_errors(frames[name], class_names),
            }
            for name in variants
        },
        "against": {
            name: intervals(frames[FP16], frames[name], class_names, block, resamples)
            for name in variants
            if name != FP16
        },
        "agreement": {
            title: {name: agreement(run.frames(FP16), run.frames(name)) for name in variants if name != FP16}
            for title, run in runs.items()
        },
    }


if __name__ == "__main__":
    run_main(main)
