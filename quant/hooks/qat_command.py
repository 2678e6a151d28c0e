"""The `qat` command: a float checkpoint, fine-tuned with quantizers in place, to a quantized checkpoint.

    python -m quant.centerpoint_quantization qat --config CFG --checkpoint best.pth --epochs 10 --lr 1e-4 --output Q.pth

The model config's own schedule is not used: its absolute peak learning rate would undo the small one that fine-tuning
needs. In its place the rate climbs for a twentieth of the iterations to `--lr` and falls along a cosine to a hundredth
of it. The rest of the recipe (optimizer type, weight decay, gradient clipping, AMP) is the config's.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from pathlib import Path
from typing import Any

from base.arguments import FRAMES, number, whole_number
from base.determinism import set_determinism
from base.errors import CheckpointError, ConfigError
from base.files import user_path
from quant.hooks.schedule import fine_tuning_schedule

__all__ = ["add_arguments", "qat_config", "run"]

_logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `qat` beyond `--config --checkpoint --calibrate-batches --skip-layers --epochs --lr --output`."""
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/qat"), help="logs and epoch checkpoints")
    parser.add_argument("--batch-size", type=whole_number(1, 4096), help="frames an iteration; default: the config's")
    parser.add_argument("--workers", type=whole_number(0, 1024), help="data loader processes; default: the config's")
    parser.add_argument("--bn", choices=("fold", "freeze", "train"), default="fold", help="what becomes of BatchNorm")
    parser.add_argument(
        "--calibration-epoch",
        type=whole_number(0, 1_000_000),
        default=0,
        help="epochs in floating point before calibration",
    )
    parser.add_argument("--eval-frames", type=FRAMES, default=0, help="score so many frames after each epoch (-1: all)")
    parser.add_argument(
        "--ema", type=number(0.0, 1.0), default=0.0, metavar="M", help="momentum of an averaged model; 0: none"
    )
    parser.add_argument("--amp", action="store_true", help="FP16 autocast with a dynamic loss scale (a GPU)")
    parser.add_argument("--range-m", type=number(0.0, 1e6), help="train on |x|, |y| < this only (cheaper)")
    parser.add_argument("--resume", action="store_true", help="go on from the work dir's newest epoch")
    parser.add_argument("--launcher", choices=("none", "pytorch"), default="none", help="pytorch: under torchrun")


def qat_config(args: argparse.Namespace) -> Any:
    """The Runner's config: the model config's with fine-tuning's schedule and hooks.

    Raises:
        ConfigError: the model config has no training recipe, or an option is out of range.
    """
    from models.config import load_model_config
    from training.train import runner_config

    if args.epochs < 1:
        raise ConfigError(f"--epochs is {args.epochs}; give 1 or more.")
    if not 0 < args.lr <= 1000:
        raise ConfigError(f"--lr is {args.lr:g}; give a positive learning rate, such as 1e-4.")
    path = user_path(args.config)
    cfg = load_model_config(path)
    if "optim_wrapper" not in cfg:
        raise ConfigError(f"'{path}' has no training recipe (train_cfg, optim_wrapper, train_dataloader).")
    data_root = args.data_root or cfg.train_dataloader.dataset.data_root
    args.data_root, args.log_interval = data_root, 10
    cfg = runner_config(cfg, args)
    cfg.optim_wrapper.optimizer.lr = args.lr
    if args.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.param_scheduler = fine_tuning_schedule(args.epochs, args.lr)
    cfg.load_from = None if args.resume else str(user_path(args.checkpoint))
    cfg.resume = args.resume
    cfg.launcher = args.launcher
    data = str(user_path(data_root))
    cfg.custom_hooks = [
        {
            "type": "QATHook",
            "calibration_batches": args.calibrate_batches,
            "calibration_epoch": args.calibration_epoch,
            "bn": args.bn,
            "sensitive_layers": list(args.skip_layers or ()),
            "amax_method": args.amax_method,
            "engine": args.engine,
            "schedule": "config",
            "output": None,
            "model_config": str(path),
            "data_root": data,
        }
    ]
    if args.ema:
        cfg.custom_hooks.append({"type": "EMAHook", "ema_type": "ExponentialMovingAverage", "momentum": args.ema})
    if args.eval_frames:
        score = {
            "type": "DetectionMapHook",
            "model_config": str(path),
            "num_frames": args.eval_frames,
            "data_root": data,
        }
        cfg.custom_hooks.append(score)
    return cfg


def run(args: argparse.Namespace) -> int:
    """Trains and writes `--output`, and the curves beside it where frames were scored; 0 when done.

    Raises:
        UserError: wrong input; see `qat_config` and `QATHook`.
    """
    from models.build import import_mmdet3d

    output = user_path(args.output)
    if not args.resume and not user_path(args.checkpoint).is_file():
        raise CheckpointError(
            f"Checkpoint '{args.checkpoint}' does not exist. Give the float weights with --checkpoint."
        )
    import_mmdet3d()
    from mmengine.dist import is_main_process

    for module in ("datasets.t4", "quant.hooks.detection_map_hook"):
        # Their classes register themselves.
        importlib.import_module(module)
    from quant.hooks.qat_hook import QATHook
    from quant.hooks.runner_model import unwrapped_model
    from training.safe_files import safe_files
    from training.targets import use_numpy_targets
    from training.work_dir import open_runner

    set_determinism(args.seed)
    cfg = qat_config(args)
    if args.launcher == "pytorch":
        _join_processes(cfg)
    runner = open_runner(cfg)
    use_numpy_targets(unwrapped_model(runner).pts_bbox_head)
    with safe_files(args.resume):
        runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, QATHook))
    if is_main_process():
        meta = {
            "method": "qat",
            "model_config": Path(args.config).name,
            "epochs": args.epochs,
            "lr": args.lr,
            "bn": args.bn,
            "seed": args.seed,
            "batch_size": cfg.train_dataloader.batch_size,
            "frames": len(runner.train_dataloader.dataset),
        }
        hook.save_release(runner, output, meta)
        _write_curve(Path(runner.work_dir), output)
        _logger.info("wrote %s", output)
    return 0


def _join_processes(cfg: Any) -> None:
    """Without a GPU mmengine knows no way to join torchrun's processes, nor to wrap a model that lies on a CPU."""
    import torch

    if torch.cuda.is_available():
        return
    torch.distributed.init_process_group("gloo")
    cfg.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "broadcast_buffers": False, "device_ids": None}


def _write_curve(work_dir: Path, output: Path) -> None:
    from base.documents import read_json
    from quant.forms import CurveForm
    from quant.hooks.curve import curve_figure
    from quant.hooks.detection_map_hook import CURVE_FILE

    curve = work_dir / CURVE_FILE
    if curve.is_file():
        curve_figure(read_json(curve, CurveForm).model_dump(), output.with_suffix(".curve.svg"))
