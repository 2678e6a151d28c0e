"""The command `ptq`: a float checkpoint and some frames to a quantized checkpoint."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import SEED, THREADS, whole_number
from base.errors import CheckpointError, ConfigError
from base.files import sha256_file, user_path
from base.torchrun import Processes
from quant.part_options import add_parts, output_of
from quant.settings import DEFAULT_ENGINE, ENGINES, PTQ_METHODS, PtqSettings

if TYPE_CHECKING:
    from torch import nn

__all__ = ["add_arguments", "add_model_arguments", "run"]

_logger = logging.getLogger(__name__)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every command that makes a quantized checkpoint from a float one."""
    parser.add_argument("--config", required=True, metavar="PY", help="model config")
    parser.add_argument("--checkpoint", required=True, metavar="PTH", help="trained weights in floating point")
    parser.add_argument("--output", required=True, metavar="PTH", help="quantized checkpoint to write")
    parser.add_argument(
        "--calibrate-batches",
        type=whole_number(0, 10**9),
        default=100,
        metavar="N",
        help="frames to calibrate on; default %(default)s",
    )
    parser.add_argument(
        "--skip-layers",
        nargs="*",
        default=[],
        metavar="NAME",
        help="layers that stay in floating point: module paths, with * within a component",
    )
    parser.add_argument(
        "--amax-method",
        default="mse",
        metavar="M",
        help="max, percentile, mse, entropy or sparse_mse; default %(default)s",
    )
    parser.add_argument("--engine", choices=ENGINES, default=DEFAULT_ENGINE, help="default %(default)s")
    parser.add_argument("--data-root", metavar="DIR", help="T4 dataset, in place of the model config's")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda:N"; default %(default)s')
    parser.add_argument("--seed", type=SEED, default=0, help="default %(default)s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_model_arguments(parser)
    parser.add_argument(
        "--method",
        choices=PTQ_METHODS,
        default="calibrate",
        help="calibrate; bias_correction: then correct every channel's mean; lidar_ptq: then learn roundings, biases "
        "and activation scales block by block; default %(default)s",
    )
    parser.add_argument("--weight-method", default="mse", metavar="M", help="max or mse; default %(default)s")
    parser.add_argument(
        "--equalize",
        action=argparse.BooleanOptionalAction,
        help="bring the channels of each activation to one range first; default: with lidar_ptq alone",
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="train", help="to calibrate on; default %(default)s"
    )
    parser.add_argument("--info-file", metavar="PKL", help="of the split, relative to the dataset")
    parser.add_argument(
        "--calib-cache", metavar="JSON", help="scales: read where the file exists, else calibrated and written"
    )
    parser.add_argument(
        "--workers",
        type=THREADS,
        metavar="N",
        help="calibration processes; default one a processor, under torchrun one",
    )
    add_parts(parser, "a calibration, by frames")
    parser.add_argument("--iterations", type=whole_number(0, 10**9), metavar="N", help="steps per block of lidar_ptq")
    parser.add_argument(
        "--reconstruction-frames", type=whole_number(0, 10**9), metavar="N", help="frames that lidar_ptq learns from"
    )


def run(args: argparse.Namespace, processes: Processes) -> int:
    """Runs the command; returns its exit code. Processes of torchrun share the frames, and the first one writes.

    Raises:
        UserError: wrong input; the kind and the message say which.
    """
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from quant.calibration.batches import calibration_batches
    from quant.checkpoint import is_quantized_checkpoint, save_ptq_model
    from quant.ptq import run_ptq, write_ptq_part

    started = time.monotonic()
    settings = _settings(args)
    output = output_of(args, ".pth")
    if args.part is not None or args.merge:
        _check_parts(args, settings, processes)
    checkpoint = user_path(args.checkpoint)
    device = processes.device(args.device)
    _check_device(device)
    cfg = load_model_config(user_path(args.config))
    if is_quantized_checkpoint(checkpoint):
        raise CheckpointError(
            f"Checkpoint '{args.checkpoint}' is quantized already; ptq starts from trained weights in floating point. "
            "Give the checkpoint that it was made from."
        )
    model = build_model(cfg, args.seed)
    load_checkpoint(model, checkpoint)
    _check_skipped(model, args.skip_layers)
    model.to(device)
    frames = calibration_batches(
        cfg, args.split, args.data_root, args.calibrate_batches, model=model, info_file=args.info_file
    )
    if args.part is not None:
        count = write_ptq_part(model, frames, settings, args.part, output, workers=args.workers)
        print(f"{args.output}: part {args.part} of the calibration, {count} of {len(frames)} frames")  # noqa: T201 - as below
        return 0
    parts = [user_path(path) for path in args.merge]
    run_ptq(model, frames, settings, workers=args.workers, processes=processes, parts=parts)
    if not processes.is_first:
        return 0
    save_ptq_model(model, output, meta=_meta(args, checkpoint, len(frames)))
    _report(model, args, output, time.monotonic() - started)
    return 0


def _check_parts(args: argparse.Namespace, settings: PtqSettings, processes: Processes) -> None:
    """What can be refused before the model is built."""
    from quant.ptq import require_parts_possible

    if processes.size > 1:
        raise ConfigError("--part and --merge are for machines that know nothing of each other; start one process.")
    require_parts_possible(settings)


def _check_device(device: str) -> None:
    from base.lazy import require

    torch = require("torch", "to quantize a model")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.removeprefix("cuda").removeprefix(":") or "0"
    if device != "cpu" and not (device.startswith("cuda") and index.isdecimal() and int(index) < gpus):
        raise ConfigError(f"--device is '{device}', but torch finds no such device here; use cpu.")


def _check_skipped(model: nn.Module, names: list[str]) -> None:
    """Names the option, and before any frame is read."""
    from quant.ptq import check_layer_names

    check_layer_names(model, names, "--skip-layers")


def _settings(args: argparse.Namespace) -> PtqSettings:
    from quant.reconstruction.settings import ReconstructionSettings

    given = {"iterations": args.iterations, "frames": args.reconstruction_frames}
    return PtqSettings(
        num_batches=args.calibrate_batches,
        amax_method=args.amax_method,
        weight_method=args.weight_method,
        skip_layers=tuple(args.skip_layers),
        method=args.method,
        engine=args.engine,
        equalize=args.equalize,
        calib_cache=None if args.calib_cache is None else user_path(args.calib_cache),
        reconstruction=ReconstructionSettings(
            seed=args.seed, **{key: value for key, value in given.items() if value is not None}
        ),
    )


def _meta(args: argparse.Namespace, checkpoint: Path, frames: int) -> dict[str, Any]:
    """Where the quantized weights came from; nothing that changes from run to run."""
    return {
        "method": args.method,
        "amax_method": args.amax_method,
        "weight_method": args.weight_method,
        "model_config": Path(args.config).name,
        "float_checkpoint_sha256": sha256_file(checkpoint),
        "calibration_split": args.split,
        "calibration_frames": frames,
        "seed": args.seed,
    }


def _report(model: nn.Module, args: argparse.Namespace, output: Path, seconds: float) -> None:
    from quant.structure import quantization_structure

    layers = quantization_structure(model).layers
    quantized = sum(layer.quantized for layer in layers)
    print(  # noqa: T201 - what the command is for
        f"{args.output}: {quantized} of {len(layers)} layers in INT8 by {args.method}, "
        f"{output.stat().st_size / 1e6:.1f} MB, {seconds:.0f} s"
    )
