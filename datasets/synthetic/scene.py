"""One scene: ground, road users, scenery and the ego vehicle's way through it, all drawn from one seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.hinterland import add_hinterland
from datasets.synthetic.motion import Actor, AlongRoad, Motion, Occupancy
from datasets.synthetic.primitives import LEAVES, PrimitiveTable
from datasets.synthetic.riders import DEFAULT_RIDERS
from datasets.synthetic.roads import LANE_WIDTH_M, Road, make_road
from datasets.synthetic.scenery import Scenery
from datasets.synthetic.surroundings import STREETS, Surroundings
from datasets.synthetic.terrain import EDGE_LINE_M, Terrain, make_terrain
from datasets.synthetic.traffic import Traffic

Array = NDArray[np.float64]

CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")
BOX_MARGIN_M = 0.03
"""Added to every face of a box: a tight box would lose half of the points on its faces to range noise."""

_EGO_START_S = 210.0


@dataclass(frozen=True)
class Scene:
    """A world and the ego vehicle's motion.

    Attributes:
        actors: labelled objects; body `i` of `table` is `actors[i]`, scenery follows.
        fixed_poses: (scenery, 4) `[x, y, z, yaw]`.
        brightness: of the ground, as a multiple of the usual one.
    """

    terrain: Terrain
    roads: tuple[Road, ...]
    actors: tuple[Actor, ...]
    table: PrimitiveTable
    fixed_poses: Array
    ego: Motion
    brightness: float = 1.0

    def ego_pose(self, time_s: float) -> Array:
        """`base_link` to world, (4, 4): on the ground, pitched and rolled with it."""
        x, y, yaw = self.ego.pose(time_s)
        z = float(self.terrain.smooth_elevation(x, y))
        reach = 1.5  # the wheels even out what is shorter than the vehicle
        slope_x = float(self.terrain.smooth_elevation(x + reach, y) - self.terrain.smooth_elevation(x - reach, y))
        slope_y = float(self.terrain.smooth_elevation(x, y + reach) - self.terrain.smooth_elevation(x, y - reach))
        up = np.array([-slope_x, -slope_y, 2 * reach])
        up /= np.linalg.norm(up)
        forward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
        forward -= (forward @ up) * up
        forward /= np.linalg.norm(forward)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = forward, np.cross(up, forward), up
        pose[:3, 3] = x, y, z
        return pose

    def actor_poses(self, time_s: float) -> Array:
        """(actors, 4) `[x, y, z, yaw]` in the world, z at the feet or wheels."""
        flat = np.array([a.motion.pose(time_s) for a in self.actors], dtype=float).reshape(-1, 3)
        z = self.terrain.elevation(flat[:, 0], flat[:, 1])
        return np.column_stack([flat[:, :2], z, flat[:, 2]])

    def body_poses(self, time_s: float) -> Array:
        """(bodies, 4): actors, then scenery."""
        return np.concatenate([self.actor_poses(time_s), self.fixed_poses])

    def boxes(self, time_s: float) -> Array:
        """(actors, 9) `[x, y, z centre, l, w, h, yaw, vx, vy]` in `base_link`.

        The velocity is the object's motion over ground (the ego vehicle's motion is not subtracted), expressed
        along `base_link`'s axes.
        """
        ego = self.ego_pose(time_s)
        ego_yaw = math.atan2(ego[1, 0], ego[0, 0])
        out = np.zeros((len(self.actors), 9))
        for row, actor, (x, y, z, yaw) in zip(out, self.actors, self.actor_poses(time_s), strict=True):
            low, high = actor.shape.extent()
            size = high - low + 2 * BOX_MARGIN_M
            center = np.array([x, y, z + (high[2] + low[2]) / 2])
            row[:3] = ego[:3, :3].T @ (center - ego[:3, 3])
            row[3:6] = size
            row[6] = math.remainder(yaw - ego_yaw, 2.0 * math.pi)
            row[7:] = (ego[:3, :3].T @ np.array([*actor.velocity(time_s), 0.0]))[:2]
        return out

    def ground_texture(self, spots: Array) -> tuple[Array, Array]:
        """Reflectivity and roughness (m) of the ground at `spots (n, 3)`: asphalt, marking, pavement or grass."""
        edge = self.terrain.edge_distance(spots[:, 0], spots[:, 1])
        reflectivity = np.where(
            edge < 0.0, 0.085, np.where(edge < self.terrain.sidewalk, 0.16, LEAVES.reflectivity * 0.8)
        )
        roughness = np.where(edge < 0.0, 0.003, np.where(edge < self.terrain.sidewalk, 0.004, 0.03))
        marking = (edge > EDGE_LINE_M[0]) & (edge < EDGE_LINE_M[1])
        # Patches of older and newer surface, a few metres across.
        patch = np.sin(0.7 * spots[:, 0] + 1.3 * np.sin(0.31 * spots[:, 1])) * np.sin(0.53 * spots[:, 1])
        return np.where(marking, 0.75, self.brightness * reflectivity * (1.0 + 0.2 * patch)), roughness


def _make_roads(rng: np.random.Generator) -> list[Road]:
    length = 430.0
    lanes = int(rng.choice([1, 2], p=[0.55, 0.45]))
    parking = (bool(rng.random() < 0.5), bool(rng.random() < 0.5))
    bends: list[tuple[float, float]] = []
    if rng.random() < 0.6:
        for begin in (60.0, 170.0, 260.0, 330.0):
            radius = float(rng.uniform(60.0, 300.0)) * float(rng.choice([-1.0, 1.0]))
            bends.append((begin + float(rng.uniform(0.0, 30.0)), 1.0 / radius if rng.random() < 0.7 else 0.0))
    main = make_road((0.0, 0.0), float(rng.uniform(-math.pi, math.pi)), length, lanes, parking, bends)
    roads = [main]
    for gap in rng.permutation([-70.0, 25.0, 80.0])[: int(rng.integers(0, 3))]:
        x, y, heading = main.pose(_EGO_START_S + float(gap) + float(rng.uniform(-10.0, 10.0)))
        angle = heading + float(rng.uniform(1.1, 2.0)) * float(rng.choice([-1.0, 1.0]))
        side = 170.0
        start = (x - side * math.cos(angle), y - side * math.sin(angle))
        strips = (bool(rng.random() < 0.4), bool(rng.random() < 0.4))
        roads.append(make_road(start, angle, 2 * side, int(rng.choice([1, 2], p=[0.7, 0.3])), strips, []))
    return roads


def make_scene(
    seed: np.random.SeedSequence,
    duration_s: float,
    lead_in_s: float = 0.0,
    riders: str = DEFAULT_RIDERS,
    place: Surroundings = STREETS,
) -> Scene:
    """Draw a scene that lasts from `-lead_in_s` to `duration_s`; the same seed gives the same scene.

    Args:
        riders: one of `datasets.synthetic.riders.RIDERS`.
        place: what kind of streets, and what stands beyond them.
    """
    rng = np.random.default_rng(seed)
    roads = _make_roads(rng)
    main = roads[0]
    yards: list[tuple[Array, tuple[float, float, float], tuple[float, float], tuple[float, float, float]]] = []
    for kind, chance in (("cars", 0.45), ("heavy", 0.5)):
        if rng.random() > chance:
            continue
        left = bool(rng.random() < 0.5)
        s = _EGO_START_S + float(rng.choice([-40.0, 15.0, 48.0])) + float(rng.uniform(-8.0, 8.0))
        size = (float(rng.uniform(22.0, 36.0)), 26.0 if kind == "heavy" else float(rng.choice([15.0, 26.0])))
        lateral = main.half_width(left) - 0.5 + size[1] / 2
        x, y, heading = main.pose(s, lateral if left else -lateral)
        u = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array(size) / 2
        turn = np.array([[math.cos(heading), -math.sin(heading)], [math.sin(heading), math.cos(heading)]])
        shares = (0.12, 0.44, 0.44) if kind == "heavy" else (0.92, 0.06, 0.02)
        yards.append((u @ turn.T + [x, y], (x, y, heading), size, shares))
    ego_speed = 0.0 if rng.random() < 0.15 else float(rng.uniform(2.0, 14.0))
    lane = int(rng.integers(0, main.lanes))
    ego = AlongRoad(main, _EGO_START_S, (lane + 0.5) * LANE_WIDTH_M, 1, ego_speed)
    terrain = make_terrain(
        rng, roads, [y[0] for y in yards], ego.pose(duration_s / 2)[:2], place.half_size_m, place.hills
    )

    occupancy = Occupancy(duration_s + lead_in_s)
    occupancy.claim(ego, 5.0, 2.0, clearance=1.0)
    traffic = Traffic(rng, terrain, occupancy, riders)
    for _, center, size, shares in yards:
        traffic.fill_yard(center, size, shares)
    main_span = (_EGO_START_S + 5.0 - place.reach_m, _EGO_START_S + 5.0 + place.reach_m)
    for i, road in enumerate(roads):
        span = main_span if i == 0 else (35.0, 305.0)
        near = _EGO_START_S if i == 0 else road.length / 2
        if rng.random() < 0.4:
            traffic.add_bicycle_rack(road, near + float(rng.uniform(-30.0, 30.0)), bool(rng.random() < 0.5))
        groups = int(rng.integers(9, 18)) if i == 0 else int(rng.integers(3, 8))
        traffic.add_pedestrians(road, round(groups * place.users), near)
        cyclists = int(rng.integers(7, 14)) if i == 0 else int(rng.integers(1, 4))
        traffic.add_cyclists(road, round(cyclists * place.users), near)
        speed = ego_speed if i == 0 else float(rng.choice([0.0, rng.uniform(3.0, 11.0)]))
        traffic.fill_lanes(road, speed, float(rng.uniform(*place.gap_m)), span, place.traffic)
        traffic.fill_parking_strips(road, float(rng.uniform(*place.parked)), span)
    scenery = Scenery(rng, terrain, occupancy, place)
    for i, road in enumerate(roads):
        span = main_span if i == 0 else (35.0, 305.0)
        scenery.line_with_furniture(road, span)
        scenery.line_with_buildings(road, span, float(rng.uniform(*place.built)))
    add_hinterland(scenery, place)
    bodies = scenery.bodies
    base = terrain.elevation([b[1] for b in bodies], [b[2] for b in bodies])
    fixed = np.array([[x, y, z, yaw] for (_, x, y, yaw), z in zip(bodies, base, strict=True)]).reshape(-1, 4)
    table = PrimitiveTable.from_shapes([a.shape for a in traffic.actors] + [b[0] for b in bodies])
    brightness = float(rng.uniform(*place.ground))
    return Scene(terrain, tuple(roads), tuple(traffic.actors), table, fixed, ego, brightness)
