"""What checks of the data and the model found, in the report."""

from __future__ import annotations

from collections.abc import Sequence

from base.checks import CheckResult
from eval.report.table import Cell, Table
from eval.report.templating import render

__all__ = ["checks"]


def checks(results: Sequence[CheckResult]) -> str:
    """Errors first, then those that were accepted, then warnings."""
    order = ("error", "accepted", "warning")
    rows = [
        [Cell(item.check, kind="code"), Cell(item.outcome), Cell(f"{item.count}", "num"), Cell(message, "full")]
        for item in sorted(results, key=lambda item: order.index(item.outcome))
        for message in item.messages
    ]
    table = Table(["check", "outcome", "times", "what it found"], rows, css="stack")
    return render("section.html", title="Checks", anchor="checks", table=table)
