"""The node's decode as its formulas say, in loops, written apart from `runtime.autoware_postprocess`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Polygon

from base.boxes import Boxes3D
from models.spec import ModelSpec
from runtime.autoware_params import AUTOWARE_LABELS, AutowareDecodeParams

F = np.float32
Outputs = dict[str, NDArray[np.float32]]
LABEL_OF = {"CAR": 1, "TRUCK": 2, "BUS": 3, "BICYCLE": 6, "PEDESTRIAN": 7}
# The sigmoid of this is below every threshold that is tested here.
_HOPELESS = -4.0


def in_node_convention(outputs: Outputs) -> Outputs:
    rot, dim = outputs["rot"], outputs["dim"]
    return {**outputs, "dim": dim[:, [1, 0, 2]], "rot": np.stack([-rot[:, 1], -rot[:, 0]], axis=1)}


def footprint(box: list[float]) -> Polygon:
    x, y, _, length, width, _, yaw = (float(v) for v in box[:7])
    c, s = math.cos(yaw), math.sin(yaw)
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return Polygon(
        [(x + c * a * length / 2 - s * b * width / 2, y + s * a * length / 2 + c * b * width / 2) for a, b in signs]
    )


def cell_box(out: Outputs, spec: ModelSpec, params: AutowareDecodeParams, yi: int, xi: int) -> list[Any] | None:
    """One cell as the kernel treats it: [x, y, z, l, w, h, yaw, vx, vy, score, label], or None."""
    label, best = -1, F(-1)
    for ci in range(len(spec.class_names)):
        score = F(1.0 / (1.0 + math.exp(-float(out["heatmap"][0, ci, yi, xi]))))
        if score > best:
            label, best = ci, score
    stride = F(spec.out_size_factor)
    x = F(spec.voxel_size[0]) * stride * (F(xi) + out["reg"][0, 0, yi, xi]) + F(spec.point_cloud_range[0])
    y = F(spec.voxel_size[1]) * stride * (F(yi) + out["reg"][0, 1, yi, xi]) + F(spec.point_cloud_range[1])
    distance = np.sqrt(x * x + y * y)
    bucket = -1
    for index, limit in enumerate(params.distance_bins_m):
        if distance < F(limit):
            bucket = index
            break
    if bucket == -1:
        return None
    if best < F(params.score_thresholds[label][bucket]):
        return None
    first, second = out["rot"][0, 0, yi, xi], out["rot"][0, 1, yi, xi]
    if np.sqrt(first * first + second * second) < F(params.yaw_norm_thresholds[label]):
        return None
    w, length, h = (math.exp(float(v)) for v in out["dim"][0, :, yi, xi])
    yaw = -math.atan2(first, second) - math.pi / 2
    vx, vy = out["vel"][0, :, yi, xi]
    return [x, y, out["height"][0, 0, yi, xi], length, w, h, yaw, vx, vy, best, LABEL_OF[params.class_names[label]]]


def transcribed(out: Outputs, spec: ModelSpec, params: AutowareDecodeParams) -> list[list[Any]]:
    """The whole decode for outputs in the node's convention."""
    width, height = spec.head_size
    best = out["heatmap"][0].max(axis=0)
    cells = [
        cell_box(out, spec, params, yi, xi) for yi in range(height) for xi in range(width) if best[yi, xi] > _HOPELESS
    ]
    boxes = sorted((box for box in cells if box is not None), key=lambda box: -box[9])
    alive: list[list[Any]] = []
    for box in boxes:
        if all((box[0] - o[0]) ** 2 + (box[1] - o[1]) ** 2 >= F(params.circle_nms_distance_m) ** 2 for o in alive):
            alive.append(box)
    shapes = [footprint(box) for box in alive]
    result = []
    for target, box in enumerate(alive):
        suppressed = False
        for source in range(target):
            other = alive[source]
            if other[10] != box[10] and LABEL_OF["PEDESTRIAN"] in (other[10], box[10]):
                continue
            if math.dist(box[:2], other[:2]) > params.iou_nms_search_distance_m:
                continue
            shared = shapes[target].intersection(shapes[source]).area
            iou = shared / (shapes[target].area + shapes[source].area - shared)
            suppressed |= iou > params.iou_nms_threshold
        if not suppressed:
            result.append(list(box))
    for box in result:
        area = F(float(F(box[3])) * float(F(box[4])))
        for label in range(len(AUTOWARE_LABELS)):
            rule = params.remapping
            low, high = rule.min_area_m2[box[10]][label], rule.max_area_m2[box[10]][label]
            if rule.allow[box[10]][label] and low <= area <= high:
                box[10] = label
                break
    return result


def largest_differences(ours: Boxes3D, expected: list[list[Any]]) -> dict[str, float]:
    """The largest difference of every kind of number; infinite where boxes, labels or their order differ.

    Sizes in units in the last place, angles in radians, the rest as it is.
    """
    kinds = ("score", "position", "velocity", "size", "yaw")
    if len(ours) != len(expected):
        return dict.fromkeys(kinds, math.inf)
    if not expected:
        return dict.fromkeys(kinds, 0.0)
    rows = np.array(expected, np.float64)
    if ours.labels.tolist() != rows[:, 10].astype(int).tolist():
        return dict.fromkeys(kinds, math.inf)
    exact = rows[:, :10].astype(F)
    turn = ours.boxes[:, 6] - rows[:, 6]
    return {
        "score": float(np.abs(ours.scores - exact[:, 9]).max()),
        "position": float(np.abs(ours.boxes[:, :3] - exact[:, :3]).max()),
        "velocity": float(np.abs(ours.boxes[:, 7:9] - exact[:, 7:9]).max()),
        "size": float((np.abs(ours.boxes[:, 3:6] - exact[:, 3:6]) / np.spacing(exact[:, 3:6])).max()),
        "yaw": float(np.abs(2 * np.arcsin(np.clip(np.abs(np.sin(turn / 2)), 0, 1))).max()),
    }


def assert_same(ours: Boxes3D, expected: list[list[Any]]) -> dict[str, float]:
    """Bit-equal but for the last place of sizes and the rounding of angles to float32; returns the differences."""
    found = largest_differences(ours, expected)
    assert (found["score"], found["position"], found["velocity"]) == (0, 0, 0), found
    assert found["size"] <= 1
    assert found["yaw"] <= 1e-6
    assert (np.abs(ours.boxes[:, 6]) <= F(math.pi)).all()
    return found
