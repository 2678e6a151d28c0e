from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from datasets.synthetic.lidar import Lidar, beam_elevations, measure, trace
from datasets.synthetic.motion import AlongRoad, Occupancy, Parked, Straight
from datasets.synthetic.people import make_bicycle, make_pedestrian
from datasets.synthetic.primitives import CYLINDER, METAL, PrimitiveTable, Shape
from datasets.synthetic.riders import make_varied_rider
from datasets.synthetic.roads import make_road
from datasets.synthetic.scene import BOX_MARGIN_M, CLASSES, Scene, make_scene
from datasets.synthetic.vehicles import make_bus, make_car, make_truck


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(np.random.SeedSequence(11), 1.0, 0.1)


@pytest.mark.parametrize(("beams", "low", "high"), [(64, -25.0, 15.0), (128, -25.0, 15.0)])
def test_beam_table(beams: int, low: float, high: float) -> None:
    table = beam_elevations(beams)
    assert len(table) == beams
    assert (table[0], table[-1]) == (low, high)
    gaps = np.diff(table)
    assert (gaps > 0).all()
    # Dense around the horizon, sparse outside: no uniform table would do.
    assert gaps.min() < 0.2
    assert gaps.max() > 0.6
    assert abs(table[gaps.argmin()]) < 7.0


def test_beams_of_an_unknown_unit() -> None:
    with pytest.raises(ValueError, match=r"unknown LiDAR with 32 beams: choose 64 or 128"):
        beam_elevations(32)


@pytest.mark.parametrize(
    ("make", "length", "width", "height"),
    [
        (make_car, (3.0, 5.7), (1.4, 2.3), (1.3, 2.1)),
        (make_truck, (4.5, 12.1), (1.8, 2.9), (1.9, 4.0)),
        (make_bus, (6.8, 12.7), (2.1, 2.9), (2.6, 4.0)),
        (make_bicycle, (1.5, 2.0), (0.45, 0.75), (1.45, 2.0)),
        (make_varied_rider, (1.5, 2.1), (0.4, 0.85), (1.3, 2.1)),
        (lambda rng: make_pedestrian(rng, True), (0.2, 1.4), (0.3, 1.1), (1.0, 2.3)),
    ],
)
def test_shapes_have_plausible_sizes_and_stand_centred(
    make: Callable[[np.random.Generator], Shape],
    length: tuple[float, float],
    width: tuple[float, float],
    height: tuple[float, float],
) -> None:
    sizes = []
    for seed in range(60):
        shape = make(np.random.default_rng(seed))
        low, high = shape.extent()
        assert len(shape.kinds) >= 6
        np.testing.assert_allclose([*(low + high)[:2], low[2]], 0.0, atol=1e-9)
        sizes.append(high - low)
    for column, (least, most) in zip(np.array(sizes).T, (length, width, height), strict=True):
        assert least <= column.min()
        assert column.max() <= most
    assert np.std(sizes, axis=0)[[0, 2]].min() > 0.01


def test_every_class_is_there_and_drawn_from_the_seed(scene: Scene) -> None:
    again = make_scene(np.random.SeedSequence(11), 1.0, 0.1)
    other = make_scene(np.random.SeedSequence(12), 1.0, 0.1)
    assert {a.class_name for a in scene.actors} == set(CLASSES)
    np.testing.assert_array_equal(scene.table.params, again.table.params)
    np.testing.assert_array_equal(scene.boxes(0.3), again.boxes(0.3))
    assert scene.table.params.shape != other.table.params.shape


def test_ego_pose_is_rigid_and_lies_on_the_ground(scene: Scene) -> None:
    for time_s in (-0.1, 0.0, 0.7):
        pose = scene.ego_pose(time_s)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
        assert pose[2, 3] == pytest.approx(float(scene.terrain.smooth_elevation(*pose[:2, 3])))
        assert pose[2, 2] > 0.995


def test_velocity_is_the_motion_over_ground_in_ego_axes(scene: Scene) -> None:
    time_s, dt = 0.5, 0.1
    boxes = scene.boxes(time_s)
    before, after = scene.actor_poses(time_s - dt / 2), scene.actor_poses(time_s + dt / 2)
    world = (after[:, :2] - before[:, :2]) / dt
    pose = scene.ego_pose(time_s)
    expected = np.column_stack([world, np.zeros(len(world))]) @ pose[:3, :3]
    np.testing.assert_allclose(boxes[:, 7:], expected[:, :2], atol=1e-9)
    speed = np.hypot(boxes[:, 7], boxes[:, 8])
    assert (speed > 1.0).any()
    assert (speed < 1e-9).any()
    # Vehicles that move do so along their length.
    for box, actor in zip(boxes, scene.actors, strict=True):
        if actor.class_name in ("car", "truck", "bus") and np.hypot(*box[7:]) > 1.0:
            assert abs(math.remainder(math.atan2(box[8], box[7]) - box[6], 2 * math.pi)) < 0.1


def test_boxes_hold_their_primitives(scene: Scene) -> None:
    """Corners of every primitive's bounds lie in the actor's box (up to the ego vehicle's pitch and roll)."""
    pose, boxes, poses = scene.ego_pose(0.0), scene.boxes(0.0), scene.actor_poses(0.0)
    for actor, box, (x, y, z, yaw) in zip(scene.actors, boxes, poses, strict=True):
        bounds = np.array(actor.shape.bounds)
        corners = np.array([[b[i], b[j], b[k]] for b in bounds for i in (0, 3) for j in (1, 4) for k in (2, 5)])
        c, s = math.cos(yaw), math.sin(yaw)
        world = corners @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + [x, y, z]
        ego = (world - pose[:3, 3]) @ pose[:3, :3]
        d = ego - box[:3]
        c, s = math.cos(box[6]), math.sin(box[6])
        local = np.abs(np.column_stack([c * d[:, 0] + s * d[:, 1], c * d[:, 1] - s * d[:, 0], d[:, 2]]))
        tilt = math.acos(min(1.0, pose[2, 2]))
        slack = tilt * np.hypot(box[3], box[5]) / 2 + 1e-9
        assert (local <= box[3:6] / 2 + slack).all()
        # And the box is tight: some corner comes within the margin of each face.
        assert (local.max(axis=0) >= box[3:6] / 2 - BOX_MARGIN_M - slack).all()


def test_no_two_actors_share_ground(scene: Scene) -> None:
    from shapely import Polygon

    from datasets.synthetic.preview import corners_bev

    outlines = [Polygon(corners_bev(b)) for b, a in zip(scene.boxes(0.0), scene.actors, strict=True) if not a.ignored]
    for i, a in enumerate(outlines):
        for b in outlines[:i]:
            assert a.intersection(b).area < 0.25 * min(a.area, b.area)


def test_sweep_has_the_sensors_geometry(scene: Scene) -> None:
    lidar = Lidar.with_beams(64)
    points = measure(lidar, scene, trace(lidar, scene, 0.0, 5), np.random.default_rng(1))
    assert points.dtype == np.float32
    assert 50_000 < len(points) < 64 * 1800
    local = points[:, :3].astype(float) - [0.9, 0.0, 2.0]
    distance = np.linalg.norm(local, axis=1)
    assert distance.min() >= 1.49
    assert distance.max() < 120.2
    # Each point lies on its beam's cone: 1e-4 rad is float32 rounding at short range.
    elevation = np.arcsin(local[:, 2] / distance)
    np.testing.assert_allclose(elevation, lidar.elevations[points[:, 4].astype(int)], atol=1e-4)
    # Ranges come in the unit's steps.
    np.testing.assert_allclose(distance / 0.004, np.round(distance / 0.004), atol=0.01)
    assert set(np.unique(points[:, 3])) <= set(range(256))
    # The ground near the vehicle is near z = 0 of base_link.
    near = np.hypot(points[:, 0], points[:, 1]) < 6.0
    assert abs(np.median(points[near, 2])) < 0.2


def test_noise_has_the_stated_sigma(scene: Scene) -> None:
    lidar = Lidar.with_beams(64)
    returns = trace(lidar, scene, 0.0, 5)
    a = measure(lidar, scene, returns, np.random.default_rng(1))
    b = measure(lidar, scene, returns, np.random.default_rng(2))

    def by_ray(points: NDArray[np.float32]) -> dict[tuple[int, int], float]:
        local = points[:, :3].astype(float) - [0.9, 0.0, 2.0]
        ring = points[:, 4].astype(int)
        azimuth = np.arctan2(local[:, 1], local[:, 0]) - lidar.azimuth_offsets[ring]
        column = np.round(azimuth / (2 * np.pi) * 1800).astype(int) % 1800
        return dict(zip(zip(ring, column, strict=True), np.linalg.norm(local, axis=1), strict=True))

    first, second = by_ray(a), by_ray(b)
    common = [k for k in first if k in second and returns.hit[k[0], k[1]] >= 0]
    difference = np.array([first[k] - second[k] for k in common])
    # The difference of two measurements spreads sqrt(2) times as wide as one; 4 mm steps add next to nothing.
    assert len(common) > 5000
    assert difference.std() / math.sqrt(2) == pytest.approx(0.02, rel=0.05)
    assert abs(difference.mean()) < 0.001


def test_a_shadow_lies_behind_a_wall(scene: Scene) -> None:
    lidar = Lidar.with_beams(64)
    pose = scene.ego_pose(0.0)
    wall = Shape()
    wall.box((-0.2, 0.2), (-3.0, 3.0), (-2.0, 8.0), METAL)
    spot = pose[:3, 3] + 8.0 * pose[:3, 0]
    yaw = math.atan2(pose[1, 0], pose[0, 0])
    shapes = [a.shape for a in scene.actors]
    table = PrimitiveTable.from_shapes([*shapes, wall])
    from dataclasses import replace

    walled = replace(scene, table=table, fixed_poses=np.array([[*spot, yaw]]))
    points = measure(lidar, walled, trace(lidar, walled, 0.0, 5), np.random.default_rng(1))
    bearing = np.arctan2(points[:, 1], points[:, 0] - 0.9)
    behind = (points[:, 0] > 8.6) & (np.abs(bearing) < math.atan2(2.9, 8.2 - 0.9))
    assert behind.sum() == 0
    face = (np.abs(points[:, 0] - 7.8) < 0.15) & (np.abs(points[:, 1]) < 3.0)
    assert face.sum() > 1000


def test_road_pose_is_continuous_and_parallel() -> None:
    road = make_road((0.0, 0.0), 0.3, 200.0, 1, (False, False), [(50.0, 1 / 40.0), (110.0, -1 / 60.0)])
    s = np.arange(1.0, 195.0, 0.05)
    poses = np.array([road.pose(v, 2.0) for v in s.tolist()])
    step = np.hypot(*np.diff(poses[:, :2], axis=0).T)
    # 2 m to the left, arc length changes by 2 x curvature at most; where the curvature eases by a tenth of its change
    # a metre (at most 1/40 + 1/60), headings of neighbouring pieces differ by half of that step.
    jump = 2.0 * 0.5 * 0.1 * (1 / 40 + 1 / 60)
    assert step.min() > 0.05 * (1 - 2 / 40) - jump
    assert step.max() < 0.05 * (1 + 2 / 60) + jump
    turned = np.abs(np.vectorize(math.remainder)(np.diff(poses[:, 2]), 2 * math.pi))
    assert turned.max() < 0.05 / 40 + 0.05 * (1 / 40 + 1 / 60)


def test_motions() -> None:
    road = make_road((0.0, 0.0), 0.0, 100.0, 1, (False, False), [])
    assert AlongRoad(road, 50.0, 1.5, -1, 4.0).pose(0.5) == pytest.approx((48.0, 1.5, math.pi))
    assert Straight(1.0, 2.0, math.pi / 2, 2.0).pose(0.5) == pytest.approx((1.0, 3.0, math.pi / 2))
    assert Parked(1.0, 2.0, 3.0).pose(9.0) == (1.0, 2.0, 3.0)


def test_ground_is_given_once() -> None:
    occupancy = Occupancy(2.0)
    assert occupancy.claim(Parked(0.0, 0.0, 0.0), 4.0, 2.0)
    assert not occupancy.claim(Parked(2.0, 0.5, 1.0), 4.0, 2.0)
    # Free now, but it will have driven into the parked one by the end.
    assert not occupancy.claim(Straight(20.0, 0.0, math.pi, 10.0), 4.0, 2.0)
    assert occupancy.claim(Straight(20.0, 6.0, math.pi, 10.0), 4.0, 2.0)


def test_centering_moves_cylinders_at_both_ends() -> None:
    shape = Shape()
    shape.cylinder((5.0, 5.0, 1.0), (7.0, 5.0, 1.0), 0.5, METAL)
    moved = shape.centered()
    assert moved.kinds == [CYLINDER]
    np.testing.assert_allclose(moved.params[0][:7], [-1.0, 0.0, 0.5, 1.0, 0.0, 0.5, 0.5])


def test_varied_riders_are_drawn_where_they_are_asked_for(scene: Scene) -> None:
    def wheels(of: Scene) -> set[float]:
        """Opacities of what most beams pass on a bicycle with a rider: its spokes."""
        riders = [a.shape for a in of.actors if a.class_name == "bicycle" and not a.ignored]
        assert len(riders) > 3
        return {m.opacity for shape in riders for m in shape.materials if m.opacity < 0.4}

    varied = [make_scene(np.random.SeedSequence(11), 1.0, 0.1, riders="varied") for _ in range(2)]
    assert wheels(scene) == {0.35}
    assert len(wheels(varied[0])) > 3
    np.testing.assert_array_equal(varied[0].table.params, varied[1].table.params)
    # A lean of 5 to 58 degrees: heads from right above the hip to far ahead of it.
    ahead = []
    for seed in range(100):
        shape = make_varied_rider(np.random.default_rng(seed))
        tops = [bound[5] for bound in shape.bounds]
        head = shape.bounds[int(np.argmax(tops))]
        ahead.append((head[0] + head[3]) / 2)
    assert max(ahead) - min(ahead) > 0.4
