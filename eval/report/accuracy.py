"""Accuracy in the report: classes, ranges, thresholds, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.report.charts import precision_recall_chart
from eval.report.table import Cell, Table, ap, fixed, number
from eval.report.templating import render
from runtime.decoders import AUTOWARE, TRAINING

if TYPE_CHECKING:
    from eval.evaluator import EvaluationSummary
    from eval.metrics import DetectionMetrics

__all__ = ["accuracy", "curves", "range_table"]

# AP of a class of which there is nothing to find.
_NONE = Cell("none", "num soft")
_MODES = {"center_distance_bev": "centre distance in the ground plane", "center_distance": "centre distance"}
_DECODES = {TRAINING: "the training framework", AUTOWARE: "Autoware's node"}


def accuracy(evaluations: Sequence[EvaluationSummary]) -> str:
    """AP by class, threshold and range."""
    if not evaluations:
        return ""
    reference = evaluations[0]
    metrics = reference.metrics
    return render(
        "accuracy.html",
        metrics=metrics,
        mode=_MODES.get(metrics.mode, metrics.mode),
        decode=_DECODES.get(reference.decode, reference.decode),
        label=reference.label,
        classes=_class_table(evaluations),
        ranges=range_table(metrics),
        thresholds=_threshold_table(metrics),
    )


def _class_table(evaluations: Sequence[EvaluationSummary]) -> Table:
    classes = evaluations[0].metrics.total.classes
    rows: list[list[str | Cell]] = []
    for index, item in enumerate(classes):
        known = item.num_ground_truth > 0
        cells = [ap(other.metrics.total.classes[index].mean_ap) if known else _NONE for other in evaluations]
        rows.append([item.class_name, number(item.num_ground_truth, 6), *cells])
    count = sum(item.num_ground_truth for item in classes)
    rows.append(["mean", number(count, 7), *(ap(item.metrics.mean_ap, heat=False) for item in evaluations)])
    return Table(["class", "objects", *(item.label for item in evaluations)], rows, last_is_sum=True)


def range_table(metrics: DetectionMetrics) -> Table:
    """AP by class and range, with the means."""
    rows: list[list[str | Cell]] = [
        [name, *(ap(part.classes[index].mean_ap) for part in metrics.ranges)]
        for index, name in enumerate(metrics.class_names)
    ]
    rows.append(["mean", *(ap(part.mean_ap, heat=False) for part in metrics.ranges)])
    return Table(["class", *(part.name for part in metrics.ranges)], rows, last_is_sum=True)


def _threshold_table(metrics: DetectionMetrics) -> Table:
    middle = metrics.thresholds[min(2, len(metrics.thresholds) - 1)]
    rows: list[list[str | Cell]] = []
    for item in metrics.total.classes:
        best = item.at(middle)
        values = (best.max_f1, best.best_score, best.best_precision, best.best_recall)
        rows.append(
            [item.class_name, *(ap(part.ap) for part in item.thresholds), *(fixed(value, 3) for value in values)]
        )
    thresholds = [f"{value:g} m" for value in metrics.thresholds]
    return Table(["class", *thresholds, f"max F1 at {middle:g} m", "score", "precision", "recall"], rows)


def curves(evaluations: Sequence[EvaluationSummary]) -> str:
    """Precision over recall, a chart per class."""
    if not evaluations:
        return ""
    reference, others = evaluations[0], evaluations[1:]
    charts = []
    for index, item in enumerate(reference.metrics.total.classes):
        lines = [
            (f"{reference.label}, {part.threshold:g} m: AP {part.ap:.3f}", f"t{position % 4}", part.curve)
            for position, part in enumerate(item.thresholds)
        ]
        if others:
            last = others[-1].metrics.total.classes[index].thresholds[-1]
            lines.append((f"{others[-1].label}, {last.threshold:g} m: AP {last.ap:.3f}", "other", last.curve))
        note = "no objects" if math.isnan(item.mean_ap) else f"AP {item.mean_ap:.3f}"
        charts.append(precision_recall_chart(item.class_name, note, lines))
    return render(
        "curves.html",
        label=reference.label,
        other=others[-1].label if others else "",
        thresholds=reference.metrics.thresholds,
        charts=charts,
    )
