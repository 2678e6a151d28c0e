"""Accuracy in the report: classes, ranges, thresholds, differences with intervals, gates, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from eval.evaluator import EvaluationSummary
from eval.gates import GateResult
from eval.metrics import TOTAL
from eval.report.charts import precision_recall_chart
from eval.report.html import Cell, ap, fixed, number, section, table, verdict
from eval.report.plots import heat_map
from eval.statistics import FEW_GROUPS, BootstrapComparison, Difference
from runtime.decoders import AUTOWARE, TRAINING

__all__ = ["accuracy", "curves", "difference_map", "differences", "interval_text", "signed"]

_MODES = {"center_distance_bev": "centre distance in the ground plane", "center_distance": "centre distance"}
_DECODES = {TRAINING: "the training framework", AUTOWARE: "Autoware's node"}


def signed(value: float, decimals: int = 3) -> str:
    """With its sign, 0 without one; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return f"{value:+.{decimals}f}" if round(value, decimals) else f"{0:.{decimals}f}"


def interval_text(item: Difference, confidence: float) -> str:
    """ "[-0.012, +0.003]" of a difference, or nothing where no interval was computed."""
    if math.isnan(item.low):
        return ""
    return f"[{signed(item.low, 4)}, {signed(item.high, 4)}] at {confidence:.0%}"


def accuracy(evaluations: Sequence[EvaluationSummary]) -> str:
    """AP by class, threshold and range."""
    if not evaluations:
        return ""
    reference = evaluations[0]
    metrics = reference.metrics
    total = metrics.total
    head = ["class", "objects", *(item.label for item in evaluations)]
    rows: list[list[str]] = []
    for index, item in enumerate(total.classes):
        cells = [ap(other.metrics.total.classes[index].mean_ap) for other in evaluations]
        rows.append([item.class_name, number(item.num_ground_truth, 6), *cells])
    count = sum(item.num_ground_truth for item in total.classes)
    rows.append(["mean", number(count, 7), *(ap(item.metrics.mean_ap, heat=False) for item in evaluations)])
    mode = escape(_MODES.get(metrics.mode, metrics.mode))
    thresholds = " / ".join(f"{value:g}" for value in metrics.thresholds)
    body = (
        f'<p class="soft small">Average precision by {mode}, mean of {thresholds} m, {escape(metrics.policy)} '
        f"conventions, {total.min_m:g} to {total.max_m:g} m, {metrics.num_frames} frames; boxes as "
        f"{_DECODES.get(reference.decode, reference.decode)} decodes them.</p>" + table(head, rows, last_is_sum=True)
    )
    body += f"<h3>By distance, {escape(reference.label)}</h3>"
    rows = [
        [name, *(ap(part.classes[index].mean_ap) for part in metrics.ranges)]
        for index, name in enumerate(metrics.class_names)
    ]
    rows.append(["mean", *(ap(part.mean_ap, heat=False) for part in metrics.ranges)])
    body += table(["class", *(part.name for part in metrics.ranges)], rows, last_is_sum=True)

    body += f"<h3>By threshold, {escape(reference.label)}</h3>"
    middle = metrics.thresholds[min(2, len(metrics.thresholds) - 1)]
    rows = []
    for item in total.classes:
        best = item.at(middle)
        rows.append(
            [
                item.class_name,
                *(ap(part.ap) for part in item.thresholds),
                fixed(best.max_f1, 3),
                fixed(best.best_score, 3),
                fixed(best.best_precision, 3),
                fixed(best.best_recall, 3),
            ]
        )
    columns = [
        *(f"{value:g} m" for value in metrics.thresholds),
        f"max F1 at {middle:g} m",
        "score",
        "precision",
        "recall",
    ]
    body += table(["class", *columns], rows)
    return section("Accuracy", body, "accuracy")


def differences(comparisons: Sequence[BootstrapComparison], gates: Sequence[GateResult]) -> str:
    """Every pair of backends, class by range, and the gates."""
    if not comparisons and not gates:
        return ""
    body = ""
    if comparisons:
        first = comparisons[0]
        unit = "frames" if first.num_groups == first.num_frames else f"scenes ({first.num_frames} frames)"
        body += (
            f'<p class="soft small">AP of the second minus AP of the first. Paired bootstrap over {first.num_groups} '
            f"{unit}, {first.num_resamples} draws, intervals of {first.confidence:.0%}; bold where the interval "
            "excludes 0. Point at a cell for its interval.</p>"
        )
        if first.num_resamples and first.num_groups < FEW_GROUPS:
            few = f"Intervals over {first.num_groups} {unit} are too narrow"
            body += f"<p><b>{few}</b>; evaluate at least {FEW_GROUPS}.</p>"
    # The reference against each backend first; the pairs among the others can be opened.
    main = [item for item in comparisons if item.label_a == comparisons[0].label_a]
    rest = [item for item in comparisons if item.label_a != comparisons[0].label_a]
    body += "".join(_pair(item) for item in main)
    if rest:
        body += f"<details><summary>Other pairs</summary>{''.join(_pair(item) for item in rest)}</details>"
    if gates:
        body += _gates(gates)
    return section("Differences", body, "differences")


_JUDGED = {
    "difference": "measured drop",
    "worst_bound": "largest drop in the interval",
    "best_bound": "smallest drop in the interval",
    "value": "mAP itself",
}


def _gates(gates: Sequence[GateResult]) -> str:
    """What failed or could not be judged; what was kept can be opened."""
    broken = [gate for gate in gates if gate.status == "FAILED"] + [gate for gate in gates if gate.status == "SKIPPED"]
    kept = [gate for gate in gates if gate.status == "PASSED"]
    body = _gate_table(broken) if broken else ""
    if kept:
        body += f"<details><summary>{len(kept)} of {len(gates)} gates kept</summary>{_gate_table(kept)}</details>"
    return f"<h3>Accuracy gates</h3>{body}"


def _gate_table(gates: Sequence[GateResult]) -> str:
    rows: list[list[str]] = [
        [
            Cell(f"<code>{escape(gate.key)}</code>", "full"),
            verdict(gate.status),
            Cell(escape(gate.subject), "nowrap"),
            Cell(escape(gate.backend), "nowrap"),
            fixed(gate.limit, 4),
            Cell(signed(gate.value, 4) if gate.reference else f"{gate.value:.4f}", "num"),
            Cell(_JUDGED[gate.judged_by] if gate.status != "SKIPPED" else "no objects", "soft"),
        ]
        for gate in gates
    ]
    return table(["gate", "result", "of", "backend", "limit", "value", "value is the"], rows, css="stack")


def _pair(item: BootstrapComparison) -> str:
    total = item.total
    head = (
        f"<h3>{escape(item.label_b)} against {escape(item.label_a)} {verdict(total.verdict)}</h3>"
        f"<p>mAP {signed(total.difference, 4)} {escape(interval_text(total, item.confidence))}</p>"
    )
    return head + difference_map(item)


def difference_map(item: BootstrapComparison) -> str:
    """Differences of AP, class by range, shaded; bold where the interval excludes 0."""
    ranges = list(dict.fromkeys(part.range_name for part in item.differences))
    names = list(dict.fromkeys(part.class_name for part in item.differences))
    names = [*(name for name in names if name), None]
    cells = [[item.of(name, part) for part in ranges] for name in names]
    known = [abs(cell.difference) for row in cells for cell in row if not math.isnan(cell.difference)]
    return heat_map(
        [name or "mean" for name in names],
        [part if part != TOTAL else "all" for part in ranges],
        [[cell.difference for cell in row] for row in cells],
        [[signed(cell.difference) for cell in row] for row in cells],
        [[_note(cell, item.confidence) for cell in row] for row in cells],
        # Differences of a thousandth are no alarm: full colour begins at two hundredths.
        limit=max([0.02, *known]),
        bold=[[cell.verdict in ("better", "worse") for cell in row] for row in cells],
    )


def _note(cell: Difference, confidence: float) -> str:
    if math.isnan(cell.difference):
        return "no objects"
    return f"{cell.a:.3f} to {cell.b:.3f}, {interval_text(cell, confidence)}, {cell.verdict}"


def curves(evaluations: Sequence[EvaluationSummary]) -> str:
    """Precision over recall, a chart per class."""
    if not evaluations:
        return ""
    reference, others = evaluations[0], evaluations[1:]
    thresholds = reference.metrics.thresholds
    legend = "".join(
        f'<span class="key"><i class="line t{index % 4}"></i>{value:g} m</span>'
        for index, value in enumerate(thresholds)
    )
    if others:
        legend += f'<span class="key"><i class="line dash"></i>{escape(others[-1].label)}, {thresholds[-1]:g} m</span>'
    charts = []
    for index, item in enumerate(reference.metrics.total.classes):
        lines = [
            (f"{reference.label}, {part.threshold:g} m: AP {part.ap:.3f}", f"t{position % 4}", part.curve)
            for position, part in enumerate(item.thresholds)
        ]
        if others:
            last = others[-1].metrics.total.classes[index].thresholds[-1]
            lines.append((f"{others[-1].label}, {last.threshold:g} m: AP {last.ap:.3f}", "other", last.curve))
        value = item.mean_ap
        note = "no objects" if math.isnan(value) else f"AP {value:.3f}"
        charts.append(precision_recall_chart(item.class_name, note, lines))
    body = (
        f'<p class="soft small">{escape(reference.label)}, whole range; precision is the best at that or any higher '
        f'recall.</p><p class="legend">{legend}</p><div class="charts">{"".join(charts)}</div>'
    )
    return section("Precision and recall", body, "curves")
