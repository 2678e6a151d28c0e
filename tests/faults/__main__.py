"""Mutated files from the command line: `python -m tests.faults [--only TEXT] [--mutations N]`.

`--kills N` stops N runs of a deployment instead. `--only NAME --reproduce I --keep FOLDER` writes mutation I of one
parser's file and lets its error through.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.kills import MODULES, Deployment, Tally, kill_bundles, kill_deployments
from tests.faults.parsers import named
from tests.faults.spawner import Spawner
from tests.faults.trial import Failure, Parser, reproduce, try_parser


def main() -> int:
    """Runs the command; 1 where a file was neither accepted nor refused as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="parsers whose names hold this")
    parser.add_argument("--mutations", type=int, default=2000, metavar="N", help="of each (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="first mutation; seed of the kills")
    parser.add_argument("--shown", type=int, default=8, metavar="N", help="kinds of failures to show of each parser")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="stop N runs; no file is mutated then")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--list", action="store_true", help="only list the parsers")
    parser.add_argument("--reproduce", type=int, metavar="I", help="read mutation I only")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder in which --reproduce leaves its files")
    args = parser.parse_args()
    chosen = named(args.only)
    if args.list:
        _say("\n".join(f"{item.name}  ({item.file})" for item in chosen))
        return 0
    if args.reproduce is not None:
        folder = args.keep or Path(tempfile.mkdtemp())
        _say(f"{chosen[0].name} #{args.reproduce}: {folder / chosen[0].file}")
        _say(repr(reproduce(chosen[0], folder, args.reproduce))[:500])
        return 0
    figures = _stop_runs(args.kills, args.first) if args.kills else {item.name: _try(item, args) for item in chosen}
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    return int(any(figure.get("failures") for figure in figures.values()))


def _stop_runs(count: int, seed: int) -> dict[str, dict[str, Any]]:
    """Stops runs of a deployment and runs that replace a bundle, `count` of each."""
    with tempfile.TemporaryDirectory() as folder, Spawner(MODULES, {**os.environ, "OMP_NUM_THREADS": "1"}) as spawner:
        deployment, figures = Deployment(Path(folder), spawner), {}
        for name, kill in (("deployments", kill_deployments), ("bundles", kill_bundles)):
            tally = Tally()
            kill(deployment, count, tally, seed)
            figures[name] = {**tally.counts, "failures": len(tally.wrong)}
            _say("\n".join([f"{name}: {dict(tally.counts)}", *tally.wrong]))
    return figures


def _try(parser: Parser, args: argparse.Namespace) -> dict[str, Any]:
    start, count = time.monotonic(), max(1, int(args.mutations * parser.weight))
    with tempfile.TemporaryDirectory() as folder:
        summary = try_parser(parser, Path(folder), count, args.first)
    outcomes = ", ".join(f"{number} {kind}" for kind, number in summary.outcomes.most_common())
    _say(
        f"{parser.name}: {summary.inputs} files, {time.monotonic() - start:.0f} s ({summary.cpu_s:.1f} s of CPU time); "
        f"slowest {summary.slowest_s:.2f} s, largest {summary.largest_mb:.0f} MB: {outcomes}"
    )
    seen: set[tuple[str, str]] = set()
    for failure in summary.failures:
        if (key := _kind(failure)) not in seen and len(seen) < args.shown:
            seen.add(key)
            _say(f"    {failure}"[:1200].replace("\n", " | "))
    return {
        "files": summary.inputs,
        "outcomes": dict(summary.outcomes),
        "failures": summary.num_failures,
        "slowest_s": round(summary.slowest_s, 3),
        "largest_mb": round(summary.largest_mb, 1),
    }


def _kind(failure: Failure) -> tuple[str, str]:
    """Failures at one place of the code are one kind."""
    return failure.kind, failure.detail.rsplit(" > ", 1)[-1] if failure.kind.startswith("uncaught") else ""


def _say(text: str) -> None:
    os.write(1, text.encode("utf-8", "backslashreplace") + b"\n")


if __name__ == "__main__":
    sys.exit(main())
