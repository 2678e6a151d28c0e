"""Non-maximum suppression by the distance of centres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["circle_nms"]


def circle_nms(
    centers: NDArray[np.float32], scores: NDArray[np.float32], min_radius_m2: float, max_keep: int | None = None
) -> NDArray[np.int64]:
    """Keeps a centre unless a kept one with a higher score lies within the radius.

    Equal to mmdet3d's `circle_nms`, whose threshold is compared with the *squared* distance: `min_radius = 4` there
    suppresses within 2 m. A distance equal to the radius suppresses. Equal scores are taken in input order, where
    mmdet3d leaves the order to an unstable sort.

    Args:
        centers: (N, 2) float32 x, y, metres.
        scores: (N,) float32.
        min_radius_m2: Squared radius, m².
        max_keep: At most so many are kept; None for no limit.

    Returns:
        Indices of the kept centres, by descending score.
    """
    order = np.argsort(-scores, kind="stable")
    x, y = centers[order, 0], centers[order, 1]
    alive = np.ones(len(order), bool)
    keep: list[int] = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        keep.append(int(order[i]))
        if max_keep is not None and len(keep) >= max_keep:
            break
        dx, dy = x[i] - x[i + 1 :], y[i] - y[i + 1 :]
        # float32 distances against a double threshold, as in mmdet3d's compiled loop.
        alive[i + 1 :] &= (dx * dx + dy * dy).astype(np.float64) > min_radius_m2
    return np.asarray(keep[:max_keep], np.int64)
