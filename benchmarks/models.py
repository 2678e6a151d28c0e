"""What the product can do with which CenterPoint, config by config: docs/models.md and docs/benchmarks/models.json.

    python -m benchmarks.models [--only NAME …] [--missing] [--awml FOLDER] [--autoware-ml FOLDER] [--no-run]

Rows are the stock configs of the installed mmdet3d, five KITTI-style variants, this project's own, and, where their
source trees are given, AWML's and autoware-ml's. Every row is written when it is done, so that rows can be made one by
one; rows of another call stay. Without a GPU, a few minutes each on two cores.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from base.command import add_log_level, run_command, run_main
from base.documents import read_json
from base.errors import ConfigError
from base.files import user_path, write_json
from base.page_marks import rewrite_page
from benchmarks.models_page import models_page
from benchmarks.models_rows import kitti_configs, measure

__all__ = ["Listed", "listed_models", "main"]

_OWN = Path(__file__).resolve().parent.parent / "configs" / "model"
_AWML = "projects/CenterPoint/configs/t4dataset"
_AUTOWARE_ML = "autoware_ml/configs/tasks/detection3d/centerpoint"

_logger = logging.getLogger(__name__)

Listed = tuple[str, str, Path]
"""Family, name, and config of a row."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="models", description="What can be done with which CenterPoint.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows whose name holds one of these")
    parser.add_argument("--awml", metavar="FOLDER", help="source tree of AWML")
    parser.add_argument("--autoware-ml", metavar="FOLDER", help="source tree of autoware-ml")
    parser.add_argument("--json", default="docs/benchmarks/models.json", metavar="FILE")
    parser.add_argument("--page", default="docs/models.md", metavar="FILE")
    parser.add_argument("--missing", action="store_true", help="leave out rows that are there")
    parser.add_argument("--no-run", action="store_true", help="make the page of the rows that are there")
    add_log_level(parser)
    return parser


def listed_models(folder: Path, awml: Path | None, autoware_ml: Path | None) -> Iterator[Listed]:
    """Every row's family, name and config.

    Args:
        folder: An empty one, for configs that are made.
        awml, autoware_ml: Source trees.
    """
    import importlib.util

    spec = importlib.util.find_spec("mmdet3d")
    if spec is None or spec.origin is None:
        raise ConfigError("mmdet3d is not installed; its stock configs are the first rows.")
    stock = Path(spec.origin).parent / ".mim" / "configs" / "centerpoint"
    yield from (("mmdet3d", path.stem, path) for path in sorted(stock.glob("centerpoint_*.py")))
    yield from (("KITTI-style", path.stem, path) for path in kitti_configs(folder))
    yield from (("shipped", path.stem, path) for path in sorted(_OWN.glob("*.py")))
    if awml is not None:
        yield from (("AWML", path.stem, path) for path in sorted((awml / _AWML).rglob("*.py")))
    if autoware_ml is not None:
        paths = sorted((autoware_ml / _AUTOWARE_ML).glob("voxel*.yaml"))
        yield from (("autoware-ml", path.stem, path) for path in paths)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args), args.log_level)


def _run(args: argparse.Namespace) -> int:
    file, page = user_path(args.json), user_path(args.page)
    rows: dict[str, Any] = read_json(file, dict[str, Any])["models"] if file.is_file() else {}
    trees = [None if tree is None else user_path(tree) for tree in (args.awml, args.autoware_ml)]
    with tempfile.TemporaryDirectory() as folder:
        for family, name, path in () if args.no_run else listed_models(Path(folder), *trees):
            key = f"{family}: {name}"
            if (args.missing and key in rows) or not any(part in key for part in args.only or [key]):
                continue
            _logger.info("%s", key)
            rows[key] = {"family": family, "name": name, **measure(path, rows)}
            write_json(file, {"models": rows})
    rewrite_page(page, "models", models_page(rows))
    return 0


if __name__ == "__main__":
    run_main(main)
