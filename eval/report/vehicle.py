"""What the vehicle sees in the report: Autoware's decode of the same outputs against the training framework's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from eval.report.accuracy import difference_map, interval_text, signed
from eval.report.html import Cell, ap, fixed, number, section, table, verdict
from eval.report.plots import bar_list
from eval.vehicle import VehicleSummary

__all__ = ["vehicle"]

_TEXT = (
    "Autoware's node does not decode as the training framework does: one class a cell, score thresholds by class and "
    "distance, a test on the length of the yaw vector, two suppressions across classes, classes by area. Average "
    "precision of the boxes that it publishes, trailers counted as trucks; a detector with thresholds ends at the "
    "recall that they leave."
)
_MATCH_M = 2.0


def vehicle(seen: Sequence[VehicleSummary]) -> str:
    """Both decodes by backend; then, for each backend, by class, range and step."""
    if not seen:
        return ""
    body = f'<p class="soft small">{_TEXT}</p>{_backends(seen)}'
    # The last backend is the one nearest to the vehicle's.
    *others, last = seen
    body += _details(last)
    body += "".join(f"<details><summary>{escape(item.label)}</summary>{_details(item)}</details>" for item in others)
    return section("What the vehicle sees", body, "vehicle")


def _backends(seen: Sequence[VehicleSummary]) -> str:
    rows: list[list[str]] = []
    for item in seen:
        total = item.comparison.total if item.comparison else None
        against = Cell("–")
        if total is not None and item.comparison is not None:
            against = Cell(
                f"{verdict(total.verdict)} <span class=nowrap>{signed(total.difference, 4)}</span> "
                f'<span class="soft small">{escape(interval_text(total, item.comparison.confidence))}</span>'
            )
        rows.append(
            [
                Cell(f"<b>{escape(item.label)}</b>", "full"),
                fixed(total.a if total else math.nan, 4),
                fixed(item.metrics.mean_ap, 4),
                against,
            ]
        )
    return table(["backend", "training framework", "vehicle", "difference"], rows, css="stack labelled")


def _details(item: VehicleSummary) -> str:
    body = f"<h3>{escape(item.label)}: where it goes</h3>" + _steps(item)
    if item.comparison is not None:
        body += "<h3>Vehicle minus training framework</h3>" + difference_map(item.comparison)
    return body + _by_class(item) + _by_range(item) + _thresholds(item)


def _steps(item: VehicleSummary) -> str:
    names = item.metrics.class_names
    bars = [(step.name, step.mean_ap, f"{step.boxes_per_frame:.1f} boxes a frame") for step in item.steps]
    rows: list[list[str]] = [
        [
            step.name,
            ap(step.mean_ap, heat=False),
            *(ap(value) for value in step.class_ap),
            fixed(step.boxes_per_frame, 1),
        ]
        for step in item.steps
    ]
    return bar_list(bars) + table(["decode", "mAP", *names, "boxes a frame"], rows)


def _by_class(item: VehicleSummary) -> str:
    thresholds = item.metrics.thresholds
    match = min(thresholds, key=lambda value: abs(value - _MATCH_M))
    rows: list[list[str]] = []
    for part in item.metrics.total.classes:
        at = part.at(match)
        rows.append(
            [
                part.class_name,
                number(at.num_ground_truth, 6),
                number(at.num_detections, 6),
                fixed(at.num_true_positives / at.num_ground_truth if at.num_ground_truth else math.nan, 3),
                fixed(at.num_true_positives / at.num_detections if at.num_detections else math.nan, 3),
                fixed(at.num_false_positives / item.metrics.num_frames, 2),
            ]
        )
    head = ["class", "objects", "published", "recall", "precision", "false a frame"]
    return f"<h3>Published boxes, right within {match:g} m</h3>" + table(head, rows)


def _by_range(item: VehicleSummary) -> str:
    metrics = item.metrics
    if len(metrics.ranges) == 2:  # one range and the total, which is the same
        return ""
    rows = [
        [name, *(ap(part.classes[index].mean_ap) for part in metrics.ranges)]
        for index, name in enumerate(metrics.class_names)
    ]
    rows.append(["mean", *(ap(part.mean_ap, heat=False) for part in metrics.ranges)])
    return "<h3>By distance, as published</h3>" + table(
        ["class", *(part.name for part in metrics.ranges)], rows, last_is_sum=True
    )


def _thresholds(item: VehicleSummary) -> str:
    rows: list[list[str]] = [
        [row.class_name, *(fixed(value, 3) for value in row.thresholds)] for row in item.score_thresholds
    ]
    return (
        f"<details><summary>Score thresholds: {escape(item.parameters)}</summary>"
        f"{table(['class', *item.bin_names], rows)}</details>"
    )
