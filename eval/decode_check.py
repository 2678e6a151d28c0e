"""Whether boxes are those that the host decodes of the same raw outputs.

So suppression, range filter and drop rules of a device are judged on equal inputs.
Tolerances between backends are as wide as their rounding; they would hide a suppression that drops one box in fifty. On
equal outputs nothing is left to round but exp and atan2, so the boxes must be equal one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D

__all__ = ["box_text", "decode_difference"]

# exp and atan2 in double precision may differ in their last place, and so may their float32 results.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-6
_SHOWN = 3


def decode_difference(found: Boxes3D, wanted: Boxes3D, class_names: Sequence[str]) -> str:
    """What differs, in words that name boxes; empty where all are equal and in the same order.

    Args:
        found: Of the detector, by descending score.
        wanted: What the host decodes of the outputs that the detector decoded.
        class_names: Of the labels.
    """
    if len(found) == len(wanted) and _same_rows(found, wanted).all():
        return ""
    same = _equal(found, wanted)
    extra = found.select(np.asarray(~same.any(axis=1)))
    missing = wanted.select(np.asarray(~same.any(axis=0)))
    text = f"{len(found)} boxes, the host decodes {len(wanted)} of the same outputs"
    for what, boxes in (("missing", missing), ("not decoded by the host", extra)):
        if len(boxes):
            listed = ", ".join(box_text(boxes, row, class_names) for row in range(min(len(boxes), _SHOWN)))
            more = f" and {len(boxes) - _SHOWN} more" if len(boxes) > _SHOWN else ""
            text += f"; {what}: {listed}{more}"
    return text if len(missing) or len(extra) else f"{text}, in another order or number"


def box_text(boxes: Boxes3D, row: int, class_names: Sequence[str]) -> str:
    """One box for people: "car at (12.3, -4.5) m with score 0.81"."""
    x, y = boxes.boxes[row, :2]
    return f"{class_names[int(boxes.labels[row])]} at ({x:.1f}, {y:.1f}) m with score {boxes.scores[row]:.2f}"


def _same_rows(a: Boxes3D, b: Boxes3D) -> NDArray[np.bool_]:
    """(N,) bool: in which rows both have the same box."""
    return np.asarray(_close(a.boxes, b.boxes).all(axis=1) & (a.labels == b.labels) & _close(a.scores, b.scores))


def _equal(a: Boxes3D, b: Boxes3D) -> NDArray[np.bool_]:
    """(len(a), len(b)) bool: which boxes are the same."""
    same = _close(a.boxes[:, None], b.boxes[None]).all(axis=2) & _close(a.scores[:, None], b.scores[None])
    return np.asarray(same & (a.labels[:, None] == b.labels[None]))


def _close(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.isclose(a, b, _RELATIVE, _ABSOLUTE), np.bool_)
