"""The page docs/benchmarks/gpu.md and its charts, made from the results that `benchmarks.gpu` wrote.

    python -m benchmarks.gpu_page [--folder docs/benchmarks]

Reads every `gpu_*.json` of the folder; a second run of a model has another name, say with the GPU's behind it. What
stands between a run's `notes` markers was written by hand and stays.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import atomic_path, read_json, user_path
from benchmarks.gpu_tables import report

__all__ = ["main", "page"]

_HEAD = """# Speed on the GPU

Made by `python -m benchmarks.gpu_page` from the JSON files beside this page, which `python -m benchmarks.gpu` measured.
All contenders of a table were measured in one run, by turns, each round beginning with another one; ratios are of
medians of the same round. Runs of a turn follow each other without a pause and the first does not count: caches are in
the state that a contender's own previous run leaves. cuDNN chooses its algorithms by timing, products may use TF32.
"""

_NOTES = "*(What holds the slowest layers back has not been written yet.)*"


def page(folder: Path, old: str = "") -> str:
    """The page's text.

    Args:
        folder: Holds the JSON files.
        old: The page as it stands; its notes are kept.

    Raises:
        DataError: the folder holds no results.
    """
    files = sorted(folder.glob("gpu_*.json"))
    if not files:
        raise DataError(f"'{folder}' holds no gpu_*.json; `python -m benchmarks.gpu --out {folder}` makes one.")
    parts = [_HEAD]
    for path in files:
        results = read_json(path)
        # The file's name: a model's, and another GPU's behind it where there are several runs of one.
        model = path.stem.removeprefix("gpu_")
        parts.append(report(results).replace(f"## {results['model']}\n", f"## {model}\n", 1))
        charts = [name for name in ("networks", "layers") if name in results]
        parts += [f"![{name} of {model}](gpu_{model}_{name}.png)\n" for name in charts]
        begin, end = f"<!-- notes on {model}: begin -->", f"<!-- notes on {model}: end -->"
        kept = re.search(f"{re.escape(begin)}\n(.*?)\n{re.escape(end)}", old, re.DOTALL)
        parts.append(f"### What holds the slowest layers back\n\n{begin}\n{kept.group(1) if kept else _NOTES}\n{end}\n")
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="gpu_page", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", default="docs/benchmarks", help="of the JSON files and the page")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: _write(user_path(args.folder)), args.log_level)


def _write(folder: Path) -> None:
    from benchmarks.gpu_charts import draw

    target = folder / "gpu.md"
    text = page(folder, target.read_text(encoding="utf-8") if target.exists() else "")
    for path in sorted(folder.glob("gpu_*.json")):
        draw(read_json(path), folder, path.stem.removeprefix("gpu_"))
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
