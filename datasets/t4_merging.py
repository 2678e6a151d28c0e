"""Objects that a raw T4 dataset annotates in two parts and a detector is to find as one: a truck and its trailer.

Rules and geometry of AWML's `merge_objects` and `merge_type`, except for heights: AWML takes a box's centre for its
bottom there, so that its merged boxes begin at the lower centre; here they span both boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.t4_classes import ClassRules

__all__ = ["MERGE_TYPES", "extend_longer", "merge_instances", "union"]

Array = NDArray[np.float64]
# Front or rear this near to the other's front or rear makes a pair, metres.
_FACE_DISTANCE_M = 2.0


def merge_instances(instances: Sequence[dict[str, Any]], rules: ClassRules) -> list[dict[str, Any]]:
    """Merges the objects of a key frame.

    Args:
        instances: In the form of the info file.
        rules: What is merged, and how.

    Returns:
        Merged objects first, then the rest in their order. An object is merged once, into the first pair that it is
        part of; attributes are those of both, velocity is the mean, points are the sum.
    """
    if rules.merge_type is None or not rules.merge_objects:
        return list(instances)
    merge = MERGE_TYPES[rules.merge_type]
    names = [rules.class_name(item["gt_nusc_name"]) for item in instances]
    boxes = [np.array(item["bbox_3d"], dtype=float) for item in instances]
    merged: list[dict[str, Any]] = []
    used: set[int] = set()
    for target, (first_name, second_name) in rules.merge_objects:
        for first, second in (
            (a, b)
            for a, name in enumerate(names)
            if name == first_name
            for b, other in enumerate(names)
            if other == second_name and a != b
        ):
            if first not in used and second not in used and _belong_together(boxes[first], boxes[second]):
                box = merge(boxes[first], boxes[second])
                merged.append(_merged(target, box, instances[first], instances[second], rules))
                used |= {first, second}
    return merged + [item for index, item in enumerate(instances) if index not in used]


def _merged(
    target: str, box: Array, first: dict[str, Any], second: dict[str, Any], rules: ClassRules
) -> dict[str, Any]:
    attributes = sorted({*first["gt_attrs"], *second["gt_attrs"]})
    label = rules.classes.index(target) if target in rules.classes else -1
    return {
        **first,
        "bbox_3d": box.tolist(),
        "bbox_label": label,
        "bbox_label_3d": -1 if rules.filtered(target, attributes) else label,
        "velocity": ((np.array(first["velocity"]) + np.array(second["velocity"])) / 2).tolist(),
        "num_lidar_pts": first["num_lidar_pts"] + second["num_lidar_pts"],
        "num_radar_pts": first["num_radar_pts"] + second["num_radar_pts"],
        "bbox_3d_isvalid": first["bbox_3d_isvalid"] and second["bbox_3d_isvalid"],
        "gt_nusc_name": target,
        "gt_attrs": attributes,
    }


def _belong_together(first: Array, second: Array) -> bool:
    """Whether footprints touch, or a front or rear of one is near to one of the other."""
    ends = [_ends(box, 0) for box in (first, second)]
    heights = first[2] - second[2]
    near = min(math.hypot(*(a - b), heights) for a in ends[0] for b in ends[1]) <= _FACE_DISTANCE_M
    return near or _touch(_corners(first), _corners(second))


def _ends(box: Array, axis: int) -> tuple[Array, Array]:
    """(x, y) of the two faces across an axis: 0 front and rear, 1 left and right."""
    turn = box[6] + axis * math.pi / 2
    half = box[3 + axis] / 2 * np.array([math.cos(turn), math.sin(turn)])
    return box[:2] + half, box[:2] - half


def _corners(box: Array) -> Array:
    """(4, 2) corners of the footprint."""
    cosine, sine = math.cos(box[6]), math.sin(box[6])
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * box[3:5] / 2
    return np.asarray(box[:2] + local @ np.array([[cosine, sine], [-sine, cosine]]))


def _touch(first: Array, second: Array) -> bool:
    """Whether two rectangles share a point: no side of either separates them."""
    for corners in (first, second):
        for side in (corners[1] - corners[0], corners[2] - corners[1]):
            a, b = first @ side, second @ side
            if a.max() < b.min() or b.max() < a.min():
                return False
    return True


def extend_longer(first: Array, second: Array) -> Array:
    """The box with the larger footprint, made longer at the end that is nearer to the other, up to the other's far end.

    Args:
        first: x, y, z (centre), length, width, height, yaw.
        second: The same.
    """
    larger, smaller = (first, second) if first[3] * first[4] >= second[3] * second[4] else (second, first)
    long_axis = 0 if larger[3] >= larger[4] else 1
    near = min(_ends(larger, long_axis), key=lambda end: math.dist(end, smaller[:2]))
    far = max(_ends(smaller, 0 if smaller[3] >= smaller[4] else 1), key=lambda end: math.dist(end, larger[:2]))
    axis = (near - larger[:2]) / np.linalg.norm(near - larger[:2])
    shift = larger[:2] + np.dot(far - larger[:2], axis) * axis - near
    box = larger.copy()
    box[3 + long_axis] += np.linalg.norm(shift)
    box[:2] += shift / 2
    box[2], box[5] = _span(first, second)
    return box


def union(first: Array, second: Array) -> Array:
    """The smallest rectangle around both footprints; its longer side is the length.

    Args:
        first: x, y, z (centre), length, width, height, yaw.
        second: The same.
    """
    corners = np.concatenate([_corners(first), _corners(second)])
    best: tuple[float, Array, Array, float] | None = None
    # A smallest rectangle has a side along an edge of the convex hull, and that joins two of the corners.
    for a, b in combinations(corners, 2):
        if np.linalg.norm(b - a) < 1e-9:
            continue
        yaw = math.atan2(b[1] - a[1], b[0] - a[0])
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        local = corners @ turn
        low, high = local.min(axis=0), local.max(axis=0)
        area = float(np.prod(high - low))
        if best is None or area < best[0] - 1e-9:
            best = (area, turn @ ((low + high) / 2), high - low, yaw)
    if best is None:
        return first.copy()
    _, centre, size, yaw = best
    if size[0] < size[1]:
        size, yaw = size[::-1], yaw + math.pi / 2
    z, height = _span(first, second)
    return np.array([*centre, z, *size, height, math.remainder(yaw, 2 * math.pi)])


def _span(first: Array, second: Array) -> tuple[float, float]:
    """Centre and height of what spans both boxes."""
    low = min(box[2] - box[5] / 2 for box in (first, second))
    high = max(box[2] + box[5] / 2 for box in (first, second))
    return float(low + high) / 2, float(high - low)


MERGE_TYPES: dict[str, Callable[[Array, Array], Array]] = {"extend_longer": extend_longer, "union": union}
