"""Overlaps held against shapely, plane distance and headings against step-by-step versions written out here."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyquaternion import Quaternion
from shapely.geometry import Polygon

from eval.metrics import IOU_3D, IOU_BEV, PLANE_DISTANCE, ObjectTable
from eval.metrics.geometry import (
    circular_difference,
    footprint_corners,
    intersection_area,
    nearest_plane_distances,
    wrap_to_pi,
)
from eval.metrics.heading import heading_weight, rotation_magnitude

Array = NDArray[np.float64]
HALF_TURNS = [0.0, math.pi / 4, math.pi / 2, math.pi, -math.pi / 2]


def table(boxes: Array) -> ObjectTable:
    """(N, 7) x, y, z, l, w, h, yaw as objects of one frame."""
    count = len(boxes)
    zeros = np.zeros(count, np.int64)
    return ObjectTable(
        zeros, zeros, np.ones(count), boxes[:, :3], boxes[:, 3:6], boxes[:, 6], np.zeros((count, 2)), zeros
    )


def pairwise(mode_values: Callable[..., Array], a: Array, b: Array) -> Array:
    rows = np.arange(len(a))
    return mode_values(table(a), table(b), rows, rows)


def polygon(box: Array) -> Polygon:
    x, y, _, length, width, _, yaw = box
    cos, sin = math.cos(yaw), math.sin(yaw)
    corners = [(length / 2, width / 2), (-length / 2, width / 2), (-length / 2, -width / 2), (length / 2, -width / 2)]
    return Polygon([(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in corners])


def random_boxes(rng: np.random.Generator, count: int) -> Array:
    return np.column_stack(
        [
            rng.uniform(-3, 3, (count, 2)),
            rng.normal(0, 1, count),
            rng.uniform(0.3, 9, (count, 2)),
            rng.uniform(0.5, 3, count),
            rng.uniform(-8, 8, count),
        ]
    )


def test_intersection_equals_shapely() -> None:
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 3000), random_boxes(rng, 3000)
    # Far from the origin as boxes are, aligned and touching ones among them.
    a[:, :2] += 100
    b[:, :2] += 100
    a[::5, 6] = rng.choice(HALF_TURNS, 600)
    b[::5, 6] = rng.choice(HALF_TURNS, 600)
    b[::7] = a[::7]
    expected = [polygon(left).intersection(polygon(right)).area for left, right in zip(a, b, strict=True)]
    got = intersection_area(a[:, :3], a[:, 3:6], a[:, 6], b[:, :3], b[:, 3:6], b[:, 6])
    assert sum(area > 0 for area in expected) > 1500
    np.testing.assert_allclose(got, expected, atol=1e-9)


coordinate = st.integers(-4, 4).map(float)
side = st.sampled_from([1.0, 2.0, 3.0, 4.0])
box = st.tuples(coordinate, coordinate, st.just(0.0), side, side, st.just(1.0), st.sampled_from(HALF_TURNS))


@settings(max_examples=300, deadline=None)
@given(box, box)
def test_intersection_of_boxes_on_a_grid(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    # Edges coincide, corners touch, one box lies in the other: the cases in which clipping algorithms go wrong.
    left, right = np.array([a]), np.array([b])
    got = intersection_area(left[:, :3], left[:, 3:6], left[:, 6], right[:, :3], right[:, 3:6], right[:, 6])[0]
    # On a grid: without one GEOS finds nothing in common in some pairs whose sides lie on each other (and 9 m² when
    # asked the other way round).
    expected = shapely.intersection(polygon(left[0]), polygon(right[0]), grid_size=1e-12).area
    assert got == pytest.approx(expected, abs=1e-9)
    other = intersection_area(right[:, :3], right[:, 3:6], right[:, 6], left[:, :3], left[:, 3:6], left[:, 6])[0]
    assert other == pytest.approx(got, abs=1e-9)


def test_a_box_along_the_side_of_another() -> None:
    yaw = np.array([np.pi / 4])
    one, other = np.array([[-3.0, -3.0, 0.0]]), np.array([[-3.0, -3.0, 0.0]])
    small, large = np.array([[3.0, 3.0, 1.0]]), np.array([[4.0, 3.0, 1.0]])
    assert intersection_area(one, small, yaw, other, large, yaw)[0] == pytest.approx(9.0, abs=1e-9)


def test_iou_of_known_boxes() -> None:
    base = np.array([0.0, 0, 0, 4, 2, 2, 0.7])
    along, across = math.cos(0.7), math.sin(0.7)
    moved = np.add(base, [along * 2, across * 2, 0, 0, 0, 0, 0])  # by half its length
    raised = np.add(base, [0, 0, 1, 0, 0, 0, 0])  # by half its height
    away = np.add(base, [10, 0, 0, 0, 0, 0, 0])
    above = np.add(base, [0, 0, 2, 0, 0, 0, 0])
    others = np.stack([base, moved, raised, away, above])
    same = np.tile(base, (5, 1))
    np.testing.assert_allclose(pairwise(IOU_BEV.values, same, others), [1, 1 / 3, 1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(pairwise(IOU_3D.values, same, others), [1, 1 / 3, 1 / 3, 0, 0], atol=1e-12)


def test_iou_of_boxes_without_area_is_zero() -> None:
    flat = np.array([[0.0, 0, 0, 0, 0, 0, 0]])
    assert pairwise(IOU_BEV.values, flat, flat).tolist() == [0.0]
    assert pairwise(IOU_3D.values, flat, flat).tolist() == [0.0]


def test_corners_turn_counter_clockwise_from_front_left() -> None:
    corners = footprint_corners(np.array([[1.0, 2, 9]]), np.array([[4.0, 2, 9]]), np.array([math.pi / 2]))[0]
    np.testing.assert_allclose(corners, [[0, 4], [0, 0], [2, 0], [2, 4]], atol=1e-12)


def plane_distance_step_by_step(found: Array, truth: Array) -> float:
    corners = np.array(polygon(found).exterior.coords)[:4]
    truth_corners = np.array(polygon(truth).exterior.coords)[:4]
    rolls = [np.roll(corners, shift, axis=0) for shift in range(4)]
    best = min(rolls, key=lambda rolled: sum(math.dist(p, q) for p, q in zip(rolled, truth_corners, strict=True)))
    nearest = sorted(range(4), key=lambda index: math.hypot(*truth_corners[index]))[:2]
    squares = [math.dist(best[index], truth_corners[index]) ** 2 for index in nearest]
    return math.sqrt(sum(squares) / 2)


def test_plane_distance_equals_step_by_step() -> None:
    rng = np.random.default_rng(1)
    truth = random_boxes(rng, 500)
    truth[:, :2] *= 20
    found = truth + rng.normal(0, 0.3, truth.shape)
    found[:, 3:6] = truth[:, 3:6] * rng.uniform(0.8, 1.2, (500, 3))
    found[::3, 6] += math.pi
    expected = [plane_distance_step_by_step(a, b) for a, b in zip(found, truth, strict=True)]
    np.testing.assert_allclose(pairwise(PLANE_DISTANCE.values, found, truth), expected, atol=1e-9)


def test_plane_distance_looks_at_the_side_that_faces_the_ego() -> None:
    truth = np.array([[20.0, 0, 0, 4, 2, 1.5, 0]])
    longer = np.array([[21.0, 0, 0, 6, 2, 1.5, 0]])  # the same rear, two metres more at the front
    assert pairwise(PLANE_DISTANCE.values, longer, truth)[0] == pytest.approx(0.0, abs=1e-10)
    behind = truth * [-1, 1, 1, 1, 1, 1, 1]
    longer[0, 0] = -19.0  # now the two metres are on the near side
    assert pairwise(PLANE_DISTANCE.values, longer, behind)[0] == pytest.approx(2.0)


def test_nearest_plane_distances_name_nearest_first() -> None:
    truth = footprint_corners(np.array([[10.0, 5.0]]), np.array([[4.0, 2.0]]), np.array([0.0]))
    moved = truth.copy()
    moved[0, 2] += [0.3, 0.0]  # rear right is the corner nearest to the ego
    np.testing.assert_allclose(nearest_plane_distances(moved, truth), [[0.3, 0.0]], atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.floats(-20, 20), st.floats(-20, 20))
def test_angles(a: float, b: float) -> None:
    wrapped = wrap_to_pi(np.array([a]))[0]
    assert -math.pi < wrapped <= math.pi
    assert math.cos(wrapped) == pytest.approx(math.cos(a), abs=1e-9)
    assert math.sin(wrapped) == pytest.approx(math.sin(a), abs=1e-9)
    between = circular_difference(np.array([a]), np.array([b]))[0]
    assert between == pytest.approx(math.acos(max(-1.0, min(1.0, math.cos(a - b)))), abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.floats(-12, 12))
def test_rotation_magnitude_is_that_of_pyquaternion(yaw: float) -> None:
    expected = Quaternion(math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)).radians
    got = rotation_magnitude(np.array([yaw]))[0]
    assert math.cos(got) == pytest.approx(math.cos(expected), abs=1e-9)
    assert math.sin(got) == pytest.approx(math.sin(expected), abs=1e-9)


def test_heading_weight() -> None:
    yaw, truth = np.array([0.5, 0.5, 0.5, 0.5 + math.pi / 2]), np.array([0.5, -0.5, 0.5 - math.pi, 0.5])
    np.testing.assert_allclose(heading_weight(yaw, truth), [1, 1 - 1 / math.pi, 0, 0.5], atol=1e-9)
    # Without the sign of the turn, 0.5 and -0.5 are one heading, and a box turned round is not quite opposite.
    np.testing.assert_allclose(heading_weight(yaw, truth, unsigned=True), [1, 1, 1 / math.pi, 0.5], atol=1e-9)
