"""The head of the report: verdict, headline numbers, a line for each backend, steps."""

from __future__ import annotations

import math

from eval.report.table import DASH, Cell, Table, fixed, interval_text, signed, verdict
from eval.report.templating import part, render
from eval.results import RunResults, StepStatus

__all__ = ["summary"]

_STATUSES: tuple[StepStatus, ...] = ("PASSED", "FAILED", "SKIPPED")


def summary(results: RunResults) -> str:
    """Verdict, headline numbers, a line for each backend, steps."""
    counts = ", ".join(f"{results.count(kind)} {kind.lower()}" for kind in _STATUSES if results.count(kind))
    steps = [
        [
            Cell(step.name, "full"),
            verdict(step.status),
            fixed(step.seconds, 1, " s") if step.seconds is not None else Cell("", "num"),
            fixed(step.peak_rss_mb, 0, " MB") if step.peak_rss_mb is not None else Cell("", "num"),
            Cell(step.reason, "full soft"),
        ]
        for step in results.steps
    ]
    settings = [
        (key, value)
        for key, value in sorted(results.run.items())
        if isinstance(value, (str, int, float, bool)) and value != ""
    ]
    return render(
        "summary.html",
        title=results.title,
        status="PASSED" if results.passed else "FAILED",
        counts=counts or "no steps",
        note=results.evaluation_note,
        tiles=_tiles(results),
        backends=_backends(results),
        steps=Table(["step", "result", "time", "peak memory", "reason"], steps, css="stack"),
        settings=settings,
    )


def _tiles(results: RunResults) -> list[tuple[str, str]]:
    """(number, what it is) of the headline."""
    tiles = []
    if results.verifications:
        agree = sum(item.passed for item in results.verifications)
        tiles.append((f"{agree} of {len(results.verifications)}", "verifications passed"))
    judged = [gate for gate in results.gates if gate.status != "SKIPPED"]
    if judged:
        kept = sum(gate.status == "PASSED" for gate in judged)
        tiles.append((f"{kept} of {len(judged)}", "accuracy gates kept"))
    known = [item for item in results.evaluations if not math.isnan(item.metrics.mean_ap)]
    if known:
        best = max(known, key=lambda item: item.metrics.mean_ap)
        tiles.append((f"{best.metrics.mean_ap:.3f}", f"highest mAP, {best.label}"))
    if results.vehicle and not math.isnan(results.vehicle[-1].metrics.mean_ap):
        last = results.vehicle[-1]
        tiles.append((f"{last.metrics.mean_ap:.3f}", f"mAP in the vehicle, {last.label}"))
    timed = [item for item in results.evaluations if "total" in item.latency]
    if timed:
        fastest = min(timed, key=lambda item: item.latency["total"].p50)
        tiles.append((f"{fastest.latency['total'].p50:.1f} ms", f"fastest median frame, {fastest.label}"))
    return tiles


def _backends(results: RunResults) -> Table | None:
    """One line for each backend: accuracy, its difference with a verdict, gates, latency."""
    if not results.evaluations:
        return None
    reference = results.evaluations[0].label
    pairs = {item.label_b: item for item in results.comparisons if item.label_a == reference}
    rows: list[list[Cell]] = []
    for item in results.evaluations:
        pair = pairs.get(item.label)
        gates = [gate for gate in results.gates if gate.backend == item.label and gate.status != "SKIPPED"]
        kept = sum(gate.status == "PASSED" for gate in gates)
        total = item.latency.get("total")
        against = Cell("reference", "soft") if item.label == reference else Cell("")
        if pair is not None:
            interval = interval_text(pair.total, pair.confidence)
            shown = part("parts.html", "difference")
            against = Cell(shown(pair.total.verdict, signed(pair.total.difference, 4), interval))
        rows.append(
            [
                Cell(item.label, "full", kind="b"),
                Cell(DASH if math.isnan(item.metrics.mean_ap) else f"{item.metrics.mean_ap:.4f}", "num"),
                against,
                Cell(f"{kept} of {len(gates)}" if gates else DASH, "num"),
                fixed(total.p50 if total else None, 1, " ms"),
                fixed(total.p99 if total else None, 1, " ms"),
            ]
        )
    head = ["backend", "mAP", f"against {reference}", "gates kept", "median", "p99"]
    return Table(head, rows, css="stack labelled")
