"""What commands that score a model in several precisions have in common: their options, and the folder of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from base.arguments import number, whole_number
from base.errors import ConfigError
from base.files import atomic_path, read_json, user_path, write_json

__all__ = [
    "add_calibrate_batches",
    "add_drive",
    "add_int8",
    "add_model",
    "add_output",
    "add_resamples",
    "add_view",
    "add_workers",
    "claim",
    "named_folders",
    "publish",
]


def add_drive(parser: argparse.ArgumentParser) -> None:
    """--data."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the drive: labels.json and its scans")


def add_model(parser: argparse.ArgumentParser, weights: str | None = "--checkpoint") -> None:
    """--config and, under the name of `weights`, the checkpoint: the demo model's where nothing is said."""
    parser.add_argument(
        "--config", default="configs/model/centerpoint_t4_demo.py", metavar="PY", help="model (%(default)s)"
    )
    if weights:
        default = "models/zoo/centerpoint_t4_demo/checkpoint.pth"
        parser.add_argument(weights, default=default, metavar="PTH", help="its weights (%(default)s)")


def add_calibrate_batches(parser: argparse.ArgumentParser, default: int) -> None:
    """--calibrate-batches."""
    parser.add_argument(
        "--calibrate-batches",
        type=whole_number(1, 10_000),
        default=default,
        metavar="N",
        help="frames to calibrate on; default %(default)s",
    )


def add_int8(parser: argparse.ArgumentParser, methods: Sequence[str]) -> None:
    """--unlabelled, --calibration, --methods and --calibrate-batches: what INT8 is made with, and compared on."""
    parser.add_argument("--unlabelled", type=Path, metavar="DIR", help="more scans (.npz), to compare boxes on")
    parser.add_argument(
        "--calibration",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="frames that INT8 is calibrated on: a T4 dataset's split train, or a folder of .npz scans; without it, "
        "floating point alone",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=methods,
        metavar="NAME",
        help=f"of calibration (default: {' '.join(methods)}); mixed-NAME leaves the first block in FP16",
    )
    add_calibrate_batches(parser, 48)


def add_view(parser: argparse.ArgumentParser) -> None:
    """--view and --block: what is scored, and what the bootstrap draws together."""
    parser.add_argument(
        "--view", type=number(1.0, 180.0), default=40.0, metavar="DEG", help="scored within ± this (%(default)s)"
    )
    parser.add_argument(
        "--block", type=whole_number(1, 1000), default=5, metavar="N", help="frames drawn together (%(default)s)"
    )


def add_resamples(parser: argparse.ArgumentParser) -> None:
    """--resamples."""
    parser.add_argument(
        "--resamples",
        type=whole_number(0, 100_000),
        default=1000,
        metavar="N",
        help="of the bootstrap (%(default)s); 0: no intervals",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """--workers."""
    parser.add_argument("--workers", type=whole_number(1, 1024), metavar="N", help="processes; default one a processor")


def add_output(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """--output, a folder; without a default it has to be given."""
    parser.add_argument(
        "--output",
        type=Path,
        default=default and Path(default),
        required=default is None,
        metavar="DIR",
        help="folder of everything the command writes",
    )


def named_folders(entries: Sequence[str], option: str) -> dict[str, Path]:
    """Folders by name, of an option's NAME=DIR …

    Raises:
        ConfigError: an entry is none, or a name comes twice.
    """
    named: dict[str, Path] = {}
    for entry in entries:
        name, equals, folder = entry.partition("=")
        if not (name.isidentifier() and equals and folder) or name in named:
            raise ConfigError(f"{option} has '{entry}'; give NAME=DIR, each name once, such as generated=data/t4train.")
        named[name] = user_path(folder)
    return named


def claim(path: Path, mine: Mapping[str, Any]) -> None:
    """Writes down whose results a folder holds; what goes on in it must say the same.

    Args:
        path: JSON file in the folder.
        mine: What must be equal for results to stand side by side.

    Raises:
        ConfigError: the folder holds another run's.
    """
    if not path.exists():
        write_json(path, dict(mine))
        return
    theirs = read_json(path)
    different = sorted(key for key in mine if theirs.get(key) != mine[key])
    if different:
        raise ConfigError(
            f"'{path.parent}' holds results of another run: {', '.join(different)} differ. Give another --output, or "
            "remove it."
        )


def publish(out: Path, results: Mapping[str, Any], text: str) -> None:
    """Writes results.json and, of the same, results.md; prints the latter."""
    write_json(out / "results.json", dict(results))
    with atomic_path(out / "results.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)  # noqa: T201
