"""Verification in the report: which scenario passed, each output, boxes by class and range, where outputs part."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

from eval.report.html import Cell, number, section, table, verdict
from eval.results import RunResults, StepResult
from eval.verification import VerificationResult

__all__ = ["verification"]


_SCENARIO = re.compile(r"verify (\S+) against (\S+)")


def verification(results: RunResults) -> str:
    """Every scenario: verdicts at a glance, then outputs, boxes, and where outputs part."""
    body = _matrix(results.steps) + "".join(_scenario(item) for item in results.verifications)
    return section("Verification", body, "verification") if body else ""


def _matrix(steps: Sequence[StepResult]) -> str:
    """References by row, tested backends by column; what did not run is there too."""
    found: dict[tuple[str, str], StepResult] = {}
    for step in steps:
        match = _SCENARIO.fullmatch(step.name)
        if match:
            found[match.group(2), match.group(1)] = step
    if len(found) < 2:
        return ""
    references = list(dict.fromkeys(reference for reference, _ in found))
    tested = list(dict.fromkeys(test for _, test in found))
    rows: list[list[str]] = []
    for reference in references:
        row: list[str] = [reference]
        for test in tested:
            ran = found.get((reference, test))
            row.append(verdict(ran.status) if ran else Cell("", "soft"))
        rows.append(row)
    return table(["reference", *tested], rows)


def _scenario(item: VerificationResult) -> str:
    status = "PASSED" if item.passed else "FAILED"
    body = (
        f"<h3>{escape(item.scenario)} {verdict(status)}</h3><p class='soft small'>{escape(item.precision)}, "
        f"{item.num_frames} frames</p>"
    )
    if item.reasons:
        body += f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in item.reasons)}</ul>"
    return body + _divergences(item) + _outputs(item) + _boxes(item)


def _divergences(item: VerificationResult) -> str:
    """Nodes at which outputs begin to differ."""
    body = ""
    for found in item.divergences:
        weights = "".join(
            f"<li>weight <code>{escape(weight.name)}</code>"
            f"{f': <b>{escape(weight.description)}</b>' if weight.description else ''}</li>"
            for weight in found.weights
        )
        body += (
            f'<div class="callout"><p><b>{escape(", ".join(found.outputs))}</b> first differ at '
            f"<code>{escape(found.node)}</code> ({escape(found.op_type)}): relative L2 {found.relative_l2:.2g}, "
            f"{found.limit:.2g} allowed. What enters it agrees.</p>{f'<ul>{weights}</ul>' if weights else ''}</div>"
        )
    return body


def _outputs(item: VerificationResult) -> str:
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
    head = ["output", "result", "max abs", "relative L2", "cosine", "reference range", "non-finite", "allowed"]
    return table(head, rows) if rows else ""


def _boxes(item: VerificationResult) -> str:
    boxes, limits = item.boxes, item.box_tolerance
    if boxes is None:
        return ""
    if math.isnan(boxes.matched_share):
        return "<p>No box reached the score on either side; the outputs alone were judged.</p>"
    within = f" within {limits.max_center_m * 100:g} cm" if limits else ""
    score = f" with score ≥ {limits.min_score:g}" if limits else ""
    body = (
        f"<p>Boxes{score}: <b>{boxes.matched_share:.2%}</b> agree{within} "
        f"({boxes.matched} matched, {boxes.moved} moved, {boxes.lost} lost, {boxes.gained} gained). Largest "
        f"differences: centre {boxes.max_center_m * 100:.3g} cm, size {boxes.max_size_m * 100:.3g} cm, yaw "
        f"{math.degrees(boxes.max_yaw_rad):.3g}°, velocity {boxes.max_velocity_mps:.3g} m/s, score "
        f"{boxes.max_score:.3g}.</p>"
    )
    rows: list[list[str]] = [
        [
            group.class_name,
            group.range_name,
            *(
                Cell(str(count) if count else "·", "num" if not bad or not count else "num bad")
                for count, bad in ((group.matched, 0), (group.moved, 1), (group.lost, 1), (group.gained, 1))
            ),
        ]
        for group in boxes.groups
    ]
    if rows:
        grouped = table(["class", "range", "matched", "moved", "lost", "gained"], rows)
        body += f"<details><summary>Boxes by class and range</summary>{grouped}</details>"
    return body
