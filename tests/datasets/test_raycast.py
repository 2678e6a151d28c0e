from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial import ConvexHull
from shapely import Polygon, contains_xy

from datasets.synthetic import raycast
from datasets.synthetic.primitives import LEAVES, METAL, PrimitiveTable, Shape
from datasets.synthetic.roads import make_road
from datasets.synthetic.terrain import make_terrain

MISS = 1e9
Array = NDArray[np.float64]


def rays(count: int, seed: int) -> tuple[Array, Array]:
    """Origins on a sphere of radius 6 and unit directions towards points near its centre."""
    rng = np.random.default_rng(seed)
    origin = rng.normal(size=(count, 3))
    origin *= 6.0 / np.linalg.norm(origin, axis=1, keepdims=True)
    direction = rng.normal(scale=0.8, size=(count, 3)) - origin
    return origin, direction / np.linalg.norm(direction, axis=1, keepdims=True)


def one_primitive(shape: Shape) -> Array:
    assert len(shape.kinds) == 1
    return np.array(shape.params[0])


def test_box_hit_by_hand() -> None:
    shape = Shape()
    shape.box((-1.0, 1.0), (-2.0, 2.0), (0.0, 1.0), METAL)
    p = one_primitive(shape)
    # Along +x at half height: the face x = -1 is 9 m away and stands upright.
    assert raycast.intersect_tapered_box(p, -10.0, 0.0, 0.5, 1.0, 0.0, 0.0) == pytest.approx((9.0, 1.0))
    # 45 degrees down onto the lid at z = 1.
    c = math.sqrt(0.5)
    assert raycast.intersect_tapered_box(p, 0.0, 0.0, 3.0, c, 0.0, -c)[0] == MISS  # passes x = 2 at z = 1
    assert raycast.intersect_tapered_box(p, -1.5, 0.0, 3.0, c, 0.0, -c) == pytest.approx((2.0 / c, c))
    assert raycast.intersect_tapered_box(p, -10.0, 2.001, 0.5, 1.0, 0.0, 0.0)[0] == MISS
    assert raycast.intersect_tapered_box(p, 10.0, 0.0, 0.5, 1.0, 0.0, 0.0)[0] == MISS  # behind the ray


def test_tapered_box_equals_its_convex_hull() -> None:
    shape = Shape()
    shape.box((-1.2, 0.9), (-0.7, 0.7), (-0.4, 0.8), METAL, front=0.5, rear=0.3, side=0.2)
    p = one_primitive(shape)
    bottom = [(x, y, -0.4) for x in (-1.2, 0.9) for y in (-0.7, 0.7)]
    top = [(x, y, 0.8) for x in (-1.2 + 0.3, 0.9 - 0.5) for y in (-0.5, 0.5)]
    planes = ConvexHull(np.array(bottom + top)).equations
    origins, directions = rays(2000, 0)
    hits = 0
    for o, d in zip(origins, directions, strict=True):
        rate, gap = planes[:, :3] @ d, -(planes[:, :3] @ o + planes[:, 3])
        enter = (gap[rate < 0] / rate[rate < 0]).max()
        leave = (gap[rate > 0] / rate[rate > 0]).min()
        t, cosine = raycast.intersect_tapered_box(p, *o, *d)
        if enter <= leave:
            hits += 1
            face = np.flatnonzero(rate < 0)[(gap[rate < 0] / rate[rate < 0]).argmax()]
            assert t == pytest.approx(enter, abs=1e-9)
            assert cosine == pytest.approx(-rate[face], abs=1e-9)
        else:
            assert t == MISS
    assert 500 < hits < 1900


def test_cylinder_by_hand() -> None:
    shape = Shape()
    shape.cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 3.0), 0.5, METAL)
    p = one_primitive(shape)
    assert raycast.intersect_cylinder(p, -4.0, 0.0, 1.0, 1.0, 0.0, 0.0) == pytest.approx((3.5, 1.0))
    # At 0.3 beside the axis the surface lies sqrt(0.25 - 0.09) = 0.4 in front of it and the cosine is 0.4 / 0.5.
    assert raycast.intersect_cylinder(p, -4.0, 0.3, 1.0, 1.0, 0.0, 0.0) == pytest.approx((3.6, 0.8))
    assert raycast.intersect_cylinder(p, 0.2, 0.0, 5.0, 0.0, 0.0, -1.0) == pytest.approx((2.0, 1.0))  # lid
    assert raycast.intersect_cylinder(p, -4.0, 0.0, 3.01, 1.0, 0.0, 0.0)[0] == MISS
    assert raycast.intersect_cylinder(p, -4.0, 0.51, 1.0, 1.0, 0.0, 0.0)[0] == MISS


def test_cylinder_of_any_axis_against_fine_steps() -> None:
    a, b, radius = np.array([-0.5, 0.4, -0.9]), np.array([0.8, -0.3, 0.7]), 0.6
    shape = Shape()
    shape.cylinder(tuple(a), tuple(b), radius, METAL)
    p = one_primitive(shape)
    axis = (b - a) / np.linalg.norm(b - a)
    steps = np.arange(0.0, 12.0, 1e-3)
    origins, directions = rays(300, 1)
    hits = 0
    for o, d in zip(origins, directions, strict=True):
        q = o + steps[:, None] * d - a
        s = q @ axis
        inside = (s >= 0) & (s <= np.linalg.norm(b - a)) & (np.linalg.norm(q - s[:, None] * axis, axis=1) <= radius)
        t, _ = raycast.intersect_cylinder(p, *o, *d)
        if inside.sum() > 2:
            hits += 1
            assert t == pytest.approx(steps[inside.argmax()], abs=1.1e-3)
        elif not inside.any():
            # A graze shorter than a step may escape the steps.
            exact = t >= MISS or np.linalg.norm(np.cross(o + (t + 5e-4) * d - a, axis)) > radius - 1e-3
            assert exact
    assert hits > 80
    # The bounding box of a tilted cylinder is exact: compare with many points of its end circles.
    u = np.cross(axis, [0.0, 0.0, 1.0])
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    angle = np.linspace(0, 2 * np.pi, 20001)[:, None]
    rim = np.concatenate([c + radius * (np.cos(angle) * u + np.sin(angle) * v) for c in (a, b)])
    low, high = shape.extent()
    np.testing.assert_allclose([low, high], [rim.min(axis=0), rim.max(axis=0)], atol=1e-6)


def test_ellipsoid_against_polynomial_roots() -> None:
    center, radii = np.array([0.2, -0.1, 0.3]), np.array([1.4, 0.6, 0.9])
    shape = Shape()
    shape.ellipsoid(tuple(center), tuple(radii), METAL)
    p = one_primitive(shape)
    hits = 0
    for o, d in zip(*rays(500, 2), strict=True):
        u, v = (o - center) / radii, d / radii
        roots = np.roots([v @ v, 2 * u @ v, u @ u - 1.0])
        t, cosine = raycast.intersect_ellipsoid(p, *o, *d)
        if np.isreal(roots).all():
            hits += 1
            assert t == pytest.approx(roots.real.min(), abs=1e-8)
            normal = (o + t * d - center) / radii**2
            assert cosine == pytest.approx(-(normal @ d) / np.linalg.norm(normal), abs=1e-8)
        else:
            assert t == MISS
    assert hits > 100


def test_hash_is_uniform_and_depends_on_every_argument() -> None:
    draws = np.array([raycast.hash_uniform(np.uint64(7), i, j) for i in range(60) for j in range(100)])
    assert stats.kstest(draws, "uniform").pvalue > 0.01
    assert draws.min() > 0.0
    assert draws.max() < 1.0
    assert len(np.unique(draws)) == len(draws)
    assert raycast.hash_uniform(np.uint64(7), 1, 2) != raycast.hash_uniform(np.uint64(8), 1, 2)
    assert raycast.hash_uniform(np.uint64(7), 1, 2) != raycast.hash_uniform(np.uint64(7), 2, 1)


def test_foliage_stops_the_share_of_beams_its_density_says() -> None:
    shape = Shape()
    density, chord = 0.8, 2.0
    shape.foliage((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), density, LEAVES)
    p = one_primitive(shape)
    draws = (np.arange(5000) + 0.5) / 5000
    hits = [raycast.intersect_foliage(p, u, -5.0, 0.0, 0.0, 1.0, 0.0, 0.0)[0] for u in draws]
    stopped = [t for t in hits if t < MISS]
    assert len(stopped) / 5000 == pytest.approx(1.0 - math.exp(-density * chord), abs=1e-3)
    assert min(stopped) >= 4.0
    assert max(stopped) <= 6.0


def small_lidar() -> tuple[Array, Array, Array, Array, Array]:
    """(elevations, offsets, rotation, origin, world directions) of a tilted unit with 12 beams and 90 columns."""
    elevations = np.radians(np.linspace(-30.0, 25.0, 12))
    offsets = np.radians(np.resize([0.0, 1.5, -2.0], 12))
    yaw, pitch, roll = 0.7, 0.03, -0.04
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    rotation = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1.0]])
        @ np.array([[cp, 0, sp], [0, 1.0, 0], [-sp, 0, cp]])
        @ np.array([[1.0, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    azimuth = 2 * np.pi * np.arange(90) / 90 + offsets[:, None]
    level = np.cos(elevations)[:, None]
    up = np.broadcast_to(np.sin(elevations)[:, None], azimuth.shape)
    local = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), up], axis=-1)
    return elevations, offsets, rotation, np.array([3.0, -1.0, 2.0]), local @ rotation.T


def test_culling_loses_no_hit() -> None:
    rng = np.random.default_rng(5)
    shapes, poses = [], []
    for i in range(60):
        shape = Shape()
        size = rng.uniform(0.2, 4.0, size=3)
        if i % 3 == 0:
            shape.box((-size[0], size[0]), (-size[1], size[1]), (-0.5, size[2]), METAL, front=0.1)
        elif i % 3 == 1:
            shape.cylinder(tuple(rng.normal(size=3)), tuple(2 * rng.normal(size=3)), 0.3, METAL)
        else:
            shape.ellipsoid((0.0, 0.0, 0.5), tuple(size / 2), METAL)
        shapes.append(shape)
        poses.append([*rng.uniform(-20, 20, size=2), rng.uniform(-1, 1), rng.uniform(-np.pi, np.pi)])
    # One straddles the sensor's rear, where azimuth wraps, one stands above it.
    poses[0][:2], poses[3][:2] = [2.2, -6.0], [3.0, -1.0]
    table, bodies = PrimitiveTable.from_shapes(shapes), np.array(poses)
    bodies[3, 2] = 6.0
    elevations, offsets, rotation, origin, directions = small_lidar()
    depth = np.full((12, 90), MISS)
    hit = np.full((12, 90), raycast.NO_HIT)
    cosine = np.zeros((12, 90))
    raycast.cast_primitives(
        table.kind, table.params, table.bounds, table.body, table.opacity, bodies, origin, rotation, directions,
        elevations, offsets, 120.0, np.uint64(1), depth, hit, cosine,
    )  # fmt: skip
    tests = {0: raycast.intersect_tapered_box, 1: raycast.intersect_ellipsoid, 2: raycast.intersect_cylinder}
    brute = np.full((12, 90), MISS)
    for kind, params, body in zip(table.kind, table.params, table.body, strict=True):
        x, y, z, yaw = bodies[body]
        turn = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        o, d = turn @ (origin - [x, y, z]), directions @ turn.T
        for b in range(12):
            for c in range(90):
                brute[b, c] = min(brute[b, c], tests[int(kind)](params, *o, *d[b, c])[0])
    assert (brute < MISS).mean() > 0.2
    np.testing.assert_allclose(depth, brute, atol=1e-9)
    assert ((hit == raycast.NO_HIT) == (brute == MISS)).all()


def test_ground_of_a_slope_and_a_kerb() -> None:
    rng = np.random.default_rng(3)
    road = make_road((-60.0, 0.0), 0.0, 120.0, lanes=1, parking=(False, True), bends=[(50.0, 0.01)])
    terrain = make_terrain(rng, [road], [], (0.0, 0.0), 50.0)
    *_, origin, directions = small_lidar()
    origin[2] += float(terrain.smooth_elevation(origin[0], origin[1]))
    depth = np.full((12, 90), MISS)
    hit = np.full((12, 90), raycast.NO_HIT)
    cosine = np.zeros((12, 90))
    raycast.cast_ground(
        terrain.height, terrain.kerb_distance, terrain.x0, terrain.y0, terrain.cell, terrain.kerb, terrain.kerb_ramp,
        terrain.max_slope, origin, directions, 45.0, depth, hit, cosine,
    )  # fmt: skip
    steps = np.arange(0.0, 45.0, 0.004)
    worst = 0.0
    for b in range(12):
        for c in range(0, 90, 3):
            path = origin + steps[:, None] * directions[b, c]
            below = path[:, 2] <= terrain.elevation(path[:, 0], path[:, 1])
            if below.any():
                worst = max(worst, abs(depth[b, c] - steps[below.argmax()]))
                assert hit[b, c] == raycast.GROUND
            else:
                assert depth[b, c] >= 44.99
    assert worst < 0.02
    on_ground = depth < 45.0
    spots = origin + depth[on_ground][:, None] * directions[on_ground]
    np.testing.assert_allclose(spots[:, 2], terrain.elevation(spots[:, 0], spots[:, 1]), atol=2e-3)


def test_road_edges_are_distances() -> None:
    road = make_road((-30.0, 0.0), 0.0, 60.0, lanes=2, parking=(True, False), bends=[])
    axis = np.arange(-20.0, 20.5, 0.5).astype(np.float64)
    edge = road.edge_distance(axis, axis, reach=30.0)
    # Straight along x: half widths 2 x 3.3 + 0.4 m, and 2.4 m more of parking on the left.
    expected = np.maximum(axis - 9.4, -axis - 7.0)
    np.testing.assert_allclose(edge, np.broadcast_to(expected[:, None], edge.shape), atol=1e-9)


def test_points_in_boxes_against_shapely() -> None:
    rng = np.random.default_rng(8)
    points = rng.uniform(-8, 8, size=(4000, 5)).astype(np.float32)
    boxes = np.column_stack(
        [rng.uniform(-6, 6, size=(20, 3)), rng.uniform(0.5, 6, size=(20, 3)), rng.uniform(-4, 4, size=20)]
    )
    counts = raycast.count_points_in_boxes(points, boxes)
    assert counts.sum() > 300
    for box, count in zip(boxes, counts, strict=True):
        half_l, half_w, yaw = box[3] / 2, box[4] / 2, box[6]
        local = np.array([[half_l, half_w], [-half_l, half_w], [-half_l, -half_w], [half_l, -half_w]])
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        polygon = Polygon(local @ turn.T + box[:2])
        inside = contains_xy(polygon, points[:, 0], points[:, 1]) & (abs(points[:, 2] - box[2]) <= box[5] / 2)
        assert count == inside.sum()
