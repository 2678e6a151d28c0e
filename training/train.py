"""Trains a model config on T4 data and writes the checkpoint that the project ships.

    python -m training.train configs/model/centerpoint_t4_demo.py --data-root data/t4dataset \
        --work-dir work_dirs/train --output checkpoint.pth --seed 0

The schedule, optimizer, augmentation and hooks are the config's; the options here only scale them to a machine. The
output holds half-precision weights (`models.build.load_checkpoint` widens them) and what is needed to repeat the run. A
hook that changes what the model is (`quant.hooks.QATHook`) writes the output itself.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
from pathlib import Path
from typing import Any

from base.arguments import SEED, number, whole_number
from base.checks import add_accept
from base.command import add_log_level, run_command, run_main
from base.determinism import set_determinism
from base.errors import ConfigError, UserError
from base.files import atomic_path, user_path
from base.keeping import key_of_checkpoint, require_ours
from base.ownership import owned_file
from models.build import import_mmdet3d
from models.config import load_model_config
from models.known_checks import KNOWN_CHECKS
from training.safe_files import safe_files
from training.targets import use_numpy_targets
from training.work_dir import open_runner, owned_work_dir

__all__ = ["main", "runner_config", "save_release"]

# In every checkpoint to ship, whichever hook wrote it.
_MARK = key_of_checkpoint("model_config")
_DEFAULT_CONFIG = "configs/model/centerpoint_t4_demo.py"

_logger = logging.getLogger(__name__)


def runner_config(cfg: Any, args: argparse.Namespace) -> Any:
    """Completes a model config to a config of mmengine's Runner, with the command line's overrides applied."""
    importlib.import_module("training.packed")  # its hook registers itself
    cfg.work_dir = str(user_path(args.work_dir))
    for loader in ("train_dataloader", "val_dataloader"):
        cfg[loader].dataset.data_root = str(user_path(args.data_root or cfg[loader].dataset.data_root))
    cfg.train_dataloader.batch_size = args.batch_size or cfg.train_dataloader.batch_size
    if args.workers is not None:
        cfg.train_dataloader.num_workers = args.workers
        cfg.train_dataloader.persistent_workers = args.workers > 0
    if args.epochs is not None:
        cfg.train_cfg.max_epochs = args.epochs
    for scheduler in cfg.param_scheduler:
        if "total_steps" in scheduler:
            # Of a schedule that is longer than the training the rate would never come down.
            scheduler.total_steps = cfg.train_cfg.max_epochs
    if args.range_m is not None:
        _crop(cfg, args.range_m)
    # Accuracy is measured by this project's own evaluator on the exported backends, not inside the training loop.
    for split in ("val", "test"):
        for part in ("dataloader", "cfg", "evaluator"):
            cfg.pop(f"{split}_{part}", None)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=cfg.train_cfg.max_epochs)
    cfg.default_scope = "mmdet3d"
    # Some of the network's backward operators have no deterministic CUDA form.
    cfg.randomness = dict(seed=args.seed, deterministic=args.device == "cpu")
    cfg.default_hooks = dict(
        logger=dict(type="LoggerHook", interval=args.log_interval),
        checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1),
        packed=dict(type="PackedFramesHook"),
    )
    # Every canvas has the same size, so that the choice of algorithms pays off.
    cfg.env_cfg = dict(cudnn_benchmark=args.device != "cpu", mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
    return cfg


def _crop(cfg: Any, range_m: float) -> None:
    """Trains on the square |x|, |y| < range_m only: the network is fully convolutional and its weights fit any grid."""
    lower, upper = cfg.point_cloud_range[2], cfg.point_cloud_range[5]
    limits = [-range_m, -range_m, lower, range_m, range_m, upper]
    cells = round(2 * range_m / cfg.voxel_size[0])
    model = cfg.model
    model.data_preprocessor.voxel_layer.point_cloud_range = limits
    model.pts_voxel_encoder.point_cloud_range = limits
    model.pts_middle_encoder.output_shape = [cells, cells]
    model.pts_bbox_head.bbox_coder.pc_range = limits
    model.train_cfg.pts.update(point_cloud_range=limits, grid_size=[cells, cells, 1])
    model.test_cfg.pts.pc_range = limits[:2]
    for step in cfg.train_dataloader.dataset.pipeline:
        if "point_cloud_range" in step:
            step.point_cloud_range = limits


def _register(cfg: Any) -> None:
    """Imports what registers the config's types, hooks that training itself knows nothing of among them."""
    for name in ("datasets.t4", *cfg.get("custom_imports", {}).get("imports", ())):
        importlib.import_module(name)


def _releasing(runner: Any) -> list[Any]:
    """Hooks that made another model of the config's, and so write the checkpoint to ship themselves."""
    return [hook for hook in runner.hooks if hasattr(hook, "save_release")]


def _save(runner: Any, model: Any, path: Path, meta: dict[str, Any]) -> None:
    hooks = _releasing(runner)
    if hooks:
        hooks[0].save_release(runner, path, meta)
    else:
        save_release(model, path, meta)


def save_release(model: Any, path: Path, meta: dict[str, Any]) -> None:
    """Writes `{'state_dict': half-precision weights, 'meta': meta}`; equal weights give equal tensors."""
    import torch

    state = {
        # However a GPU liked them laid out, the file has them in rows.
        key: (value.detach().cpu().half() if value.is_floating_point() else value.detach().cpu()).contiguous()
        for key, value in model.state_dict().items()
    }
    # In memory first: torch's own writer does not tell a full disk from a fault.
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "meta": meta}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("config", nargs="?", type=Path, help="model config; the same as --model-config")
    parser.add_argument("--model-config", type=Path, help=f"default {_DEFAULT_CONFIG}")
    parser.add_argument("--data-root", type=Path, help="T4 dataset folder; default: the config's")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/train"), help="logs and epoch checkpoints")
    parser.add_argument("--output", type=Path, help="checkpoint to ship (.pth); default: <work-dir>/<config>.pth")
    parser.add_argument("--epochs", type=whole_number(1, 1_000_000), help="default: the config's")
    parser.add_argument("--batch-size", type=whole_number(1, 4096), help="frames an iteration; default: the config's")
    parser.add_argument("--workers", type=whole_number(0, 1024), help="data loader processes; default: the config's")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument(
        "--range-m", type=number(0.0, 1e6), help="train on |x|, |y| < this only (cheaper); default: the config's"
    )
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument(
        "--log-interval", type=whole_number(1, 1_000_000), default=20, help="iterations between log lines"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the work dir's latest epoch")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the training; 0 when the checkpoint was written, 2 on wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _train(args), args.log_level, args.accept)


def _train(args: argparse.Namespace) -> None:
    if args.config is not None and args.model_config is not None:
        raise ConfigError(f"The model config is named twice: '{args.config}' and --model-config '{args.model_config}'.")
    args.model_config = args.config or args.model_config or Path(_DEFAULT_CONFIG)
    output = user_path(args.output or args.work_dir / f"{args.model_config.stem}.pth")
    work_dir = user_path(args.work_dir)
    with owned_work_dir(work_dir, resume=args.resume), owned_file(output, "--output", args):
        if args.output is None:
            require_ours(work_dir, {output.name: _MARK}, "--work-dir")
        _train_into(args, output)


def _train_into(args: argparse.Namespace, output: Path) -> None:
    cfg = load_model_config(user_path(args.model_config))
    if "optim_wrapper" not in cfg:
        raise UserError(f"'{args.model_config}' has no training recipe (train_cfg, optim_wrapper, param_scheduler).")
    import_mmdet3d()
    import torch

    _register(cfg)
    set_determinism(args.seed)
    # TF32 keeps FP32's range, which the focal loss's logarithm needs; FP16 autocast would not.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    cfg = runner_config(cfg, args)
    cfg.resume = args.resume
    runner = open_runner(cfg)
    for hook in _releasing(runner):
        hook.output = None  # this command says where
    use_numpy_targets(runner.model.pts_bbox_head)
    with safe_files(args.resume):
        model = runner.train()
    meta = {
        "model_config": Path(args.model_config).name,
        "seed": args.seed,
        "epochs": runner.max_epochs,
        "iterations": runner.iter,
        "batch_size": cfg.train_dataloader.batch_size,
        "frames": len(runner.train_dataloader.dataset),
        "class_names": list(cfg.class_names),
    }
    _save(runner, model, output, meta)
    _logger.info("wrote %s: %s", output, json.dumps(meta, sort_keys=True))


if __name__ == "__main__":
    run_main(main)
