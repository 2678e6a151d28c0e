"""autoware-ml's way from a heatmap to boxes: the peaks of each class by itself, suppressed among their own class.

It is chosen by `ModelFacts.decoding`; what a cell says of its box is read as always (`runtime.decode`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.nms import circle_nms

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["class_peaks", "suppress_by_class"]


def class_peaks(heatmap: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """The best cells of each class among those that no neighbour exceeds.

    Cells are compared by their logits; autoware-ml compares sigmoids, which saturate, and leaves ties to chance.

    Args:
        heatmap: (C, h, w) logits; NaN is no detection, and no neighbour.
        most: Cells of a class.

    Returns:
        Indices into the flattened heatmap: class by class, by descending logit, equal ones by row, then column.
    """
    num_classes, height, width = heatmap.shape
    known = np.where(np.isnan(heatmap), np.float32(-np.inf), heatmap)
    padded = np.full((num_classes, height + 2, width + 2), -np.inf, np.float32)
    padded[:, 1:-1, 1:-1] = known
    rows = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    highest = np.maximum(np.maximum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
    is_peak = (known == highest) & (known > -np.inf)
    out: list[NDArray[np.int64]] = []
    for index, values in enumerate(known):
        cells = np.flatnonzero(is_peak[index])
        logits = values.reshape(-1)[cells]
        best = cells[np.argsort(-logits, kind="stable")[:most]]
        out.append(best + index * height * width)
    return np.concatenate(out)


def suppress_by_class(
    centers: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    min_radius_m2: float,
    max_keep: int,
) -> NDArray[np.int64]:
    """`circle_nms` among the boxes of each class, then the best of all.

    Args:
        centers: (N, 2) float32 x, y, metres.
        scores: (N,) float32.
        labels: (N,) class.
        min_radius_m2: Squared radius, m²; a distance equal to the radius suppresses.
        max_keep: Of a class, and of all.

    Returns:
        Indices of the kept boxes, by descending score; equal ones by class.
    """
    kept: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        kept.append(members[circle_nms(centers[members], scores[members], min_radius_m2, max_keep)])
    all_kept = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return all_kept[np.argsort(-scores[all_kept], kind="stable")[:max_keep]]
