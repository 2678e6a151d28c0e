"""Exports a model's components to ONNX: `python -m export.tools.export_onnx --model-config CFG --out DIR`.

Reads nothing but the files it is given and writes nothing but `--out`, the same bytes on every run: a build action.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base.arguments import SEED, THREADS, whole_number
from base.checks import add_accept
from base.command import add_log_level, run_command, run_main
from base.determinism import set_determinism
from base.errors import ConfigError
from base.files import sha256_file, user_path
from base.ownership import owned_folder
from base.wholeness import MARKS
from export.existing import onnx_marks
from export.manifest import build_manifest, write_manifest
from export.onnx_export import EXPORT_PRECISIONS, OnnxExportSettings, export_components
from export.opsets import DEFAULT_OPSET, INT8_OPSET
from export.precision import PRECISIONS
from models.known_checks import KNOWN_CHECKS

__all__ = ["export", "main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_onnx", description="Export a CenterPoint's components to ONNX files.")
    parser.add_argument("--model-config", required=True, type=Path, help="mmengine model config")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="trained weights (.pth)")
    weights.add_argument("--quantized-checkpoint", type=Path, help="PTQ or QAT checkpoint, for --precision int8")
    weights.add_argument("--seed", type=SEED, default=0, help="seed of random weights without --checkpoint (default 0)")
    parser.add_argument("--out", required=True, type=Path, help="folder for the .onnx files and manifest.json")
    parser.add_argument(
        "--opset", type=whole_number(1, 99), help=f"ONNX operator set (default {DEFAULT_OPSET}; {INT8_OPSET} for int8)"
    )
    parser.add_argument("--precision", choices=EXPORT_PRECISIONS, default="fp32", help="precision inside the graphs")
    parser.add_argument(
        "--float-precision", choices=PRECISIONS, default="fp16", help="of an int8 export where it is not INT8"
    )
    parser.add_argument("--simplify", action="store_true", help="run onnx-simplifier; its failure is an error")
    parser.add_argument(
        "--static-voxels",
        type=int,
        metavar="N",
        help="fix the encoder's number of pillars; 0 takes max_voxels of the model config",
    )
    parser.add_argument("--rot-y-axis-reference", action="store_true", help="fold Autoware's yaw convention")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="CLASS", help="classes that are not exported")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads for tracing (default 1)")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for wrong input."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level, args.accept)


def _run(args: argparse.Namespace) -> None:
    with owned_folder(user_path(args.out), "--out", marks={**MARKS, **onnx_marks()}):
        _export(args)


def export(argv: Sequence[str]) -> None:
    """The command's work alone, for commands of which it is a part.

    Raises:
        UserError: wrong input.
    """
    _export(_parser().parse_args(argv))


def _export(args: argparse.Namespace) -> None:
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from models.spec import ModelSpec

    if (args.precision == "int8") != (args.quantized_checkpoint is not None):
        raise ConfigError(
            "--precision int8 and --quantized-checkpoint go together: a float checkpoint has no scales, and a "
            "quantized one is exported in INT8 alone. export.tools.calibrate makes a quantized one."
        )
    set_determinism(0, threads=args.threads)
    config_path, out = user_path(args.model_config), user_path(args.out)
    cfg = load_model_config(config_path)
    spec = ModelSpec.from_config(cfg)
    model = build_model(cfg, seed=args.seed)
    inputs, provenance = {"model_config": config_path}, {"weights": f"seed {args.seed}"}
    if args.checkpoint is not None:
        checkpoint = user_path(args.checkpoint)
        load_checkpoint(model, checkpoint)
        inputs["checkpoint"] = checkpoint
        provenance = {"weights": f"sha256 {sha256_file(checkpoint)}"}
    layers: dict[str, bool] | None = None
    facts: dict[str, Any] = {}
    if args.quantized_checkpoint is not None:
        # Float exports do not depend on the code of quantization.
        from export.quantized_model import planned_layers, read_quantized_model

        checkpoint = user_path(args.quantized_checkpoint)
        quantized = read_quantized_model(model, checkpoint)
        layers, facts = planned_layers(quantized.structure), {"quantization": quantized.facts}
        inputs["quantized_checkpoint"] = checkpoint
        provenance = {"weights": f"sha256 {sha256_file(checkpoint)}"}
    if args.leave_out:
        from export.class_selection import without_classes

        model, spec = without_classes(model, spec, args.leave_out)
        facts |= {"left_out_classes": sorted(args.leave_out)}
    default_opset = INT8_OPSET if args.precision == "int8" else DEFAULT_OPSET
    settings = OnnxExportSettings(
        opset_version=default_opset if args.opset is None else args.opset,
        simplify=args.simplify,
        precision=args.precision,
        float_precision=args.float_precision,
        quantized_layers=layers,
        static_voxels=spec.max_voxels if args.static_voxels == 0 else args.static_voxels,
        rot_y_axis_reference=args.rot_y_axis_reference,
        provenance=provenance,
        stamps=cfg.get("onnx_stamps", {}),
    )
    artifacts = export_components(model, spec, out, settings)
    manifest = build_manifest(
        kind="onnx",
        inputs=inputs,
        outputs={artifact.path.name: artifact.path for artifact in artifacts},
        settings={"onnx": settings, "spec": spec.to_dict(), "weights": provenance["weights"], **facts},
        packages=("torch", "onnx", "onnxsim", "mmdet3d", "numpy"),
    )
    write_manifest(out / "manifest.json", manifest)


if __name__ == "__main__":
    run_main(main)
