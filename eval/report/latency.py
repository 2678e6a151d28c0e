"""Latency in the report: percentiles, stages, distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.report.charts import histogram, stage_bars
from eval.report.table import Cell, Table, fixed, number
from eval.report.templating import render
from runtime.backends.base import STAGES

if TYPE_CHECKING:
    from eval.evaluator import EvaluationSummary
    from runtime.latency import LatencyStats

__all__ = ["latency"]

_PERCENTILES = ["mean", "p50", "p90", "p95", "p99", "max"]


def latency(evaluations: Sequence[EvaluationSummary]) -> str:
    """Percentiles, stages, distribution."""
    timed = [item for item in evaluations if "total" in item.latency]
    if not timed:
        return ""
    from eval.losses import loss_lines

    samples = [value for item in timed for value in item.samples_ms]
    charts = [
        histogram(
            item.label,
            item.samples_ms,
            min(samples),
            max(samples),
            {"p50": item.latency["total"].p50, "p99": item.latency["total"].p99},
        )
        for item in timed
        if samples
    ]
    means = [
        (item.label, {name: stats.mean for name, stats in _stages(item).items() if name != "total"}) for item in timed
    ]
    stages: list[list[str | Cell]] = [
        [item.label, name, *_values(stats, 2)] for item in timed for name, stats in _stages(item).items()
    ]
    return render(
        "latency.html",
        first=timed[0],
        totals=_totals(timed),
        bars=stage_bars(means),
        charts=charts,
        stages=Table(["backend", "stage", *_PERCENTILES], stages),
        dropped=next((item for item in timed if item.inputs.dropped_voxels), None),
        losses=loss_lines(timed),
    )


def _totals(timed: Sequence[EvaluationSummary]) -> Table:
    rows: list[list[str | Cell]] = []
    for item in timed:
        total = item.latency["total"]
        rows.append([item.label, number(total.count, 6), *_values(total, 1), fixed(1000 / total.mean)])
    return Table(["backend", "frames", *_PERCENTILES, "frames/s"], rows)


def _values(stats: LatencyStats, decimals: int) -> list[Cell]:
    """In the order of `_PERCENTILES`."""
    return [fixed(getattr(stats, name), decimals) for name in _PERCENTILES]


def _stages(item: EvaluationSummary) -> dict[str, LatencyStats]:
    """Stages in the order in which they run; JSON does not keep it."""
    known = {name: place for place, name in enumerate((*STAGES, "total"))}
    names = sorted(item.latency, key=lambda name: (known.get(name, len(STAGES) - 1), name))
    return {name: item.latency[name] for name in names}
