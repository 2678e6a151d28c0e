"""What the deployment's command lines share: argument groups and overrides of the configuration."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from base.arguments import DEFAULT_POINTS, POINTS
from base.checks import add_accept
from base.command import add_log_level
from base.files import user_path
from base.messages import plain_lines
from deploy.config.names import BACKENDS, DECODES
from deploy.config.paths import input_path
from export.opsets import INT8_OPSET
from models.known_checks import KNOWN_CHECKS

__all__ = [
    "DEFAULT_DEPLOY_CONFIG",
    "DEFAULT_MODEL_CONFIG",
    "PRECISIONS",
    "add_common_arguments",
    "add_debug_divergence",
    "add_max_points",
    "add_override_arguments",
    "add_record",
    "deploy",
    "overrides_of",
    "recording_of",
]

DEFAULT_DEPLOY_CONFIG = "configs/deploy/deploy_config.py"
DEFAULT_MODEL_CONFIG = "configs/model/centerpoint_t4_demo.py"

# Option -> key of the configuration that it overrides.
_OVERRIDES = {
    "mode": "export.mode",
    "checkpoint": "checkpoint_path",
    "work_dir": "export.work_dir",
    "onnx_path": "export.onnx_path",
    "data_root": "runtime_io.data_root",
    "info_file": "runtime_io.info_file",
    "max_points": "runtime_io.max_points",
    "calibration_data_root": "quantization.calibration.data_root",
    "calibration_info_file": "quantization.calibration.info_file",
    "num_samples": "evaluation.num_samples",
    "decode": "evaluation.decode",
    "bundle": "evaluation.autoware.bundle",
    "num_verify_samples": "verification.num_verify_samples",
}
_POLICY = "backend_config.common_config.precision_policy"
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {_POLICY: "auto", "quantization.enabled": False},
    "fp16": {_POLICY: "fp16", "quantization.enabled": False},
    "int8": {_POLICY: "int8", "quantization.enabled": True, "onnx_config.opset_version": INT8_OPSET},
}
"""Precision of the command line -> keys of the configuration."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that every deploy command has."""
    parser.add_argument(
        "--rot-y-axis-reference",
        action="store_true",
        help="export dim as (width, length, height) and yaw clockwise from the y axis, as Autoware expects",
    )
    parser.add_argument("--strict", action="store_true", help="a step that cannot run on this machine fails the run")
    add_accept(parser, KNOWN_CHECKS)
    add_log_level(parser)


def add_debug_divergence(group: argparse._ActionsContainer) -> None:
    """The option that explains a failed comparison."""
    group.add_argument(
        "--debug-divergence",
        action="store_true",
        help="after a failed comparison, name the first layer that differs, and its weights",
    )


def add_max_points(group: argparse._ActionsContainer) -> None:
    """The option that makes room for larger clouds."""
    group.add_argument(
        "--max-points",
        type=POINTS,
        metavar="N",
        help=f"most points of a cloud; a GPU makes room for as many (default {DEFAULT_POINTS})",
    )


def add_record(group: argparse._ActionsContainer) -> None:
    """The option that writes a recording."""
    group.add_argument(
        "--record",
        metavar="FILE",
        help="also a recording of points, ground truth and boxes, to look at: .rrd for Rerun, .mcap for Foxglove",
    )


def recording_of(args: argparse.Namespace) -> Path | None:
    """The file of `--record`; None where there is none.

    Raises:
        ConfigError, MissingDependencyError: it cannot be written (`deploy.recording.contract`).
    """
    if not args.record:
        return None
    from deploy.recording.contract import require_recordable

    return require_recordable(user_path(args.record))


def add_override_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that override keys of the deploy config."""
    group = parser.add_argument_group("overrides of the deploy config")
    group.add_argument("--mode", choices=("onnx", "trt", "both", "none"), help="what to export")
    group.add_argument("--checkpoint", metavar="PTH", help="trained weights")
    group.add_argument("--work-dir", metavar="DIR", help="folder of everything the run writes")
    group.add_argument("--onnx-path", metavar="DIR", help="folder with existing ONNX files, for --mode=trt")
    group.add_argument("--data-root", metavar="DIR", help="T4 dataset to verify and evaluate on")
    group.add_argument("--info-file", metavar="PKL", help="info file of that dataset, relative to it")
    add_max_points(group)
    group.add_argument("--calibration-data-root", metavar="DIR", help="T4 dataset to calibrate an INT8 model on")
    group.add_argument("--calibration-info-file", metavar="PKL", help="info file of that dataset, relative to it")
    group.add_argument("--num-samples", type=int, metavar="N", help="frames to evaluate; -1 is all")
    group.add_argument(
        "--decode", choices=DECODES, help="whose boxes are evaluated: the training framework's, the node's"
    )
    group.add_argument("--bundle", metavar="DIR", help="bundle whose thresholds the node's decode uses")
    group.add_argument("--no-evaluation", action="store_true", help="no score and no latency: for frames without boxes")
    group.add_argument("--nuscenes", action="store_true", help="also nuScenes' official score, with NDS")
    group.add_argument("--num-verify-samples", type=int, metavar="N", help="frames to verify on")
    group.add_argument(
        "--backends", nargs="+", choices=BACKENDS, metavar="NAME", help=f"backends to evaluate: {', '.join(BACKENDS)}"
    )
    group.add_argument("--precision", choices=tuple(PRECISIONS), help="what the exported network computes in")


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """Key path -> value of the options that were given."""
    given = {
        key: getattr(args, option) for option, key in _OVERRIDES.items() if getattr(args, option, None) is not None
    }
    if getattr(args, "precision", None) is not None:
        given.update(PRECISIONS[args.precision])
    if getattr(args, "backends", None) is not None:
        given.update({f"evaluation.backends.{name}.enabled": name in args.backends for name in BACKENDS})
    if getattr(args, "no_evaluation", False):
        given["evaluation.enabled"] = False
    if getattr(args, "nuscenes", False):
        given["evaluation.metrics.nuscenes"] = True
    if args.debug_divergence:
        given["verification.debug_divergence"] = True
    if args.rot_y_axis_reference:
        given["export.rot_y_axis_reference"] = True
    return given


def deploy(args: argparse.Namespace, deploy_config: str, model_config: str) -> int:
    """Runs a deployment and prints its tables; returns the exit code."""
    from deploy.config import load_deploy_config
    from deploy.runner import CenterPointDeploymentRunner

    record = recording_of(args)
    config = load_deploy_config(deploy_config, overrides_of(args))
    # The option adds to the file's: both are recorded as the configuration of the run.
    accepted = tuple(dict.fromkeys((*config.accepted_checks, *args.accept)))
    config = dataclasses.replace(config, accepted_checks=accepted)
    source = str(input_path(deploy_config))
    runner = CenterPointDeploymentRunner(config, model_config, source=source, strict=args.strict, record=record)
    outcome = runner.run()
    print(plain_lines(f"\n{outcome.summary()}"))  # noqa: T201 - what the command is for
    return outcome.exit_code
