"""Draws what calibration on generated frames, and on real ones, costs on real scans.

    python -m benchmarks.real_drive_chart work_dirs/cross/pool/results.json --out work_dirs/cross/int8.png

On the left the change of AP by class with its interval; on the right how many boxes of FP16 and INT8 are lost, new
moved or turned, on all scans of the results, labelled or not. A method has a row for each set of calibration frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from base.command import add_log_level, run_command, run_main
from base.errors import DataError
from base.files import atomic_path, read_json, user_path
from base.lazy import require

__all__ = ["draw", "main", "rows_of"]

_COLORS = ("#4477aa", "#ee8866", "#228833")
_CHANGES = (("lost", "#cc3311"), ("gained", "#009988"), ("moved", "#bbbbbb"))
_ALL = ("matched", "moved", "lost", "gained")
_FEWEST = 20
_GOAL = -0.5


def rows_of(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(method, calibration frames) of what is drawn, a method's together, in the results' order.

    Args:
        results: Of `benchmarks.real_drive` or `benchmarks.real_drive_pool`.

    Raises:
        DataError: there is nothing in INT8.
    """
    pairs = [tuple(name.removesuffix(")").split(" (")) for name in results["against"] if name.endswith(")")]
    if not pairs:
        raise DataError("The results hold nothing that was calibrated; run benchmarks.real_drive with --calibration.")
    methods = list(dict.fromkeys(method for method, _ in pairs))
    return [(method, source) for method in methods for of, source in pairs if of == method]


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Writes the picture; its kind is that of the file's name.

    Raises:
        DataError: there is nothing in INT8.
    """
    require("matplotlib", "to draw the chart").use("agg")
    pyplot = require("matplotlib.pyplot", "to draw the chart")
    rows = rows_of(results)
    names = [f"{method} ({source})" for method, source in rows]
    figure, (points, boxes) = pyplot.subplots(
        1, 2, figsize=(11.5, 0.28 * len(rows) + 1.4), layout="constrained", sharey=True
    )
    _differences(points, results, names)
    _changes(boxes, results, names)
    points.set_yticks(range(len(rows)), [f"{method}, {source}" for method, source in rows], fontsize=8)
    for index in range(1, len(rows)):
        if rows[index][0] != rows[index - 1][0]:
            for axes in (points, boxes):
                axes.axhline(index - 0.5, color="#dddddd", linewidth=0.8)
    points.set_ylim(len(rows) - 0.5, -0.5)
    for axes in (points, boxes):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=110)
    pyplot.close(figure)


def _differences(axes: Any, results: Mapping[str, Any], names: Sequence[str]) -> None:
    classes = [name for name, count in results["objects"].items() if count >= _FEWEST]
    for number, kind in enumerate(classes):
        cells = [results["against"][name][kind] for name in names]
        places = [index + (number - (len(classes) - 1) / 2) * 0.26 for index in range(len(names))]
        color = _COLORS[number % len(_COLORS)]
        values = [cell["value"] for cell in cells]
        if all(cell["low"] is not None for cell in cells):
            reach = [[c["value"] - c["low"] for c in cells], [c["high"] - c["value"] for c in cells]]
            axes.errorbar(values, places, xerr=reach, fmt="o", color=color, markersize=4, linewidth=1.2, label=kind)
        else:
            axes.plot(values, places, "o", color=color, markersize=4, label=kind)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.axvline(_GOAL, color="black", linewidth=0.8, linestyle=":", label=f"goal, {_GOAL}")
    axes.set_xlabel("AP, points against FP16, 95 % intervals")
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _changes(axes: Any, results: Mapping[str, Any], names: Sequence[str]) -> None:
    """Of all boxes that FP16 or INT8 has, which pair up or are alone; the turned ones are moved or matched, too."""
    counts = [
        {key: sum(run[name][key] for run in results["agreement"].values()) for key in (*_ALL, "turned")}
        for name in names
    ]
    whole = [sum(row[key] for key in _ALL) for row in counts]
    left = [0.0] * len(names)
    for key, color in _CHANGES:
        shares = [100.0 * row[key] / every for row, every in zip(counts, whole, strict=True)]
        axes.barh(range(len(names)), shares, left=left, color=color, height=0.7, label=key)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    turned = [100.0 * row["turned"] / every for row, every in zip(counts, whole, strict=True)]
    axes.plot(turned, range(len(names)), "D", color="#222222", markersize=4, label="turned by more than 90°")
    axes.set_xlabel(f"of {min(whole):,} to {max(whole):,} boxes on all real scans, %")
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def main(argv: Sequence[str] | None = None) -> int:
    """Draws; 0 when done, 2 on wrong input."""
    parser = argparse.ArgumentParser(prog="real_drive_chart", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, metavar="JSON", help="results.json of real_drive or real_drive_pool")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture")
    add_log_level(parser)
    args = parser.parse_args(argv)
    return run_command(lambda: draw(read_json(user_path(args.results)), user_path(args.out)), args.log_level)


if __name__ == "__main__":
    run_main(main)
