"""The quantized model that a command works on: calibrated from a float checkpoint, or loaded from a quantized one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import FRAMES, THREADS, whole_number
from base.errors import ConfigError
from base.files import user_path

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec
    from quant.sensitivity.frames import SensitivityFrames

__all__ = ["CalibratedModel", "add_model_arguments", "open_calibrated_model"]

_DEFAULT_BATCHES = 100


@dataclass(frozen=True, eq=False)
class CalibratedModel:
    """What the commands need of a model.

    Attributes:
        cfg: Its model config.
        spec: Its specification.
        model: The detector, quantized and calibrated.
        frames: To evaluate it on.
    """

    cfg: Any
    spec: ModelSpec
    model: nn.Module
    frames: SensitivityFrames


def add_model_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Options that say which model, calibrated and evaluated on which frames."""
    model = parser.add_argument_group("model")
    model.add_argument("--config", required=required, metavar="PY", help="model config")
    model.add_argument(
        "--checkpoint",
        required=required,
        metavar="PTH",
        help="trained weights, or a quantized checkpoint (ptq, qat), which is taken as it is",
    )
    model.add_argument("--device", default="cpu", help='"cpu" or "cuda:N"; default %(default)s')
    calibration = parser.add_argument_group("calibration of a float checkpoint")
    calibration.add_argument(
        "--calibrate-batches",
        type=whole_number(0, 10**9),
        default=_DEFAULT_BATCHES,
        metavar="N",
        help="training frames; default %(default)s",
    )
    calibration.add_argument("--amax-method", default="mse", help="how scales are chosen; default %(default)s")
    calibration.add_argument(
        "--calibration-data-root", metavar="DIR", help="T4 dataset to calibrate on; default that of --data-root"
    )
    calibration.add_argument(
        "--calibration-info-file", metavar="PKL", help="of the training split, relative to that dataset"
    )
    calibration.add_argument(
        "--calib-cache", metavar="JSON", help="scales: read where the file exists, else calibrated and written"
    )
    calibration.add_argument(
        "--skip-layers", nargs="*", default=[], metavar="NAME", help="layers that stay in floating point throughout"
    )
    data = parser.add_argument_group("frames")
    data.add_argument(
        "--frames", type=FRAMES, default=-1, metavar="N", help="frames to evaluate, evenly spaced; -1 is all"
    )
    data.add_argument("--split", default="val", choices=("val", "train", "test"), help="default %(default)s")
    data.add_argument("--info-file", metavar="PKL", help="of the split, relative to the dataset")
    data.add_argument("--data-root", metavar="DIR", help="T4 dataset, in place of the model config's")
    data.add_argument("--workers", type=THREADS, metavar="N", help="processes; default one a processor on a CPU")


def open_calibrated_model(args: argparse.Namespace) -> CalibratedModel:
    """Builds, quantizes and calibrates the model that `add_model_arguments` describes.

    Raises:
        UserError: a file is missing or does not fit; the kind and the message say which.
    """
    import torch

    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from models.spec import ModelSpec
    from quant.calibration import calibration_batches
    from quant.checkpoint import is_quantized_checkpoint, load_ptq_model
    from quant.ptq import check_layer_names, run_ptq
    from quant.sensitivity.frames import open_sensitivity_frames
    from quant.settings import PtqSettings

    if args.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"--device is '{args.device}', but torch finds no CUDA device; use cpu.")
    checkpoint = user_path(args.checkpoint)
    cfg = load_model_config(user_path(args.config))
    spec = ModelSpec.from_config(cfg)
    model = build_model(cfg)
    # First of all: a number of frames that there are not must not cost a calibration.
    frames = open_sensitivity_frames(
        cfg, model, args.frames, split=args.split, data_root=args.data_root, info_file=args.info_file
    )
    if is_quantized_checkpoint(checkpoint):
        if args.skip_layers:
            raise ConfigError(f"'{checkpoint}' is quantized already; --skip-layers is for a float checkpoint.")
        load_ptq_model(model, checkpoint)
        model.to(args.device)
    else:
        load_checkpoint(model, checkpoint)
        check_layer_names(model, args.skip_layers, "--skip-layers")
        model.to(args.device)
        root = args.calibration_data_root or args.data_root
        info = args.calibration_info_file
        batches = calibration_batches(cfg, "train", root, args.calibrate_batches, model=model, info_file=info)
        settings = PtqSettings(
            num_batches=args.calibrate_batches,
            amax_method=args.amax_method,
            skip_layers=tuple(args.skip_layers),
            calib_cache=None if args.calib_cache is None else user_path(args.calib_cache),
        )
        run_ptq(model, batches, settings, workers=args.workers)
    return CalibratedModel(cfg, spec, model.eval(), frames)


def user_output(path: str, suffix: str) -> Path:
    """An output path of the command line, whose name must end in `suffix`.

    Raises:
        ConfigError: it ends otherwise.
    """
    found = user_path(path)
    if found.suffix != suffix:
        raise ConfigError(f"--output is '{path}'; give a file name that ends in '{suffix}'.")
    return found
