"""Plans of mixed precision from `benchmarks.int8_accuracy --each-layer`: which layers to try in FP16, by measured loss.

    python -m benchmarks.int8_plans work_dirs/layers/results.json --calibration percentile --kept 0.75 0.5 0.25 0.1

prints names of variants, for `benchmarks.int8_accuracy --methods` to measure: accuracy and milliseconds of each; its
`--plans` chooses and measures them in one run. A layer's loss is the mean of what it costs alone and of what leaving
it out wins, at least 0; its time is what the network takes longer with it in FP16. Each plan is the fastest whose
losses add up to a share (`--kept`) of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import read_json, user_path, write_json
from benchmarks.int8_accuracy_variants import FP16
from quant.plans import Item, PlanTimes, fastest_plan
from quant.roofline import LayerTimes, Precision

__all__ = ["layer_rows", "main", "plan_name", "plans"]


def layer_rows(results: dict[str, Any], calibration: str) -> list[dict[str, Any]]:
    """What each layer costs, in points and milliseconds, in the network's order.

    Args:
        results: `results.json` of a run with `--each-layer`.
        calibration: Its name.

    Returns:
        For each layer `layer`; `alone`: points lost with it alone in INT8, None where the engine refuses that;
        `without`: points won with it alone in FP16; `ms`: the network's median with it in FP16 minus without.

    Raises:
        DataError: the run has no such variants.
    """
    rows = {row["method"]: row for row in results["variants"]}
    refused = results.get("refused", {})
    prefix = f"{calibration}:float="
    # What is not there alone in INT8, too, is a choice of layers that somebody named, such as a whole block.
    alone_of = f"{calibration}:only="
    layers = {name.removeprefix(alone_of) for name in (*rows, *refused) if name.startswith(alone_of)}
    names = [name.removeprefix(prefix) for name in (*rows, *refused) if name.startswith(prefix)]
    names = [name for name in names if name in layers]
    if calibration not in rows or not names:
        raise DataError(f"The results hold no '{calibration}' with each layer in FP16: run int8_accuracy --each-layer.")
    everything = rows[calibration]
    found = []
    for name in names:
        alone, without = rows.get(alone_of + name), rows.get(prefix + name)
        found.append(
            {
                "layer": name,
                "alone": None if alone is None else rows[FP16]["map"]["total"] - alone["map"]["total"],
                "without": None if without is None else without["map"]["total"] - everything["map"]["total"],
                "ms": None if without is None else _median(without) - _median(everything),
                "refused": refused.get(prefix + name) or refused.get(alone_of + name),
            }
        )
    return found


def plans(rows: Sequence[dict[str, Any]], kept: Sequence[float]) -> list[tuple[str, ...]]:
    """The fastest plan for each share of the loss that may stay; layers in FP16, in the network's order.

    Args:
        rows: Of `layer_rows`; a layer that the engine refuses in FP16 stays in INT8.
        kept: Shares from 0 to 1.
    """
    items: list[Item] = []
    seconds: dict[str, dict[Precision, float]] = {}
    for row in rows:
        if row["ms"] is None:
            continue
        sides = [value for value in (row["alone"], row["without"]) if value is not None]
        items.append(Item(row["layer"], (row["layer"],), max(sum(sides) / len(sides), 0.0)))
        seconds[row["layer"]] = {"int8": 0.0, "fp16": max(row["ms"], 0.0) / 1e3}
    times = PlanTimes.from_layers(LayerTimes("the engine", seconds))
    total = sum(item.loss for item in items)
    order = [row["layer"] for row in rows]
    found = [fastest_plan(items, times, share * total) for share in kept]
    return [tuple(sorted(plan, key=order.index)) for plan in dict.fromkeys(found) if plan]


def plan_name(calibration: str, plan: Sequence[str]) -> str:
    """The variant of a calibration with the layers of a plan in FP16."""
    return f"{calibration}:float={','.join(plan)}"


def _median(row: dict[str, Any]) -> float:
    return float(row["network_ms"]["median"])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when done, 2 on wrong input."""
    parser = argparse.ArgumentParser(prog="int8_plans", description="Plans of mixed precision, to be measured.")
    parser.add_argument("results", type=Path, metavar="JSON", help="results.json of int8_accuracy --each-layer")
    parser.add_argument("--calibration", default="percentile", metavar="NAME", help="default %(default)s")
    parser.add_argument("--kept", nargs="+", type=float, default=[0.75, 0.5, 0.35, 0.25, 0.1], metavar="SHARE")
    parser.add_argument("--rows", type=Path, metavar="JSON", help="where to write what each layer costs")
    add_log_level(parser)
    args = parser.parse_args(argv)

    def run() -> None:
        rows = layer_rows(read_json(user_path(args.results)), args.calibration)
        if args.rows:
            write_json(user_path(args.rows), {"calibration": args.calibration, "layers": rows})
        for plan in plans(rows, args.kept):
            print(plan_name(args.calibration, plan))  # noqa: T201 - what the command is for

    return run_command(run, args.log_level)


if __name__ == "__main__":
    run_main(main)
