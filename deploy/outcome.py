"""What a run came to: exit code, results, and the table a user reads last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from base.command import EXIT_PASSED
from base.tables import text_table

if TYPE_CHECKING:
    from eval.gates import GateResult
    from eval.results import RunResults, StepResult
    from eval.statistics import BootstrapComparison

__all__ = ["DeploymentOutcome"]


@dataclass(frozen=True)
class DeploymentOutcome:
    """Result of `CenterPointDeploymentRunner.run`.

    Attributes:
        exit_code: 0 all that was asked for was done and passed; 1 something failed.
        results: As in `results.json`.
        work_dir: Where everything was written.
        note: Why the run failed although no step did.
    """

    exit_code: int
    results: RunResults
    work_dir: Path
    note: str = ""

    def summary(self) -> str:
        """Tables of steps and backends, and where the report is."""
        steps = [_step_row(step) for step in self.results.steps]
        parts = [text_table(("step", "status", "time", "peak memory", "reason"), steps)]
        official = {item.label: f"{item.nds:.4f}" for item in self.results.nuscenes}
        seen = {item.label: _ap(item.metrics.mean_ap) for item in self.results.vehicle}
        evaluated: list[tuple[str, ...]] = [
            (
                item.label,
                _ap(item.metrics.mean_ap) if item.metrics.total.num_ground_truth else "none",
                *((official.get(item.label, "-"),) if official else ()),
                *((seen.get(item.label, "-"),) if seen else ()),
                f"{item.latency['total'].p50:.1f} ms",
                f"{item.latency['total'].p99:.1f} ms",
                str(item.num_frames),
            )
            for item in self.results.evaluations
        ]
        if note := self.results.evaluation_note:
            parts.append(note)
        if evaluated:
            from eval.losses import loss_lines

            more = (*(("NDS",) if official else ()), *(("in the vehicle",) if seen else ()))
            head = ("backend", "mAP", *more, "p50 latency", "p99 latency", "frames")
            parts.append(text_table(head, evaluated))
            parts += ["\n".join(lines)] if (lines := loss_lines(self.results.evaluations)) else []
        compared = [_comparison_row(item) for item in self.results.comparisons]
        if compared:
            parts.append(text_table(("mAP of", "against", "difference", "interval", "verdict"), compared))
        judged = [_gate_row(item) for item in self.results.gates]
        if judged:
            parts.append(text_table(("accuracy gate", "backend", "of", "limit", "value", "status"), judged))
        found = [(item.check, item.outcome, str(item.count)) for item in self.results.checks]
        if found:
            parts.append(text_table(("check", "outcome", "times"), found))
        parts.append(f"{self._verdict()}  {self.work_dir / 'report.html'}")
        return "\n\n".join(parts)

    def _verdict(self) -> str:
        counts = {status: self.results.count(status) for status in ("PASSED", "FAILED", "SKIPPED")}
        listed = ", ".join(f"{number} {status.lower()}" for status, number in counts.items() if number)
        listed += f"; {self.note}" if self.note else ""
        return f"{'PASSED' if self.exit_code == EXIT_PASSED else 'FAILED'} ({listed})"


def _ap(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _step_row(step: StepResult) -> tuple[str, ...]:
    seconds = "-" if step.seconds is None else f"{step.seconds:.1f} s"
    memory = "-" if step.peak_rss_mb is None else f"{step.peak_rss_mb:.0f} MB"
    return step.name, step.status, seconds, memory, step.reason


def _comparison_row(item: BootstrapComparison) -> tuple[str, ...]:
    total = item.total
    if math.isnan(total.low):
        return item.label_b, item.label_a, _signed(total.difference), "-", total.verdict
    interval = f"{_signed(total.low)} to {_signed(total.high)} ({item.confidence:.0%})"
    return item.label_b, item.label_a, _signed(total.difference), interval, total.verdict


def _gate_row(item: GateResult) -> tuple[str, ...]:
    # A drop has a sign: negative is a gain.
    value = _signed(item.value) if item.reference else f"{item.value:.4f}"
    return item.key, item.backend, item.subject, f"{item.limit:g}", value, item.status


def _signed(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.4f}" if round(value, 4) else "0.0000"
