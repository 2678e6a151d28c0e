"""mmcv's compiled suppression by overlap, for machines with mmcv-lite: by shapely, as it is defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

# An overlap this close to the threshold is decided by the last digit of a size.
UNDECIDED = 1e-6


def footprints(boxes: NDArray[np.float64]) -> Any:
    """Polygons of [x, y, length, width, yaw]."""
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    along = np.stack([cos, sin], axis=1) * boxes[:, 2:3] / 2
    across = np.stack([-sin, cos], axis=1) * boxes[:, 3:4] / 2
    corners = [boxes[:, :2] + a * along + b * across for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    return shapely.polygons(np.stack(corners, axis=1))


class Overlaps:
    """mmcv's `nms_rotated` by shapely, as it is defined; knows whether an overlap was at the threshold."""

    def __init__(self) -> None:
        self.undecided = False

    def keep(self, boxes: NDArray[np.float64], scores: NDArray[np.float32], threshold: float) -> list[int]:
        polygons = footprints(boxes)
        area = shapely.area(polygons)
        a, b = shapely.STRtree(polygons).query(polygons)
        a, b = a[a < b], b[a < b]
        shared = shapely.area(shapely.intersection(polygons[a], polygons[b]))
        iou = np.zeros((len(boxes), len(boxes)))
        iou[a, b] = iou[b, a] = shared / (area[a] + area[b] - shared)
        self.undecided |= bool((np.abs(iou[a, b] - threshold) < UNDECIDED).any())
        kept: list[int] = []
        for i in np.argsort(-scores):
            if all(iou[i, k] <= threshold for k in kept):
                kept.append(int(i))
        return kept

    def __call__(self, dets: Any, scores: Any, iou_threshold: float) -> tuple[None, Any]:
        import torch

        keep = self.keep(dets.double().numpy(), scores.numpy(), iou_threshold)
        return None, torch.tensor(keep, dtype=torch.long)
