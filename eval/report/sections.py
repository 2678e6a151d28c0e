"""Sections of the report, each a function of the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from eval.bev import COLORS, png_data_uri, points_png, view_svg
from eval.evaluator import EvaluationSummary
from eval.panels import FramePanel
from eval.report.charts import histogram, precision_recall_chart, stage_bars
from eval.report.html import Cell, ap, file_size, fixed, number, section, table, verdict
from eval.results import RunResults, StepStatus
from runtime.backends.base import STAGES
from runtime.latency import LatencyStats

__all__ = ["accuracy", "artifacts", "curves", "environment", "latency", "panels_section", "summary", "verification"]

_MODES = {"center_distance_bev": "centre distance in the ground plane", "center_distance": "centre distance"}
_STATUSES: tuple[StepStatus, ...] = ("PASSED", "FAILED", "SKIPPED")


def _stages(item: EvaluationSummary, total: bool = True) -> dict[str, LatencyStats]:
    """Stages in the order in which they run; JSON does not keep it."""
    known = {name: place for place, name in enumerate((*STAGES, "total"))}
    names = sorted(item.latency, key=lambda name: (known.get(name, len(STAGES) - 1), name))
    return {name: item.latency[name] for name in names if total or name != "total"}


def _tile(value: str, name: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'


def summary(results: RunResults) -> str:
    """Verdict, headline numbers, steps."""
    status = "PASSED" if results.passed else "FAILED"
    counts = ", ".join(f"{results.count(kind)} {kind.lower()}" for kind in _STATUSES if results.count(kind))
    tiles = [
        _tile(f"{item.metrics.mean_ap:.3f}" if not math.isnan(item.metrics.mean_ap) else "–", f"mAP, {item.label}")
        for item in results.evaluations
    ]
    tiles += [
        _tile(f"{item.latency['total'].p50:.1f} ms", f"median frame, {item.label}")
        for item in results.evaluations
        if "total" in item.latency
    ]
    agree = sum(item.passed for item in results.verifications)
    if results.verifications:
        tiles.append(_tile(f"{agree} of {len(results.verifications)}", "verifications passed"))
    rows = [
        [
            Cell(escape(step.name), "full"),
            verdict(step.status),
            fixed(step.seconds, 1, " s") if step.seconds is not None else Cell("", "num"),
            fixed(step.peak_rss_mb, 0, " MB") if step.peak_rss_mb is not None else Cell("", "num"),
            Cell(escape(step.reason), "full soft"),
        ]
        for step in results.steps
    ]
    settings = ", ".join(
        f"{escape(str(key))} <b>{escape(str(value))}</b>"
        for key, value in sorted(results.run.items())
        if isinstance(value, (str, int, float, bool)) and value != ""
    )
    return (
        f"<h1>{escape(results.title)}</h1>"
        f"<p>{verdict(status)} <span class=soft>{escape(counts or 'no steps')}</span></p>"
        f'<p class="small soft">{settings}</p><div class="tiles">{"".join(tiles)}</div>'
        + section("Steps", table(["step", "result", "time", "peak memory", "reason"], rows, css="stack"), "steps")
    )


def panels_section(panels: Sequence[FramePanel]) -> str:
    """Bird's-eye views, worst frames first."""
    if not panels:
        return ""
    legend = "".join(
        f'<span class="key"><i class="line{" dash" if key == "missed" else ""}" style="color:{COLORS[key]}"></i>'
        f"{text}</span>"
        for key, text in (
            ("found", "ground truth"),
            ("missed", "ground truth, missed"),
            ("correct", "detection"),
            ("false", "false detection"),
        )
    )
    body = (
        '<p class="soft small">The frames with most errors first. Detections with a score of at least 0.3, matched '
        "within 2 m; up is forward, each ring 20 m. Hover or tap a box for its class and score.</p>"
        f'<p class="legend">{legend}</p>'
    )
    for index, panel in enumerate(panels):
        e, name = panel.extent_m, f"points-{index}"
        image = png_data_uri(points_png(panel.points, e))
        # Each picture is held once and used by all views of the frame.
        body += (
            f'<h3>{escape(panel.token)}</h3><svg width="0" height="0" style="position:absolute" aria-hidden="true">'
            f'<defs><image id="{name}" x="{-e:g}" y="{-e:g}" width="{2 * e:g}" height="{2 * e:g}" href="{image}"/>'
            "</defs></svg>"
            '<div class="views">'
        )
        for view in panel.views:
            right, wrong, missed = int(view.correct.sum()), int((~view.correct).sum()), int((~view.found).sum())
            body += (
                f"<figure><figcaption><b>{escape(view.label)}</b>: {right} correct, {wrong} false, {missed} missed of "
                f"{len(view.found)}</figcaption>{view_svg(panel, view, '#' + name)}</figure>"
            )
        body += "</div>"
    return section("Worst frames", body, "frames")


def _difference(reference: EvaluationSummary, other: EvaluationSummary) -> str:
    delta = other.metrics.mean_ap - reference.metrics.mean_ap
    changes = [
        (abs(b.mean_ap - a.mean_ap), a.class_name)
        for a, b in zip(reference.metrics.total.classes, other.metrics.total.classes, strict=True)
        if not math.isnan(b.mean_ap - a.mean_ap)
    ]
    text = f"{other.label} against {reference.label}: mAP {delta:+.4f}"
    if changes:
        largest, name = max(changes)
        text += f"; largest change of a class {largest:.4f} ({name})"
    return f"<p>{escape(text)}.</p>"


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
        f"conventions, {total.min_m:g} to {total.max_m:g} m, {metrics.num_frames} frames.</p>"
        + table(head, rows, last_is_sum=True)
    )
    body += "".join(_difference(reference, other) for other in evaluations[1:])

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


def latency(evaluations: Sequence[EvaluationSummary]) -> str:
    """Percentiles, stages, distribution."""
    timed = [item for item in evaluations if "total" in item.latency]
    if not timed:
        return ""
    rows: list[list[str]] = []
    for item in timed:
        total = item.latency["total"]
        values = (total.mean, total.p50, total.p90, total.p95, total.p99, total.max)
        rows.append([item.label, number(total.count, 6), *(fixed(value) for value in values), fixed(1000 / total.mean)])
    head = ["backend", "frames", "mean", "p50", "p90", "p95", "p99", "max", "frames/s"]
    body = (
        f'<p class="soft small">Milliseconds from points to boxes, after {timed[0].warmup_frames} warm-up frames, on '
        f"{escape(timed[0].machine.describe())}. Stages on a GPU are timed by events on its stream.</p>"
        + table(head, rows)
    )
    body += "<h3>By stage</h3>" + stage_bars(
        [(item.label, {stage: stats.mean for stage, stats in _stages(item, total=False).items()}) for item in timed]
    )
    samples = [value for item in timed for value in item.samples_ms]
    if samples:
        low, high = min(samples), max(samples)
        charts = [
            histogram(
                item.label,
                item.samples_ms,
                low,
                high,
                {"p50": item.latency["total"].p50, "p99": item.latency["total"].p99},
            )
            for item in timed
        ]
        body += f'<h3>Distribution</h3><div class="charts two">{"".join(charts)}</div>'
    rows = [
        [
            item.label,
            stage,
            *(fixed(value, 2) for value in (stats.mean, stats.p50, stats.p90, stats.p95, stats.p99, stats.max)),
        ]
        for item in timed
        for stage, stats in _stages(item).items()
    ]
    stages = table(["backend", "stage", "mean", "p50", "p90", "p95", "p99", "max"], rows)
    body += f"<details><summary>Every stage in numbers</summary>{stages}</details>"
    dropped = [item for item in timed if item.inputs.dropped_voxels]
    for item in dropped[:1]:
        body += (
            f"<p><b>{item.inputs.dropped_voxels}</b> pillars beyond the model's maximum were left out, in "
            f"{item.inputs.frames_with_dropped_voxels} of {item.num_frames} frames.</p>"
        )
    return section("Latency", body, "latency")


def verification(results: RunResults) -> str:
    """Outputs and boxes of every scenario."""
    body = ""
    for item in results.verifications:
        status = "PASSED" if item.passed else "FAILED"
        body += (
            f"<h3>{escape(item.scenario)} {verdict(status)}</h3><p class='soft small'>{escape(item.precision)}, "
            f"{item.num_frames} frames</p>"
        )
        if item.reasons:
            body += f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in item.reasons)}</ul>"
        rows: list[list[str]] = []
        for output in item.outputs:
            found, limit = output.comparison, output.tolerance
            allowed = [
                f"{text} {value:g}"
                for text, value in (
                    ("L2", limit.relative_l2),
                    ("score", limit.max_score_error),
                    ("share of range", limit.max_abs_share),
                    ("max", limit.max_abs),
                )
                if value is not None
            ]
            rows.append(
                [
                    Cell(f"<code>{escape(found.name)}</code>"),
                    verdict("PASSED" if output.passed else "FAILED"),
                    number(found.max_abs),
                    number(found.relative_l2),
                    Cell(f"{found.cosine:.9f}", "num"),
                    Cell(f"{found.reference_min:.3g} … {found.reference_max:.3g}", "num"),
                    number(found.nonfinite_reference + found.nonfinite_test, 6),
                    Cell(escape(", ".join(allowed)), "soft nowrap"),
                ]
            )
        if rows:
            head = ["output", "result", "max abs", "relative L2", "cosine", "reference range", "non-finite", "allowed"]
            body += table(head, rows)
        if item.boxes is not None and not math.isnan(item.boxes.matched_share):
            boxes, limits = item.boxes, item.box_tolerance
            within = f" within {limits.max_center_m * 100:g} cm" if limits else ""
            score = f" with score ≥ {limits.min_score:g}" if limits else ""
            body += (
                f"<p>Boxes{score}: <b>{boxes.matched_share:.2%}</b> agree{within} "
                f"({boxes.matched} matched, {boxes.moved} moved, {boxes.lost} lost, {boxes.gained} gained). Largest "
                f"differences: centre {boxes.max_center_m * 100:.3g} cm, size {boxes.max_size_m * 100:.3g} cm, yaw "
                f"{math.degrees(boxes.max_yaw_rad):.3g}°, velocity {boxes.max_velocity_mps:.3g} m/s, score "
                f"{boxes.max_score:.3g}.</p>"
            )
        elif item.boxes is not None:
            body += "<p>No box reached the score on either side; the outputs alone were judged.</p>"
    return section("Verification", body, "verification") if body else ""


def artifacts(results: RunResults) -> str:
    """Files with their checksums."""
    rows: list[list[str]] = [
        [
            Cell(f"<code>{escape(item.path)}</code>", "full"),
            item.kind,
            item.precision,
            file_size(item.bytes),
            Cell(f"<code>{escape(item.sha256)}</code>", "sha full"),
        ]
        for item in results.artifacts
    ]
    if not rows:
        return ""
    return section("Artifacts", table(["file", "kind", "precision", "size", "SHA-256"], rows, css="stack"), "artifacts")


def environment(results: RunResults) -> str:
    """Versions and the configuration of the run."""
    rows: list[list[str]] = [[name, version] for name, version in sorted(results.versions.items())]
    body = table(["package", "version"], rows) if rows else ""
    return section("Versions", body, "versions") if body else ""
