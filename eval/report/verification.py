"""Verification in the report: which scenario passed, each output, boxes by class and range, where outputs part."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.report.table import Cell, Table, number, verdict
from eval.report.templating import render
from eval.results import RunResults, StepResult

if TYPE_CHECKING:
    from eval.box_comparison import BoxComparison
    from eval.comparison import Tolerance
    from eval.verification import VerificationResult

__all__ = ["verification"]

_SCENARIO = re.compile(r"verify (\S+) against (\S+)")


def verification(results: RunResults) -> str:
    """Every scenario: verdicts at a glance, then outputs, boxes, and where outputs part."""
    matrix = _matrix(results.steps)
    if matrix is None and not results.verifications:
        return ""
    scenarios = [
        {
            "found": item,
            "outputs": _outputs(item) if item.outputs else None,
            "boxes": item.boxes,
            "no_boxes": item.boxes is not None and math.isnan(item.boxes.matched_share),
            "limits": item.box_tolerance,
            "groups": _groups(item.boxes) if item.boxes and item.boxes.groups else None,
        }
        for item in results.verifications
    ]
    return render("verification.html", matrix=matrix, scenarios=scenarios, degrees=math.degrees)


def _matrix(steps: Sequence[StepResult]) -> Table | None:
    """References by row, tested backends by column; what did not run is there too."""
    found: dict[tuple[str, str], StepResult] = {}
    for step in steps:
        match = _SCENARIO.fullmatch(step.name)
        if match:
            found[match.group(2), match.group(1)] = step
    if len(found) < 2:
        return None
    references = list(dict.fromkeys(reference for reference, _ in found))
    tested = list(dict.fromkeys(test for _, test in found))
    rows: list[list[str | Cell]] = []
    for reference in references:
        ran = [found.get((reference, test)) for test in tested]
        rows.append([reference, *(verdict(step.status) if step else Cell("", "soft") for step in ran)])
    return Table(["reference", *tested], rows)


def _outputs(item: VerificationResult) -> Table:
    rows = []
    for output in item.outputs:
        found = output.comparison
        rows.append(
            [
                Cell(found.name, kind="code"),
                verdict("PASSED" if output.passed else "FAILED"),
                number(found.max_abs),
                number(found.relative_l2),
                Cell(f"{found.cosine:.9f}", "num"),
                Cell(f"{found.reference_min:.3g} … {found.reference_max:.3g}", "num"),
                number(found.nonfinite_reference + found.nonfinite_test, 6),
                Cell(_allowed(output.tolerance), "soft nowrap"),
            ]
        )
    head = ["output", "result", "max abs", "relative L2", "cosine", "reference range", "non-finite", "allowed"]
    return Table(head, rows)


def _allowed(limit: Tolerance) -> str:
    """The limits that there are."""
    named = (
        ("L2", limit.relative_l2),
        ("score", limit.max_score_error),
        ("share of range", limit.max_abs_share),
        ("max", limit.max_abs),
    )
    return ", ".join(f"{name} {value:g}" for name, value in named if value is not None)


def _groups(boxes: BoxComparison) -> Table:
    def count(value: int, bad: bool) -> Cell:
        return Cell(str(value) if value else "·", "num bad" if bad and value else "num")

    rows: list[list[str | Cell]] = [
        [
            group.class_name,
            group.range_name,
            count(group.matched, False),
            *(count(value, True) for value in (group.moved, group.lost, group.gained)),
        ]
        for group in boxes.groups
    ]
    return Table(["class", "range", "matched", "moved", "lost", "gained"], rows)
