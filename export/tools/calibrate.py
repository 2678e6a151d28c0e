"""Quantizes a float model: `python -m export.tools.calibrate --model-config CFG --data-root DIR --out DIR`.

Reads nothing but the files it is given and writes nothing but `--out`, the same bytes on every run: a build action.
With `--part K/N` it writes `part.json` there, and with `--merge` it makes of all N what one run makes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from base.arguments import SEED, THREADS, whole_number
from base.checks import add_accept
from base.command import add_log_level, run_command, run_main
from base.determinism import set_determinism
from base.errors import ConfigError
from base.files import user_path
from base.ownership import owned_folder
from base.parsing import Items, NonEmptyStr, misfit, parse
from base.parts import PART_MARK
from base.python_configs import run_config
from base.shares import SHARE
from base.wholeness import MARKS
from export.existing import calibration_marks
from export.manifest import build_manifest, discard_manifest, write_manifest
from export.quantized_model import quantize_float_model, save_quantized_model
from models.known_checks import KNOWN_CHECKS
from quant.settings import ACTIVATION_METHODS, ENGINES, PTQ_METHODS, PtqSettings

__all__ = ["PART", "main"]

PART = "part.json"
_DEFAULTS = PtqSettings()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calibrate", description="Quantize a CenterPoint to INT8 on calibration frames (post-training)."
    )
    parser.add_argument("--model-config", required=True, type=Path, help="mmengine model config")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="trained float weights (.pth)")
    weights.add_argument("--seed", type=SEED, default=0, help="seed of random weights without --checkpoint (default 0)")
    parser.add_argument("--data-root", required=True, type=Path, help="T4 dataset with calibration frames")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="default %(default)s")
    parser.add_argument("--out", required=True, type=Path, help="folder for checkpoint.pth, calibration.json, manifest")
    parser.add_argument(
        "--num-batches",
        type=whole_number(1, 10**9),
        default=_DEFAULTS.num_batches,
        metavar="N",
        help="default %(default)s",
    )
    parser.add_argument("--method", choices=PTQ_METHODS, default=_DEFAULTS.method)
    parser.add_argument(
        "--amax-method",
        choices=ACTIVATION_METHODS,
        default=_DEFAULTS.amax_method,
        help="how activations' ranges are chosen (default %(default)s)",
    )
    parser.add_argument("--engine", choices=ENGINES, default=_DEFAULTS.engine, help="default %(default)s")
    parser.add_argument(
        "--skip-layer", action="append", default=[], metavar="NAME", help="layer or pattern to keep in floating point"
    )
    parser.add_argument(
        "--deploy-config", type=Path, metavar="PY", help="keep its quantization.sensitive_layers in floating point, too"
    )
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--part", type=SHARE, metavar="K/N", help="run the K-th of N shares of the frames; write part.json"
    )
    parts.add_argument(
        "--merge", nargs="+", type=Path, default=[], metavar="JSON", help="the N parts, made with the same options"
    )
    parser.add_argument("--no-fuse-bn", action="store_true", help="leave BatchNorm unfolded")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads for the model (default 1)")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level, args.accept)


def _run(args: argparse.Namespace) -> None:
    marks = {**MARKS, **calibration_marks()} if args.part is None else {PART: PART_MARK}
    with owned_folder(user_path(args.out), "--out", marks=marks):
        _calibrate(args)


def _calibrate(args: argparse.Namespace) -> None:
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from models.spec import ModelSpec
    from quant.calibration.batches import calibration_batches

    set_determinism(0, threads=args.threads)
    config_path, out, data_root = user_path(args.model_config), user_path(args.out), user_path(args.data_root)
    cfg = load_model_config(config_path)
    spec = ModelSpec.from_config(cfg)
    model = build_model(cfg, seed=args.seed)
    inputs, weights = {"model_config": config_path}, f"seed {args.seed}"
    if args.checkpoint is not None:
        inputs["checkpoint"] = user_path(args.checkpoint)
        weights = "checkpoint"
        load_checkpoint(model, inputs["checkpoint"])
    kept = list(args.skip_layer)
    if args.deploy_config is not None:
        inputs["deploy_config"] = user_path(args.deploy_config)
        kept += _sensitive_layers(inputs["deploy_config"])
    settings = PtqSettings(
        engine=args.engine,
        method=args.method,
        amax_method=args.amax_method,
        num_batches=args.num_batches,
        fuse_bn=not args.no_fuse_bn,
        skip_layers=tuple(kept),
    )
    batches = calibration_batches(cfg, args.split, str(data_root), args.num_batches, model=model)
    inputs["info_file"] = data_root / cfg[f"{args.split}_dataloader"].dataset.ann_file
    if args.part is not None:
        from quant.ptq import write_ptq_part

        write_ptq_part(model, batches, settings, args.part, out / PART, spec=spec, workers=1)
        return
    parts = [user_path(path) for path in args.merge]
    quantized = quantize_float_model(model, spec, batches, settings, parts)
    # The manifest is of the files beside it: an earlier one goes before new files come.
    discard_manifest(out, "calibration")
    written = save_quantized_model(quantized, out)
    manifest = build_manifest(
        kind="calibration",
        inputs=inputs,
        outputs={path.name: path for path in written},
        settings={
            "quantization": dataclasses.asdict(settings),
            "facts": quantized.facts,
            "structure": dataclasses.asdict(quantized.structure),
            "spec": spec.to_dict(),
            "split": args.split,
            "weights": weights,
        },
        packages=("torch", "mmdet3d", "numpy", args.engine),
    )
    write_manifest(out / "manifest.json", manifest)


def _sensitive_layers(path: Path) -> tuple[str, ...]:
    """What a deploy configuration keeps in floating point; `deploy.config` checks the rest of it."""
    cfg = run_config(path, "Deploy config", missing="Give its path with --deploy-config.")
    section = cfg.get("quantization", {})
    if not isinstance(section, dict):
        raise misfit(path, ["quantization"], section, "must be a dictionary", error=ConfigError)
    layers = section.get("sensitive_layers", ())
    return parse(Items[NonEmptyStr], layers, file=path, at=("quantization", "sensitive_layers"), error=ConfigError)


if __name__ == "__main__":
    run_main(main)
