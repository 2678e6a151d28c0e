"""Deployment by configuration files: `python -m deploy.main <deploy_config.py> <model_config.py> [options]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from base.command import run_command, run_main
from deploy import cli

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main",
        description="Deploy a CenterPoint as two configuration files say.",
        epilog="Exit code: 0 all that was asked for was done and passed; 1 a comparison or an accuracy gate failed; "
        "2 wrong input or configuration.",
    )
    parser.add_argument("deploy_config", help="deploy config, such as configs/deploy/deploy_config.py")
    parser.add_argument("model_config", help="model config, such as configs/model/centerpoint_t4_demo.py")
    cli.add_common_arguments(parser)
    cli.add_debug_divergence(parser)
    cli.add_record(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: cli.deploy(args, args.deploy_config, args.model_config), args.log_level, args.accept)


if __name__ == "__main__":
    run_main(main)
