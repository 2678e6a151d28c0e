"""Writes or checks a bundle for Autoware: `python -m deploy.autoware_bundle --onnx-dir DIR --out BUNDLE`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from autoware.bundle import require_runnable, write_bundle
from autoware.contract import check_bundle
from autoware.thresholds import detections_of_results, measure_thresholds, require_same_model
from base.checks import add_accept
from base.command import EXIT_FAILED, EXIT_PASSED, add_log_level, run_command, run_main
from base.errors import ConfigError
from base.files import user_path
from base.folders import require_replaceable
from base.messages import shown_file
from base.onnx_files import read_onnx
from base.ownership import owned_name
from export.onnx_graph import metadata
from models.known_checks import KNOWN_CHECKS
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec

__all__ = ["main"]

_logger = logging.getLogger(__name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoware_bundle", description="Write or check a bundle for Autoware's lidar_centerpoint (contract v4.1)."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--onnx-dir", type=Path, help="exported with --rot-y-axis-reference --static-voxels 0")
    what.add_argument("--model-config", type=Path, help="export this model first")
    what.add_argument("--check", type=Path, metavar="BUNDLE", help="only check a bundle; exit code 1 if it is broken")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="trained weights, with --model-config")
    weights.add_argument("--quantized-checkpoint", type=Path, help="PTQ or QAT checkpoint, for an INT8 bundle")
    weights.add_argument(
        "--onnx-path", type=Path, metavar="DIR", help="with --model-config: ONNX files of autoware-ml's own exporter"
    )
    parser.add_argument("--precision", choices=("fp32", "fp16"), help="of a float export (default fp16)")
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="with --model-config: classes that the bundle does not find, such as those that the node does not know",
    )
    parser.add_argument("--out", type=Path, help="folder of the bundle")
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument("--detections", type=Path, help="detections (.jsonl, or a folder of deploy.detect)")
    measured.add_argument("--results", type=Path, help="results.json of a run: the same from its detections")
    parser.add_argument("--label", help="which evaluation of --results")
    parser.add_argument("--trt-precision", choices=("fp32", "fp16", "strongly-typed"), help="follows from the graphs")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; exit code 0, 1 for a broken bundle, 2 for wrong input."""
    args = _parser().parse_args(argv)
    return run_command(
        lambda: _check(user_path(args.check)) if args.check else _write(args), args.log_level, args.accept
    )


def _check(folder: Path) -> int:
    if not folder.is_dir():
        raise ConfigError(f"--check is {shown_file(folder)}, which is no folder. Give the folder of a bundle.")
    found = check_bundle(folder)
    for violation in found:
        _logger.error("%s", violation)
    if not found:
        _logger.info("%s keeps the contract.", folder)
    return EXIT_FAILED if found else EXIT_PASSED


def _write(args: argparse.Namespace) -> int:
    if args.out is None:
        raise ConfigError("--out is missing: name the folder of the bundle.")
    if args.leave_out and (args.model_config is None or args.onnx_path is not None):
        raise ConfigError(
            "--leave-out needs --model-config and a checkpoint: classes are left out where a model is exported."
        )
    if args.onnx_path is not None and args.model_config is None:
        raise ConfigError("--onnx-path needs --model-config: autoware-ml's files do not say all that a bundle needs.")
    if args.onnx_path is not None and args.precision is not None:
        raise ConfigError(
            "--precision is of an export; the files of --onnx-path stay in theirs. Choose what the node builds with "
            "--trt-precision."
        )
    out = user_path(args.out)
    # Before the export and the thresholds, which take longer than the bundle.
    require_replaceable(out, _sources(args))
    with owned_name(out, "--out"):
        return _write_owned(args)


def _sources(args: argparse.Namespace) -> list[Path]:
    """What is read while the bundle is written."""
    given = (
        args.onnx_dir,
        args.model_config,
        args.checkpoint,
        args.quantized_checkpoint,
        args.onnx_path,
        args.detections,
        args.results,
    )
    return [user_path(path) for path in given if path is not None]


def _write_owned(args: argparse.Namespace) -> int:
    if args.onnx_dir is not None:
        _bundle(args, user_path(args.onnx_dir))
        return EXIT_PASSED
    with tempfile.TemporaryDirectory(prefix="autoware_bundle_") as folder:
        _export(args, Path(folder))
        _bundle(args, Path(folder))
    return EXIT_PASSED


def _export(args: argparse.Namespace, folder: Path) -> None:
    from export.tools import export_onnx

    if args.checkpoint is None and args.quantized_checkpoint is None and args.onnx_path is None:
        raise ConfigError(
            "--model-config needs --checkpoint or --quantized-checkpoint, or --onnx-path with autoware-ml's own files: "
            "a vehicle needs trained weights."
        )
    from models.config import load_model_config

    # Before the export: the config says it already.
    config = user_path(args.model_config)
    spec = dataclasses.replace(ModelSpec.from_config(load_model_config(config)), rot_y_axis_reference=True)
    require_runnable(spec, config)
    if args.onnx_path is not None:
        _adopt(user_path(args.onnx_path), spec, folder)
        return
    quantized = args.quantized_checkpoint is not None
    weights = (
        ["--quantized-checkpoint", str(args.quantized_checkpoint)]
        if quantized
        else ["--checkpoint", str(args.checkpoint)]
    )
    export_onnx.export(
        [
            *("--model-config", str(args.model_config)),
            *weights,
            *("--precision", "int8" if quantized else args.precision or "fp16"),
            *(("--leave-out", *args.leave_out) if args.leave_out else ()),
            *("--static-voxels", "0", "--rot-y-axis-reference", "--out", str(folder)),
        ]
    )


def _adopt(source: Path, spec: ModelSpec, folder: Path) -> None:
    from export.autoware_ml_onnx import THEIR_SUFFIX, adopt_their_files, holds_their_files

    if not holds_their_files(source):
        raise ConfigError(
            f"--onnx-path is {shown_file(source)}, which does not hold {VOXEL_ENCODER}{THEIR_SUFFIX}.onnx and "
            f"{BACKBONE_NECK_HEAD}{THEIR_SUFFIX}.onnx of autoware-ml's exporter. This project's own files go in by "
            "--onnx-dir."
        )
    adopt_their_files(source, spec, folder)


def _bundle(args: argparse.Namespace, onnx_dir: Path) -> None:
    detections = user_path(args.detections) if args.detections else None
    if args.results:
        detections = detections_of_results(user_path(args.results), args.label)
    thresholds = None
    if detections is not None:
        file = onnx_dir / f"{BACKBONE_NECK_HEAD}.onnx"
        head = metadata(read_onnx(file))
        require_same_model(detections, head)
        thresholds = measure_thresholds(detections, ModelSpec.from_json(head.get("spec", "{}"), str(file)))
    out = write_bundle(onnx_dir, user_path(args.out), thresholds, args.trt_precision)
    _logger.info("%s keeps the contract.", out)


if __name__ == "__main__":
    run_main(main)
