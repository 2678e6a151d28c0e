"""Sections of the report, each a function of the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from eval.bev import COLORS, png_data_uri, points_png, view_svg
from eval.evaluator import EvaluationSummary
from eval.panels import FramePanel
from eval.report.accuracy import interval_text, signed
from eval.report.charts import histogram, stage_bars
from eval.report.html import Cell, file_size, fixed, number, section, table, verdict
from eval.results import RunResults, StepStatus
from runtime.backends.base import STAGES
from runtime.latency import LatencyStats

__all__ = ["artifacts", "environment", "latency", "panels_section", "summary"]

_STATUSES: tuple[StepStatus, ...] = ("PASSED", "FAILED", "SKIPPED")


def _stages(item: EvaluationSummary, total: bool = True) -> dict[str, LatencyStats]:
    """Stages in the order in which they run; JSON does not keep it."""
    known = {name: place for place, name in enumerate((*STAGES, "total"))}
    names = sorted(item.latency, key=lambda name: (known.get(name, len(STAGES) - 1), name))
    return {name: item.latency[name] for name in names if total or name != "total"}


def _tile(value: str, name: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'


def summary(results: RunResults) -> str:
    """Verdict, headline numbers, a line for each backend, steps."""
    status = "PASSED" if results.passed else "FAILED"
    counts = ", ".join(f"{results.count(kind)} {kind.lower()}" for kind in _STATUSES if results.count(kind))
    tiles = []
    if results.verifications:
        agree = sum(item.passed for item in results.verifications)
        tiles.append(_tile(f"{agree} of {len(results.verifications)}", "verifications passed"))
    judged = [gate for gate in results.gates if gate.status != "SKIPPED"]
    if judged:
        kept = sum(gate.status == "PASSED" for gate in judged)
        tiles.append(_tile(f"{kept} of {len(judged)}", "accuracy gates kept"))
    known = [item for item in results.evaluations if not math.isnan(item.metrics.mean_ap)]
    if known:
        best = max(known, key=lambda item: item.metrics.mean_ap)
        tiles.append(_tile(f"{best.metrics.mean_ap:.3f}", f"highest mAP, {best.label}"))
    if results.vehicle and not math.isnan(results.vehicle[-1].metrics.mean_ap):
        last = results.vehicle[-1]
        tiles.append(_tile(f"{last.metrics.mean_ap:.3f}", f"mAP in the vehicle, {last.label}"))
    timed = [item for item in results.evaluations if "total" in item.latency]
    if timed:
        fastest = min(timed, key=lambda item: item.latency["total"].p50)
        tiles.append(_tile(f"{fastest.latency['total'].p50:.1f} ms", f"fastest median frame, {fastest.label}"))
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
        f'<div class="tiles">{"".join(tiles)}</div>{_backends(results)}'
        + section(
            "Steps",
            table(["step", "result", "time", "peak memory", "reason"], rows, css="stack")
            + f"<details><summary>Settings of the run</summary><p class='small soft'>{settings}</p></details>",
            "steps",
        )
    )


def _backends(results: RunResults) -> str:
    """One line for each backend: accuracy, its difference with a verdict, gates, latency."""
    if not results.evaluations:
        return ""
    reference = results.evaluations[0].label
    pairs = {item.label_b: item for item in results.comparisons if item.label_a == reference}
    rows: list[list[str]] = []
    for item in results.evaluations:
        pair = pairs.get(item.label)
        gates = [gate for gate in results.gates if gate.backend == item.label and gate.status != "SKIPPED"]
        kept = sum(gate.status == "PASSED" for gate in gates)
        total = item.latency.get("total")
        against = Cell("reference", "soft")
        if pair is not None:
            against = Cell(
                f"{verdict(pair.total.verdict)} <span class=nowrap>{signed(pair.total.difference, 4)}</span> "
                f'<span class="soft small">{escape(interval_text(pair.total, pair.confidence))}</span>'
            )
        elif item.label != reference:
            against = Cell("")
        rows.append(
            [
                Cell(f"<b>{escape(item.label)}</b>", "full"),
                Cell("–" if math.isnan(item.metrics.mean_ap) else f"{item.metrics.mean_ap:.4f}", "num"),
                against,
                Cell(f"{kept} of {len(gates)}" if gates else "–", "num"),
                fixed(total.p50 if total else None, 1, " ms"),
                fixed(total.p99 if total else None, 1, " ms"),
            ]
        )
    head = ["backend", "mAP", f"against {reference}", "gates kept", "median", "p99"]
    return section("Backends", table(head, rows, css="stack labelled"), "backends")


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
