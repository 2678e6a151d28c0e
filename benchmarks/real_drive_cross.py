"""Cross-validation on a real drive in one command: folds, a fine-tuning for each, their scores, and those of the drive.

    python -m benchmarks.real_drive_cross --data data/kitti_drive --unlabelled data/kitti_unlabelled \
        --generated data/like_kitti --calibration generated=data/like_kitti real=data/kitti_unlabelled \
        --methods percentile mse mixed-percentile mixed-mse --output work_dirs/cross

`--generated` is what `datasets.synthetic --sensor kitti` writes. Behind `--` stand options of
`training.on_device` in place of the recipe's. A step that is done stays, and a command that was stopped goes on. The
weights are made of the drive's data: its licence is theirs.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from base.arguments import whole_number
from base.command import add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import sha256_file, user_path
from base.ownership import owned_folder
from benchmarks.real_drive import DEFAULT_METHODS, check_input
from benchmarks.real_drive_data import INFO_FILE, TRAIN_INFO_FILE, scans_sha256
from benchmarks.real_drive_folds import add_split, fold_names
from benchmarks.run_options import (
    add_drive,
    add_int8,
    add_model,
    add_output,
    add_resamples,
    add_workers,
    claim,
)

__all__ = ["RECIPE", "main", "start"]

_logger = logging.getLogger(__name__)

RECIPE = (
    *("--rate", "5e-4", "--iterations", "900", "--rot-weight", "6"),
    *("--scale", "0.05", "--single-sweep", "0", "--fade", "0.2"),
)
"""Options of `training.on_device`; docs/benchmarks/real_drive.md has what it came to."""

_TOLD = 800  # last characters of a failed step's log

# What runs now: a command that is stopped ends it.
_children: set[subprocess.Popen[bytes]] = set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="real_drive_cross", description=__doc__.split("\n\n")[0])
    add_drive(parser)
    parser.add_argument("--generated", type=Path, required=True, metavar="DIR", help="dataset beside the real frames")
    add_model(parser, "--init")
    add_split(parser)
    add_int8(parser, DEFAULT_METHODS)
    parser.add_argument("--device", default="auto", help="to train on; default %(default)s")
    add_workers(parser)
    parser.add_argument("--at-once", type=whole_number(1, 100), metavar="N", help="folds; default all of them")
    add_resamples(parser)
    add_output(parser)
    parser.add_argument("recipe", nargs="*", help=f"options of training.on_device; default: {' '.join(RECIPE)}")
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all steps; 0 when done, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> None:
    # Before hours of training: what the later steps would refuse.
    check_input(args.data, args.unlabelled, args.calibration, args.methods)
    if not (user_path(args.generated) / TRAIN_INFO_FILE).is_file():
        raise ConfigError(f"--generated is '{args.generated}', where there is no {TRAIN_INFO_FILE}.")
    out = user_path(args.output)
    with owned_folder(out, "--output"):
        claim(out / "cross.json", _identity(args))
        folds, count = out / "folds", args.folds
        names = fold_names(count, args.pairs)
        if not (folds / names[-1] / "train" / INFO_FILE).is_file():  # what is written last
            options = ["--data", args.data, "--folds", count, "--gap", args.gap, "--out", folds]
            start("benchmarks.real_drive_folds", [*options, *(["--pairs"] if args.pairs else [])], out / "folds.log")
        at_once = min(args.at_once or len(names), len(names))
        workers = max(1, (args.workers or len(os.sched_getaffinity(0))) // at_once)
        with ThreadPoolExecutor(at_once) as pool:
            started = [pool.submit(_fold, args, folds / name, out / name, workers) for name in names]
            try:
                for done in started:
                    done.result()
            except KeyboardInterrupt:  # leaving the pool would wait for all of them
                pool.shutdown(wait=False, cancel_futures=True)
                for child in list(_children):
                    child.terminate()
                raise
        if args.pairs:
            return
        parts = [out / name / "score" for name in names]
        pooled = ["--parts", *parts, "--config", args.config, "--resamples", args.resamples, "--output", out / "pool"]
        start("benchmarks.real_drive_pool", pooled, out / "pool.log")
    print((out / "pool" / "results.md").read_text(encoding="utf-8"))  # noqa: T201


def _fold(args: argparse.Namespace, data: Path, out: Path, workers: int) -> None:
    """Fine-tunes on all but a part, and scores that part."""
    out.mkdir(exist_ok=True)
    tuned = out / "tuned.pth"
    if not tuned.exists():
        start(
            "training.on_device",
            [
                *(args.config, "--init", args.init, "--data-root", data / "train", args.generated),
                *("--info-file", INFO_FILE, TRAIN_INFO_FILE, "--share", 1, 1, "--workers", workers, "--seed", 0),
                *("--device", args.device, "--output", tuned, *(args.recipe or RECIPE)),
            ],
            out / "train.log",
        )
    options = ["--data", data / "test", "--config", args.config, "--checkpoint", tuned, "--workers", workers]
    options += ["--resamples", args.resamples, "--calibrate-batches", args.calibrate_batches, "--output", out / "score"]
    for name in ("unlabelled", "calibration", "methods"):
        if value := getattr(args, name):
            options += [f"--{name}", *([value] if isinstance(value, Path) else value)]
    start("benchmarks.real_drive", options, out / "score.log")
    _logger.info("%s: trained and scored", out.name)


def start(module: str, options: Sequence[object], log: Path) -> None:
    """Runs a module as a process of its own, whose output goes to a file.

    Raises:
        ConfigError: it failed; the message ends in what it said last.
    """
    paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths}
    with log.open("wb") as stream:
        child = subprocess.Popen(_command(module, options), stdout=stream, stderr=subprocess.STDOUT, env=environment)
        _children.add(child)
        code = child.wait()
        _children.remove(child)
    if code != 0:
        said = log.read_text(encoding="utf-8", errors="replace")[-_TOLD:].strip()
        raise ConfigError(f"{module} ended with exit code {code}; its output is in '{log}': {said}")


def _command(module: str, options: Sequence[object]) -> list[str]:
    return [sys.executable, "-m", module, *map(str, options)]


def _identity(args: argparse.Namespace) -> dict[str, Any]:
    """The folder belongs to one recipe, one choice of frames and one checkpoint to begin with."""
    return {
        "config": Path(args.config).name,
        "init_sha256": sha256_file(user_path(args.init)),
        "data": str(user_path(args.data)),
        "data_sha256": scans_sha256(user_path(args.data)),
        "generated": str(user_path(args.generated)),
        "generated_sha256": sha256_file(user_path(args.generated) / TRAIN_INFO_FILE),
        "folds": args.folds,
        "gap": args.gap,
        "pairs": args.pairs,
        "recipe": list(args.recipe or RECIPE),
    }


if __name__ == "__main__":
    run_main(main)
