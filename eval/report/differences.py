"""Differences between backends in the report, class by range, with intervals; and the accuracy gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.intervals import FEW_GROUPS
from eval.metrics import TOTAL
from eval.report.plots import heat_map
from eval.report.table import Cell, Table, fixed, interval_text, signed, verdict
from eval.report.templating import render

if TYPE_CHECKING:
    from eval.gates import GateResult
    from eval.statistics import BootstrapComparison, Difference

__all__ = ["difference_map", "differences"]

_JUDGED = {
    "difference": "measured drop",
    "worst_bound": "largest drop in the interval",
    "best_bound": "smallest drop in the interval",
    "value": "mAP itself",
}


def differences(comparisons: Sequence[BootstrapComparison], gates: Sequence[GateResult]) -> str:
    """Every pair of backends, class by range, and the gates."""
    if not comparisons and not gates:
        return ""
    broken = [gate for status in ("FAILED", "SKIPPED") for gate in gates if gate.status == status]
    kept = [gate for gate in gates if gate.status == "PASSED"]
    # The reference against each backend first; the pairs among the others can be opened.
    main = [item for item in comparisons if item.label_a == comparisons[0].label_a]
    rest = [item for item in comparisons if item.label_a != comparisons[0].label_a]
    return render(
        "differences.html",
        first=comparisons[0] if comparisons else None,
        few_groups=FEW_GROUPS,
        main=[_pair(item) for item in main],
        rest=[_pair(item) for item in rest],
        gates=gates,
        num_kept=len(kept),
        broken=_gate_table(broken) if broken else None,
        kept=_gate_table(kept) if kept else None,
    )


def _gate_table(gates: Sequence[GateResult]) -> Table:
    rows = [
        [
            Cell(gate.key, "full", kind="code"),
            verdict(gate.status),
            Cell(gate.subject, "nowrap"),
            Cell(gate.backend, "nowrap"),
            fixed(gate.limit, 4),
            Cell(signed(gate.value, 4) if gate.reference else f"{gate.value:.4f}", "num"),
            Cell(_JUDGED[gate.judged_by] if gate.status != "SKIPPED" else "no objects", "soft"),
        ]
        for gate in gates
    ]
    return Table(["gate", "result", "of", "backend", "limit", "value", "value is the"], rows, css="stack")


def _pair(item: BootstrapComparison) -> dict[str, str]:
    total = item.total
    return {
        "tested": item.label_b,
        "reference": item.label_a,
        "verdict": total.verdict,
        "difference": signed(total.difference, 4),
        "interval": interval_text(total, item.confidence),
        "map": difference_map(item),
    }


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
