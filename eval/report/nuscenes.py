"""nuScenes' official score in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.metrics.nuscenes import NUSCENES_THRESHOLDS_M, TP_ERRORS
from eval.report.table import Cell, Table, ap, fixed, number
from eval.report.templating import render

if TYPE_CHECKING:
    from eval.metrics.nuscenes_frames import NuScenesScore

__all__ = ["nuscenes"]

_UNITS = {"trans_err": "m", "scale_err": "", "orient_err": "rad", "vel_err": "m/s"}


def nuscenes(scores: Sequence[NuScenesScore]) -> str:
    """NDS, mAP and errors of each backend, and AP by class of the first."""
    # Attributes are not predicted: a column of ones would say nothing.
    named = [name for name in TP_ERRORS if name in _UNITS]
    rows: list[list[str | Cell]] = [
        [item.label, fixed(item.nds, 4), fixed(item.mean_ap, 4), *(fixed(item.tp_errors[name], 3) for name in named)]
        for item in scores
    ]
    heads = [f"{name} ({_UNITS[name]})" if _UNITS[name] else name for name in named]
    classes: list[list[str | Cell]] = [
        [
            item.class_name,
            number(item.num_ground_truth, 6),
            ap(item.mean_ap),
            *(ap(value) for value in item.ap),
            *(fixed(item.tp_errors[name], 3) for name in named),
        ]
        for item in scores[0].classes
    ]
    thresholds = [f"{value:g} m" for value in NUSCENES_THRESHOLDS_M]
    return render(
        "nuscenes.html",
        scores=Table(["backend", "NDS", "mAP", *heads], rows),
        label=scores[0].label,
        number_of_classes=len(scores[0].classes),
        is_complete=scores[0].is_complete,
        classes=Table(["class", "objects", "AP", *thresholds, *heads], classes),
    )
