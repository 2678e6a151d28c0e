"""The tables of `benchmarks.int8_accuracy`, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from base.tables import markdown_table

__all__ = ["F1_THRESHOLD_M", "tables"]

F1_THRESHOLD_M = 0.5
"""Matching threshold at which the best confidence is looked up, in metres."""


def tables(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], class_names: Sequence[str]) -> str:
    """The results as text.

    Args:
        rows: The variants as `results.json` has them, FP16 first.
        pairs: Comparisons of other variants with each other.
        class_names: Columns of the tables by class.
    """
    ranges = list(rows[0]["map"])
    compared = rows[1:]
    lines = ["AP in points (mean over 0.5, 1, 2 and 4 m); Δ against FP16 with 95 % intervals.", ""]
    lines += markdown_table(
        ["", *ranges], [[row["method"], *(_value(row["map"][name]) for name in ranges)] for row in rows]
    )
    lines += ["", *_differences(compared, ranges)]
    lines += ["", *_cells(compared)]
    lines += [
        "",
        *markdown_table(
            ["Δ AP", *class_names],
            [
                [row["method"], *(_interval(row["difference_by_class"][name]) for name in class_names)]
                for row in compared
            ],
        ),
    ]
    timed = [row for row in rows if "network_ms" in row]
    if timed:
        lines += ["", "Milliseconds of backbone, neck and head on these frames.", ""]
        first = timed[0]["network_ms"]["median"]
        lines += markdown_table(
            ["", "median", "90 %", f"median of {timed[0]['method']} / median"],
            [
                [
                    row["method"],
                    _value(row["network_ms"]["median"], 3),
                    _value(row["network_ms"]["p90"], 3),
                    _value(first / row["network_ms"]["median"]),
                ]
                for row in timed
            ],
        )
    lines += ["", f"Confidence of the best F1 at {F1_THRESHOLD_M:g} m, and its shift against FP16.", ""]
    shifts = [[row["method"], *(_signed(row["best_score_shift"][name], 3) for name in class_names)] for row in compared]
    first = [rows[0]["method"], *(_value(rows[0]["best_score"][name], 3) for name in class_names)]
    lines += markdown_table(["", *class_names], [first, *shifts])
    if pairs:
        lines += ["", "Variants against each other.", "", *_differences(pairs, ranges), "", *_cells(pairs)]
    return "\n".join(lines) + "\n"


def _differences(rows: Sequence[dict[str, Any]], ranges: Sequence[str]) -> list[str]:
    head = ["", *(f"Δ {name}" for name in ranges), "worst class × range", "goal"]
    return markdown_table(
        head,
        [
            [
                row["method"],
                *(_interval(row["difference"][name]) for name in ranges),
                _cell(row["worst_cell"]),
                "met" if row["goal_met"] else "missed",
            ]
            for row in rows
        ],
    )


def _cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = ["cells (class × range)", "below -0.5", "surely below -0.5", "surely below 0", "surely above 0"]
    head += ["standard error", "an equal model misses -0.5 by chance"]
    body = []
    for row in rows:
        cells = row["cells_summary"]
        counts = [cells[key] for key in ("worse_than_goal", "surely_worse_than_goal", "surely_below_0")]
        chance = cells["equal_model_misses"]
        body.append(
            [
                row["method"],
                *(f"{count} of {cells['cells']}" for count in (*counts, cells["surely_above_0"])),
                _value(cells["median_standard_error"]),
                "–" if chance is None else f"{chance:.0%}",
            ]
        )
    return markdown_table(head, body)


def _interval(item: dict[str, Any]) -> str:
    if item["difference"] is None:
        return "–"
    text = _signed(item["difference"])
    return text if item["low"] is None else f"{text} [{_signed(item['low'])}, {_signed(item['high'])}]"


def _cell(item: dict[str, Any] | None) -> str:
    return "–" if item is None else f"{_interval(item)} ({item['class']}, {item['range']})"


def _value(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:+.{digits}f}"
