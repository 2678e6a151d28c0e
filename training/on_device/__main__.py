"""Trains a model config with everything on one device: `python -m training.on_device CONFIG --data-root DIR …`.

    python -m training.on_device configs/model/centerpoint_t4_demo.py --data-root data/t4train \
        --minutes 6 --output checkpoint.pth --seed 0

Frames are packed into the device's memory once; what mmengine's Runner does on processors for every iteration (reading,
augmentation, pillars, targets) happens there. The same checkpoint comes out as from `training.train`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from base.arguments import SEED, number, whole_number
from base.checks import add_accept
from base.command import add_log_level, run_command, run_main
from base.determinism import set_determinism
from base.errors import BackendUnavailable, ConfigError
from base.files import atomic_path, user_path
from base.ownership import owned_file
from models.known_checks import KNOWN_CHECKS

_logger = logging.getLogger(__name__)

_MOST_PASTED = 50


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.on_device", description=__doc__.split("\n\n")[0])
    parser.add_argument("config", type=Path, help="model config")
    parser.add_argument(
        "--data-root", nargs="+", required=True, metavar="DIR", help="dataset folders, their train splits"
    )
    parser.add_argument(
        "--share",
        nargs="+",
        type=number(0.001, 1000.0),
        metavar="X",
        help="of a batch, for each --data-root (default: equal)",
    )
    parser.add_argument("--info-file", nargs="+", metavar="NAME", help="in place of the config's, for each --data-root")
    parser.add_argument("--init", type=Path, metavar="PTH", help="weights to start from; default: drawn from --seed")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write (.pth)")
    parser.add_argument("--log", type=Path, help="JSON lines; default: beside --output")
    parser.add_argument("--iterations", type=whole_number(1, 10_000_000), help="default: what --minutes hold")
    parser.add_argument("--minutes", type=number(0.01, 100_000.0), default=6.0, help="default %(default)s")
    parser.add_argument("--batch-size", type=whole_number(1, 4096), default=16, help="default %(default)s")
    parser.add_argument("--rate", type=number(1e-8, 10.0), default=2e-3, help="highest learning rate (%(default)s)")
    parser.add_argument(
        "--rot-weight", type=number(0.0, 1000.0), default=4.0, help="of the orientation in the loss (%(default)s)"
    )
    parser.add_argument(
        "--scale", type=number(0.0, 0.5), default=0.1, help="frames are scaled by 1 ± this (%(default)s)"
    )
    parser.add_argument(
        "--single-sweep",
        type=number(0.0, 1.0),
        default=0.2,
        help="share of frames without earlier sweeps (%(default)s)",
    )
    parser.add_argument(
        "--fade",
        type=number(0.0, 1.0),
        default=0.0,
        help="last share of the training over which scaling, shifts and intensities fade out (%(default)s)",
    )
    parser.add_argument(
        "--paste",
        nargs="+",
        default=[],
        metavar="CLASS=N",
        help="put up to N objects of a class, of the datasets by their shares, into every frame (of one sensor)",
    )
    parser.add_argument(
        "--paste-turn",
        type=number(0.0, 180.0),
        default=0.0,
        metavar="DEG",
        help="... turned about themselves by up to this (%(default)s)",
    )
    parser.add_argument(
        "--paste-distance",
        type=number(0.0, 0.9),
        default=0.0,
        metavar="X",
        help="... at 1 ± this times their distance (%(default)s)",
    )
    parser.add_argument(
        "--capture", action="store_true", help="backbone, neck and head as CUDA graphs: fewer launches, on a GPU"
    )
    parser.add_argument(
        "--save-interval", type=whole_number(1, 10_000_000), metavar="N", help="write --output every N iterations, too"
    )
    parser.add_argument("--workers", type=whole_number(1, 1024), help="processes that load; default: one a processor")
    parser.add_argument("--device", default="auto", help='"auto", "cpu" or "cuda:N" (%(default)s)')
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument("--log-interval", type=whole_number(1, 1_000_000), default=50, help="iterations (%(default)s)")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the training; 0 when the checkpoint was written, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level, args.accept)


def _run(args: argparse.Namespace) -> None:
    roots = args.data_root
    for name, values in (("--share", args.share), ("--info-file", args.info_file)):
        if values is not None and len(values) != len(roots):
            raise ConfigError(f"{name} has {len(values)} values for {len(roots)} --data-root; give one for each.")
    output = user_path(args.output)
    log = user_path(args.log) if args.log else output.with_suffix(".log.jsonl")
    with owned_file(output, "--output", args), owned_file(log, "--log", args):
        _train(args, output, log)


def _train(args: argparse.Namespace, output: Path, log: Path) -> None:
    import torch

    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from models.spec import ModelSpec
    from training.on_device.augmentation import Augmentation
    from training.on_device.frames import FrameStore, load_frames
    from training.on_device.loop import Progress, Schedule, train
    from training.on_device.pasting import Looseness, ObjectBank
    from training.train import save_release

    device = _device(args.device)
    cfg = load_model_config(user_path(args.config))
    spec = ModelSpec.from_config(cfg)
    if len(spec.tasks) != 1:
        raise ConfigError(f"'{args.config}' has {len(spec.tasks)} tasks; training on the device takes models of one.")
    wanted = _wanted(args.paste, spec.class_names)
    set_determinism(args.seed)
    torch.backends.cudnn.allow_tf32 = True
    # Shapes are the same in every iteration; the fastest backward kernels add in no fixed order.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    torch.backends.cudnn.deterministic = device.type != "cuda"
    names = args.info_file or [None] * len(args.data_root)
    parts = [
        load_frames(cfg, root, "train", name, args.workers) for root, name in zip(args.data_root, names, strict=True)
    ]
    model = build_model(cfg, args.seed)
    if args.init is not None:
        load_checkpoint(model, user_path(args.init))
    shares = args.share or [float(len(part)) for part in parts]
    store = FrameStore(parts, shares, device, args.seed)
    schedule = Schedule(
        args.iterations,
        args.minutes,
        args.batch_size,
        args.rate,
        rot_weight=args.rot_weight,
        seed=args.seed,
        fade=args.fade,
        capture=args.capture,
        log_interval=args.log_interval,
    )
    lines: list[str] = []

    def save(iterations: int) -> dict[str, Any]:
        meta = {
            "model_config": Path(args.config).name,
            "seed": args.seed,
            "iterations": iterations,
            "batch_size": args.batch_size,
            "frames": sum(map(len, parts)),
            "class_names": list(spec.class_names),
        }
        save_release(model, output, meta)
        with atomic_path(log) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return meta

    def report(progress: Progress) -> None:
        lines.append(json.dumps({key: _rounded(value) for key, value in asdict(progress).items()}))
        _logger.info("%s", lines[-1])
        if args.save_interval is not None and progress.iteration % args.save_interval == 0:
            save(progress.iteration)

    augmentation = Augmentation(scale=args.scale, single_sweep=args.single_sweep)
    looseness = Looseness(math.radians(args.paste_turn), args.paste_distance)
    bank = ObjectBank(parts, wanted, device, args.seed, shares, looseness) if wanted else None
    if bank is not None:
        _logger.info("%d objects to put into frames", len(bank))
    meta = save(train(model.to(device), spec, store, schedule, augmentation, report, bank))
    _logger.info("wrote %s: %s", output, json.dumps(meta, sort_keys=True))


def _wanted(entries: Sequence[str], class_names: Sequence[str]) -> dict[int, int]:
    """Label -> number, of `--paste`."""
    wanted: dict[int, int] = {}
    for entry in entries:
        name, _, count = entry.partition("=")
        if name not in class_names or not count.isdecimal() or not 1 <= int(count) <= _MOST_PASTED:
            raise ConfigError(
                f"--paste has '{entry}'; give CLASS=N, N from 1 to {_MOST_PASTED}, of: {', '.join(class_names)}."
            )
        wanted[class_names.index(name)] = int(count)
    return wanted


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device is '{name}'; give auto, cpu or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"--device is '{name}', and torch finds no CUDA device here.")
    return device


if __name__ == "__main__":
    run_main(main)
