"""What the build's tools share: how they log, and how wrong input ends them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from base.errors import BackendUnavailable, UserError

__all__ = ["run_tool"]


def run_tool(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None
) -> int:
    """Adds `--log-level`, reads the command line and does the work.

    Returns:
        The exit code: 0, or 2 for wrong input or a machine that cannot do it.
    """
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    args = parser.parse_args(argv)
    logging.basicConfig(level=args.log_level, format="%(levelname)s %(message)s")
    try:
        work(args)
    except (UserError, BackendUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command's last word
        return 2
    return 0
