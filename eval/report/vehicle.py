"""What the vehicle sees in the report: Autoware's decode of the same outputs against the training framework's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.report.accuracy import range_table
from eval.report.differences import difference_map
from eval.report.plots import bar_list
from eval.report.table import DASH, Cell, Table, ap, fixed, interval_text, number, signed
from eval.report.templating import part, render

if TYPE_CHECKING:
    from eval.vehicle import VehicleSummary

__all__ = ["vehicle"]

_MATCH_M = 2.0


def vehicle(seen: Sequence[VehicleSummary]) -> str:
    """Both decodes by backend; then, for each backend, by class, range and step."""
    if not seen:
        return ""
    # The last backend is the one nearest to the vehicle's.
    *others, last = seen
    return render(
        "vehicle.html", backends=_backends(seen), last=_details(last), others=[_details(item) for item in others]
    )


def _backends(seen: Sequence[VehicleSummary]) -> Table:
    rows = []
    for item in seen:
        total = item.comparison.total if item.comparison else None
        against = Cell(DASH)
        if total is not None and item.comparison is not None:
            interval = interval_text(total, item.comparison.confidence)
            against = Cell(part("parts.html", "difference")(total.verdict, signed(total.difference, 4), interval))
        rows.append(
            [
                Cell(item.label, "full", kind="b"),
                fixed(total.a if total else math.nan, 4),
                fixed(item.metrics.mean_ap, 4),
                against,
            ]
        )
    return Table(["backend", "training framework", "vehicle", "difference"], rows, css="stack labelled")


def _details(item: VehicleSummary) -> dict[str, Any]:
    """What the template shows of one backend."""
    metrics = item.metrics
    bars = [(step.name, step.mean_ap, f"{step.boxes_per_frame:.1f} boxes a frame") for step in item.steps]
    steps: list[list[str | Cell]] = [
        [
            step.name,
            ap(step.mean_ap, heat=False),
            *(ap(value) for value in step.class_ap),
            fixed(step.boxes_per_frame, 1),
        ]
        for step in item.steps
    ]
    thresholds: list[list[str | Cell]] = [
        [row.class_name, *(fixed(value, 3) for value in row.thresholds)] for row in item.score_thresholds
    ]
    match = min(metrics.thresholds, key=lambda value: abs(value - _MATCH_M))
    return {
        "label": item.label,
        "bars": bar_list(bars),
        "steps": Table(["decode", "mAP", *metrics.class_names, "boxes a frame"], steps),
        "difference": difference_map(item.comparison) if item.comparison is not None else "",
        "match_m": match,
        "classes": _class_table(item, match),
        # With one range, the total is the same.
        "ranges": range_table(metrics) if len(metrics.ranges) != 2 else None,
        "parameters": item.parameters,
        "thresholds": Table(["class", *item.bin_names], thresholds),
    }


def _class_table(item: VehicleSummary, match_m: float) -> Table:
    rows: list[list[str | Cell]] = []
    for found in item.metrics.total.classes:
        at = found.at(match_m)
        rows.append(
            [
                found.class_name,
                number(at.num_ground_truth, 6),
                number(at.num_detections, 6),
                fixed(at.num_true_positives / at.num_ground_truth if at.num_ground_truth else math.nan, 3),
                fixed(at.num_true_positives / at.num_detections if at.num_detections else math.nan, 3),
                fixed(at.num_false_positives / item.metrics.num_frames, 2),
            ]
        )
    return Table(["class", "objects", "published", "recall", "precision", "false a frame"], rows)
