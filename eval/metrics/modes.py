"""Matching modes: in which measure a detection fits a ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval.metrics.geometry import footprint_corners, intersection_area, nearest_plane_distances

if TYPE_CHECKING:
    from eval.metrics.objects import ObjectTable

__all__ = [
    "CENTER_DISTANCE",
    "CENTER_DISTANCE_BEV",
    "IOU_3D",
    "IOU_BEV",
    "MATCHING_MODES",
    "PLANE_DISTANCE",
    "MatchingMode",
]

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
PairValues = Callable[["ObjectTable", "ObjectTable", IntArray, IntArray], Array]


@dataclass(frozen=True)
class MatchingMode:
    """How well a detection fits a ground truth.

    Attributes:
        name: As in results ("center_distance_bev").
        larger_is_better: True for overlaps, False for distances.
        values: (estimates, ground_truth, rows, columns) -> (P,) value of each pair of a detection's row and a ground
            truth's.
        reach_has_threshold: A pair can pass only if its centres, in the ground plane, are nearer than the sum of the
            threshold, if this is True,
        reach_has_size: and of half the diagonals of both footprints, if this is True.
    """

    name: str
    larger_is_better: bool
    values: PairValues
    reach_has_threshold: bool
    reach_has_size: bool

    def better(self, values: Array, threshold: float | Array) -> NDArray[np.bool_]:
        """Which values pass the threshold; equality does not."""
        return values > threshold if self.larger_is_better else values < threshold


def _center_distance_bev(estimates: ObjectTable, truth: ObjectTable, rows: IntArray, columns: IntArray) -> Array:
    delta = estimates.center[rows, :2] - truth.center[columns, :2]
    distance: Array = np.hypot(delta[:, 0], delta[:, 1])
    return distance


def _center_distance(estimates: ObjectTable, truth: ObjectTable, rows: IntArray, columns: IntArray) -> Array:
    delta = estimates.center[rows] - truth.center[columns]
    return np.asarray(np.sqrt(np.einsum("pc,pc->p", delta, delta)))


def _plane_distance(estimates: ObjectTable, truth: ObjectTable, rows: IntArray, columns: IntArray) -> Array:
    corners = footprint_corners(estimates.center, estimates.size, estimates.yaw)[rows]
    truth_corners = footprint_corners(truth.center, truth.size, truth.yaw)[columns]
    distances = nearest_plane_distances(corners, truth_corners)
    # Rounded as perception_eval does, or a value of one threshold's length would pass or fail by the last bit.
    value: Array = np.sqrt(0.5 * np.square(distances).sum(axis=1)).round(10)
    return value


def _shared_area(estimates: ObjectTable, truth: ObjectTable, rows: IntArray, columns: IntArray) -> Array:
    return intersection_area(
        estimates.center[rows],
        estimates.size[rows],
        estimates.yaw[rows],
        truth.center[columns],
        truth.size[columns],
        truth.yaw[columns],
    )


def _ratio(shared: Array, a: Array, b: Array) -> Array:
    union = a + b - shared
    ratio: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def _iou_bev(estimates: ObjectTable, truth: ObjectTable, rows: IntArray, columns: IntArray) -> Array:
    area, truth_area = estimates.size[:, :2].prod(axis=1), truth.size[:, :2].prod(axis=1)
    return _ratio(_shared_area(estimates, truth, rows, columns), area[rows], truth_area[columns])


def _iou_3d(estimates: ObjectTable, truth: ObjectTable, rows: IntArray, columns: IntArray) -> Array:
    z, height = estimates.center[rows, 2], estimates.size[rows, 2] / 2
    truth_z, truth_height = truth.center[columns, 2], truth.size[columns, 2] / 2
    top = np.minimum(z + height, truth_z + truth_height)
    bottom = np.maximum(z - height, truth_z - truth_height)
    shared = _shared_area(estimates, truth, rows, columns) * np.maximum(top - bottom, 0.0)
    return _ratio(shared, estimates.size.prod(axis=1)[rows], truth.size.prod(axis=1)[columns])


CENTER_DISTANCE_BEV = MatchingMode("center_distance_bev", False, _center_distance_bev, True, False)
"""Distance of the centres in the ground plane, metres."""

CENTER_DISTANCE = MatchingMode("center_distance", False, _center_distance, True, False)
"""Distance of the centres in space, metres."""

PLANE_DISTANCE = MatchingMode("plane_distance", False, _plane_distance, True, True)
"""Root mean square distance, in the ground plane, of the two ground-truth corners nearest to the ego from the same
corners of the detection, metres: how well the side that the vehicle would hit is placed."""

IOU_BEV = MatchingMode("iou_bev", True, _iou_bev, False, True)
"""Intersection over union of the rotated footprints, in [0, 1]."""

IOU_3D = MatchingMode("iou_3d", True, _iou_3d, False, True)
"""Intersection over union of the boxes' volumes, in [0, 1]."""

MATCHING_MODES = {mode.name: mode for mode in (CENTER_DISTANCE_BEV, CENTER_DISTANCE, PLANE_DISTANCE, IOU_BEV, IOU_3D)}
"""All modes by name."""
