"""What a vehicle cares for beside AP, in the report: backends beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.report.table import Cell, Table, ap, fixed, number
from eval.report.templating import render

if TYPE_CHECKING:
    from eval.metrics.driving import DrivingRow, DrivingScore

__all__ = ["driving"]

_HEADS = (
    *("pairs", "beyond 90°", "heading, rad", "velocity, m/s", "recall", "precision"),
    *("AP", "0.1 s old", "a frame old"),
)


def driving(scores: Sequence[DrivingScore]) -> str:
    """All classes of each backend, and each class, its backends below each other."""
    total: list[list[str | Cell]] = [
        [_in_one_line(item.label), _milliseconds(item.own_latency_s), *_cells(item.total)] for item in scores
    ]
    classes: list[list[str | Cell]] = [
        [row.class_name, _in_one_line(score.label), *_cells(row)]
        for rows in zip(*(item.classes for item in scores), strict=True)
        for score, row in zip(scores, rows, strict=True)
    ]
    return render(
        "driving.html",
        total=Table(["backend", "frame", *_HEADS], total),
        classes=Table(["class", "backend", *_HEADS], classes),
        without_ego_motion=scores[0].frames_with_ego_motion == 0,
    )


def _milliseconds(seconds: float) -> str:
    return "not told" if math.isnan(seconds) else _in_one_line(f"{1000 * seconds:,.1f} ms")


def _in_one_line(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _cells(row: DrivingRow) -> list[str | Cell]:
    flipped = "–" if math.isnan(row.flipped_headings) else f"{100 * row.flipped_headings:.1f} %"
    return [
        number(row.num_pairs, 6),
        flipped,
        fixed(row.heading_error_rad, 3),
        fixed(row.velocity_error_mps, 3),
        *(ap(value) for value in (row.critical_recall, row.critical_precision)),
        *(ap(value) for value in (row.ap, row.ap_at_common_latency, row.ap_at_own_latency)),
    ]
