"""The options `--part K/N` and `--merge FILE …` of commands whose work can be cut into parts."""

from __future__ import annotations

import argparse
from pathlib import Path

from base.errors import ConfigError
from base.files import user_path
from base.shares import SHARE

__all__ = ["add_parts", "output_of"]


def add_parts(parser: argparse.ArgumentParser, what: str, needs: str = "made with the same options") -> None:
    """Adds both options, which exclude each other.

    Args:
        parser: The command's.
        what: Of what there are parts, and how it is cut.
        needs: What a merge needs beside the parts.
    """
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--part",
        type=SHARE,
        metavar="K/N",
        help=f"do the K-th of N parts of {what}, and write it as --output, a .json file",
    )
    parts.add_argument(
        "--merge",
        nargs="+",
        default=[],
        metavar="JSON",
        help=f"put all N parts together, to the bytes of one run; {needs}",
    )


def output_of(args: argparse.Namespace, suffix: str) -> Path:
    """`--output` of a command with these options.

    Args:
        args: Its arguments.
        suffix: What the name of its result ends in; a part's ends in ".json".

    Raises:
        ConfigError: it ends otherwise.
    """
    path = user_path(args.output)
    wanted = suffix if args.part is None else ".json"
    if path.suffix != wanted:
        of_part = "" if args.part is None else "; with --part"
        raise ConfigError(f"--output is '{args.output}'{of_part}; give a file name that ends in '{wanted}'.")
    return path
