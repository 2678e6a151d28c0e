"""Metrics for a vehicle on scenes made by hand; every expected number is worked out beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from base.boxes import Boxes3D
from eval.ego_motion import ego_velocities
from eval.metrics import FrameResult
from eval.metrics.criticality import closest_approach, criticality
from eval.metrics.driving import DrivingScore, score_driving
from eval.metrics.nuscenes_frames import FramePose

CLASSES = ("car", "pedestrian")
NAN = math.nan


def boxes(*rows: tuple[float, ...], scores: list[float] | None = None, labels: list[int] | None = None) -> Boxes3D:
    """Rows of x, y, yaw, vx, vy."""
    if not rows:
        return Boxes3D.empty()
    values = np.array([[x, y, 0.8, 4.5, 1.9, 1.6, yaw, vx, vy] for x, y, yaw, vx, vy in rows], np.float32)
    return Boxes3D(
        values,
        np.array(scores or [0.9] * len(rows), np.float32),
        np.array(labels or [0] * len(rows), np.int64),
    )


def score(*frames: tuple[Boxes3D, Boxes3D], own_latency_s: float | None = 0.1, ego: Any = None) -> DrivingScore:
    """Of pairs (detections, ground truth) within 121 m; the ego stands unless `ego` says otherwise."""
    results = [FrameResult(f"frame-{index}", *pair) for index, pair in enumerate(frames)]
    motion = [None] * len(frames) if ego is None else ego
    return score_driving("toy", results, CLASSES, own_latency_s, motion, [(0.0, 50.0), (50.0, 121.0)])


def test_headings_beyond_a_right_angle_are_flipped() -> None:
    truth = boxes((10, 0, 0, 0, 0), (20, 0, 3.0, 0, 0), (30, 0, 0, 0, 0), (40, 0, 0, 0, 0))
    found = boxes((10, 0.1, 0.2, 0, 0), (20, 0, -3.0, 0, 0), (30, 0, 3.0, 0, 0), (40, 0, 1.5, 0, 0))
    row = score((found, truth)).total
    # 3.0 and -3.0 are 2π - 6 = 0.283 apart; 1.5 is short of a right angle; 3.0 against 0 is the one that is flipped.
    assert (row.num_pairs, row.flipped_headings) == (4, 0.25)
    assert row.heading_error_rad == pytest.approx((0.2 + (2 * math.pi - 6.0) + 3.0 + 1.5) / 4, abs=1e-6)


def test_velocities_are_compared_where_they_are_known() -> None:
    truth = boxes((10, 0, 0, 3, 4), (20, 0, 0, NAN, NAN), (30, 0, 0, 1, 0))
    found = boxes((10, 0, 0, 0, 0), (20, 0, 0, 9, 9), (30, 0, 0, 1, 1))
    row = score((found, truth)).total
    assert row.num_pairs == 3
    assert row.velocity_error_mps == pytest.approx((5.0 + 1.0) / 2)


def test_pairs_need_a_score_a_class_and_two_metres() -> None:
    truth = boxes((10, 0, 0, 0, 0), (20, 0, 0, 0, 0), (30, 0, 0, 0, 0), labels=[0, 0, 1])
    found = boxes((10, 0, 0, 0, 0), (20, 2.1, 0, 0, 0), (30, 0, 0, 0, 0), scores=[0.29, 0.9, 0.9], labels=[0, 0, 0])
    result = score((found, truth))
    assert result.total.num_pairs == 0
    assert math.isnan(result.total.flipped_headings)
    assert [(row.class_name, row.num_ground_truth) for row in result.classes] == [("car", 2), ("pedestrian", 1)]


def test_old_boxes_are_held_against_where_objects_have_gone() -> None:
    """At 8 m/s an object is 0.8 m on after 0.1 s and 3.2 m on after 0.4 s: of 0.5, 1, 2, 4 m three and one are left."""
    scene = boxes((10, 0, 0, 0, 8))
    row = score((scene, scene), own_latency_s=0.4).total
    assert row.ap == pytest.approx(1.0)
    assert row.ap_at_common_latency == pytest.approx(3 / 4)
    assert row.ap_at_own_latency == pytest.approx(1 / 4)
    untold = score((scene, scene), own_latency_s=None)
    assert math.isnan(untold.own_latency_s)
    assert math.isnan(untold.total.ap_at_own_latency)
    assert untold.total.ap_at_common_latency == row.ap_at_common_latency
    standing = boxes((10, 0, 0, NAN, NAN))
    assert score((standing, standing), own_latency_s=0.4).total.ap_at_own_latency == pytest.approx(1.0)


def test_what_is_near_weighs_more() -> None:
    """Standing objects at 10 and 40 m weigh 1 - 10/50 = 0.8 and 0.2."""
    truth = boxes((10, 0, 0, 0, 0), (0, 40, 0, 0, 0))
    near, far = boxes((10, 0, 0, 0, 0)), boxes((0, 40, 0, 0, 0))
    assert score((near, truth)).total.critical_recall == pytest.approx(0.8)
    assert score((far, truth)).total.critical_recall == pytest.approx(0.2)
    # A false detection at 25 m weighs 0.5 beside a right one of 0.8.
    wrong = boxes((10, 0, 0, 0, 0), (0, -25, 0, 0, 0))
    assert score((wrong, truth)).total.critical_precision == pytest.approx(0.8 / 1.3)
    assert score((boxes(), truth)).total.critical_recall == 0.0
    assert math.isnan(score((boxes(), truth)).total.critical_precision)


@pytest.mark.parametrize(
    ("position", "velocity", "ego", "expected"),
    [
        ((25.0, 0.0), (0.0, 0.0), (0.0, 0.0), 0.5),
        ((100.0, 0.0), (-25.0, 0.0), (0.0, 0.0), 0.2),  # far, but here in 4 of 5 s
        ((100.0, 5.0), (-25.0, 0.0), (0.0, 0.0), 0.0),  # passes by at 5 m
        ((20.0, 0.0), (0.0, 0.0), (10.0, 0.0), 1 - 0.4 * 0.4),  # the ego drives there in 2 s
        ((20.0, 0.0), (15.0, 0.0), (10.0, 0.0), 0.6),  # goes ahead
        ((20.0, 0.0), (NAN, NAN), (10.0, 0.0), 0.6),
    ],
)
def test_criticality_is_the_formula(
    position: tuple[float, float], velocity: tuple[float, float], ego: tuple[float, float], expected: float
) -> None:
    found = criticality(*(np.array([value], float) for value in (position, velocity, ego)))
    assert found.tolist() == pytest.approx([expected])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_closest_approach_is_the_least_distance_of_a_simulation(values: list[float]) -> None:
    position, velocity = np.array([values[:2]]), np.array([values[2:]])
    time, nearest = closest_approach(position, velocity)
    steps = np.linspace(0.0, 20.0, 20001)
    distances = np.hypot(*(position[0][:, None] + velocity[0][:, None] * steps))
    if time[0] <= 20.0:
        assert nearest[0] == pytest.approx(distances.min(), abs=0.03)
    assert nearest[0] <= distances.min() + 1e-9


def test_the_egos_own_motion_counts() -> None:
    """The scene of the third case in another form: with the ego's 10 m/s towards it, 0.84 in place of 0.6."""
    truth = boxes((20, 0, 0, 0, 0), (0, 30, 0, 0, 0))
    near = boxes((20, 0, 0, 0, 0))
    assert score((near, truth)).total.critical_recall == pytest.approx(0.6 / (0.6 + 0.4))
    moving = score((near, truth), ego=[np.array([10.0, 0.0])])
    assert moving.total.critical_recall == pytest.approx(0.84 / (0.84 + 0.4))
    assert moving.frames_with_ego_motion == 1


def turn(yaw: float, x: float = 0.0, y: float = 0.0) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    matrix[:2, 3] = x, y
    return matrix


def test_ego_velocity_follows_from_poses() -> None:
    """Northwards at 10 m/s, heading north: 10 m/s ahead; in the axes of a LiDAR turned by 90°, to its right."""
    poses = [FramePose(np.eye(4), turn(math.pi / 2, 100.0, step)) for step in (0.0, 1.0, 2.0)]
    found = ego_velocities(poses, ["a"] * 3, [5.0, 5.1, 5.2])
    np.testing.assert_allclose(np.array(found), [[10.0, 0.0]] * 3, atol=1e-9)
    turned = [FramePose(turn(math.pi / 2), pose.ego2global) for pose in poses]
    np.testing.assert_allclose(
        np.array(ego_velocities(turned, ["a"] * 3, [5.0, 5.1, 5.2])), [[0.0, -10.0]] * 3, atol=1e-9
    )
    # Of another scene, without a pose, without a time, at the same time, or after a gap nothing follows.
    assert ego_velocities(poses, ["a", "b", "c"], [5.0, 5.1, 5.2]) == [None] * 3
    assert ego_velocities([poses[0], None, poses[2]], ["a"] * 3, [5.0, 5.1, 5.2]) == [None] * 3
    assert ego_velocities(poses, ["a"] * 3, [None] * 3) == [None] * 3
    assert ego_velocities(poses, ["a"] * 3, [5.0] * 3) == [None] * 3
    assert ego_velocities(poses, ["a"] * 3, [0.0, 60.0, 120.0]) == [None] * 3
    assert ego_velocities([], [], []) == []


def test_a_class_of_which_there_is_nothing_is_no_number() -> None:
    scene = boxes((10, 0, 0, 0, 0))
    result = score((scene, scene))
    car, pedestrian = result.classes
    assert [car.flipped_headings, car.critical_recall, car.ap] == pytest.approx([0.0, 1.0, 1.0])
    for value in (
        pedestrian.flipped_headings,
        pedestrian.velocity_error_mps,
        pedestrian.critical_recall,
        pedestrian.ap,
    ):
        assert math.isnan(value)
