"""From a checkpoint and a T4 dataset to verified ONNX files and TensorRT engines: `python -m deploy.export …`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from base.command import run_command, run_main
from deploy import cli

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export",
        description="Export a CenterPoint to ONNX and TensorRT, verify every backend against its reference, score "
        "and time it. Without an argument: the shipped demo model.",
        epilog="Exit code: 0 all that was asked for was done and passed; 1 a comparison or an accuracy gate failed; "
        "2 wrong input or configuration.",
    )
    parser.add_argument(
        "--deploy-config",
        default=cli.DEFAULT_DEPLOY_CONFIG,
        metavar="FILE",
        help="JSON, YAML, or Python, which is run (default %(default)s)",
    )
    parser.add_argument(
        "--model-config",
        default=cli.DEFAULT_MODEL_CONFIG,
        metavar="PY",
        help="Python, which is run (default %(default)s)",
    )
    cli.add_common_arguments(parser)
    cli.add_debug_divergence(parser)
    cli.add_record(parser)
    cli.add_override_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: cli.deploy(args, args.deploy_config, args.model_config), args.log_level, args.accept)


if __name__ == "__main__":
    run_main(main)
