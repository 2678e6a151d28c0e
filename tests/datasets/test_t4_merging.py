"""Objects annotated in two parts: which belong together, and the box that they become."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from shapely.geometry import MultiPoint, Polygon

from base.errors import DataError
from datasets.t4_classes import ClassRules
from datasets.t4_merging import _belong_together, _corners, extend_longer, merge_instances, union

CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")
TRUCK = [0.0, 0.0, 1.5, 6.0, 2.5, 3.0, 0.0]
TRAILER = [-9.0, 0.0, 2.0, 10.0, 2.4, 4.0, 0.0]


def instance(name: str, box: list[float], **changes: Any) -> dict[str, Any]:
    label = {"car": 0, "truck": 1}.get(name, -1)
    return {
        "bbox_3d": box,
        "bbox_label": label,
        "bbox_label_3d": label,
        "velocity": [2.0, 0.0],
        "num_lidar_pts": 10,
        "num_radar_pts": 1,
        "bbox_3d_isvalid": True,
        "gt_nusc_name": name,
        "gt_attrs": [],
    } | changes


def random_boxes(count: int, seed: int) -> NDArray[np.float64]:
    low, high = (-8, -8, -1, 1, 1, 1, -3.1), (8, 8, 1, 14, 3.5, 4, 3.1)
    return np.random.default_rng(seed).uniform(low, high, (count, 7))


def test_a_truck_grows_to_the_end_of_its_trailer() -> None:
    car, truck = instance("car", [20.0, 0, 0, 4, 2, 1.5, 0]), instance("truck", TRUCK, gt_attrs=["b"])
    trailer = instance("semi_trailer", TRAILER, velocity=[4.0, 1.0], num_lidar_pts=30, gt_attrs=["a"])
    merged, other = merge_instances([car, truck, trailer], ClassRules())
    assert other == car
    # The trailer is the larger one: from its rear at -14 m on, it reaches the truck's front at 3 m; heights span both.
    assert merged["bbox_3d"] == pytest.approx([-5.5, 0.0, 2.0, 17.0, 2.4, 4.0, 0.0])
    assert (merged["bbox_label"], merged["bbox_label_3d"], merged["gt_nusc_name"]) == (1, 1, "truck")
    assert merged["velocity"] == [3.0, 0.5]
    assert (merged["num_lidar_pts"], merged["num_radar_pts"], merged["gt_attrs"]) == (40, 2, ["a", "b"])
    assert list(merged) == list(car)


def test_what_is_apart_stays_apart() -> None:
    far = [TRAILER[0] - 3.1, *TRAILER[1:]]  # 4.1 m between rear and front
    parts = [instance("truck", TRUCK), instance("trailer", far)]
    assert merge_instances(parts, ClassRules()) == parts
    near = [TRAILER[0] - 0.9, *TRAILER[1:]]  # 1.9 m
    assert len(merge_instances([parts[0], instance("trailer", near)], ClassRules())) == 1
    cars = [instance("car", TRUCK), instance("trailer", TRAILER)]
    assert merge_instances(cars, ClassRules()) == cars
    assert merge_instances([parts[0], instance("trailer", near)], ClassRules(merge_type=None))[0] == parts[0]


def test_an_object_is_merged_once() -> None:
    trucks = [instance("truck", TRUCK), instance("truck", [0.5, *TRUCK[1:]])]
    found = merge_instances([*trucks, instance("trailer", TRAILER)], ClassRules())
    assert len(found) == 2
    assert found[1] == trucks[1]
    nan = instance("trailer", TRAILER, velocity=[math.nan, math.nan], bbox_3d_isvalid=False)
    (merged,) = merge_instances([trucks[0], nan], ClassRules())
    assert math.isnan(merged["velocity"][0])
    assert merged["bbox_3d_isvalid"] is False


def test_filters_and_targets_of_the_rules() -> None:
    rules = ClassRules(CLASSES, filter_attributes=(("truck", "parked"),))
    parts = [instance("truck", TRUCK, gt_attrs=["parked"]), instance("trailer", TRAILER)]
    (merged,) = merge_instances(parts, rules)
    assert (merged["bbox_label"], merged["bbox_label_3d"]) == (1, -1)
    lorries = ClassRules(CLASSES, merge_objects=(("lorry", ("truck", "trailer")),))
    (merged,) = merge_instances(parts, lorries)
    assert (merged["bbox_label"], merged["gt_nusc_name"]) == (-1, "lorry")


def test_pairs_as_polygons_say() -> None:
    for first, second in zip(random_boxes(500, 1), random_boxes(500, 2), strict=True):
        touching = Polygon(_corners(first)).intersects(Polygon(_corners(second)))
        if touching:
            assert _belong_together(first, second)


def test_union_is_the_smallest_rectangle_around_both() -> None:
    for first, second in zip(random_boxes(300, 3), random_boxes(300, 4), strict=True):
        box = union(first, second)
        corners = np.concatenate([_corners(first), _corners(second)])
        assert box[3] * box[4] == pytest.approx(MultiPoint(corners).minimum_rotated_rectangle.area)
        assert box[3] >= box[4]
        inside = Polygon(_corners(box)).buffer(1e-6)
        assert all(inside.contains(point) for point in MultiPoint(corners).geoms)
        assert box[2] - box[5] / 2 == pytest.approx(min(first[2] - first[5] / 2, second[2] - second[5] / 2))


def test_extension_keeps_width_and_heading_of_the_larger_box() -> None:
    for first, second in zip(random_boxes(300, 5), random_boxes(300, 6), strict=True):
        larger = first if first[3] * first[4] >= second[3] * second[4] else second
        box = extend_longer(first, second)
        long_axis = 0 if larger[3] >= larger[4] else 1
        assert box[4 - long_axis] == larger[4 - long_axis]
        assert box[3 + long_axis] >= larger[3 + long_axis]
        assert box[6] == larger[6]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"merge_type": "longest"}, "merge_type is 'longest', but must be 'extend_longer' or 'union' or null"),
        ({"merge_objects": [["truck", ["truck"]]]}, r"merge_objects\[0\]\[1\] has 1 values, but must have 2"),
        ({"merge_objects": "truck"}, "merge_objects is 'truck', but must be a list or null"),
    ],
)
def test_wrong_rules_are_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        ClassRules.read(path)


def test_rules_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"merge_objects": [["bus", ["bus", "trailer"]]], "merge_type": "union"}))
    rules = ClassRules.read(path)
    assert (rules.merge_objects, rules.merge_type) == ((("bus", ("bus", "trailer")),), "union")
    path.write_text(json.dumps({"classes": ["truck", "trailer"]}))
    assert ClassRules.read(path).merge_objects == ()
    assert ClassRules.read(path).label("semi_trailer") == 1
    path.write_text(json.dumps({"merge_objects": None}))
    assert ClassRules.read(path).merge_objects == ()
