"""Everything that is no road user: buildings, walls, trees, and street furniture that looks a little like one."""

from __future__ import annotations

import math

import numpy as np

from datasets.synthetic.motion import Occupancy, Parked
from datasets.synthetic.primitives import BARK, CONCRETE, GLASS, LEAVES, METAL, WIRE, Material, Shape
from datasets.synthetic.roads import Road
from datasets.synthetic.surroundings import STREETS, Surroundings
from datasets.synthetic.terrain import Terrain

Body = tuple[Shape, float, float, float]
"""A shape with its x, y and yaw in the world."""


def make_building(rng: np.random.Generator, front: float, depth: float) -> Shape:
    """A block with windows, bays, a recessed door and perhaps a set-back upper floor; the street lies towards -y."""
    height = float(rng.choice([rng.uniform(4.0, 7.5), rng.uniform(8.0, 24.0)]))
    wall = Material(float(rng.uniform(0.15, 0.55)))
    shape = Shape()
    shape.box((-front / 2, front / 2), (0.0, depth), (-1.0, height), wall)
    if rng.random() < 0.6:
        x = -front / 2 + 1.0
        while x < front / 2 - 2.0:
            width = float(rng.uniform(0.8, 2.4))
            out = float(rng.uniform(0.08, 0.9))
            if rng.random() < 0.45:
                z = 0.0 if rng.random() < 0.5 else 2.8
                shape.box((x, x + width), (-out, 0.01), (z, min(height, z + float(rng.uniform(1.0, 6.0)))), wall)
            x += width + float(rng.uniform(0.5, 3.0))
    if rng.random() < 0.35:  # canopy
        shape.box((-front * 0.4, front * 0.3), (-1.4, 0.01), (2.9, 3.05), METAL)
    for _ in range(int(front // 4)):  # shop windows: part of the light goes astray
        x = float(rng.uniform(-front / 2 + 1.0, front / 2 - 2.5))
        shape.box((x, x + 2.0), (-0.03, 0.01), (0.6, 2.4), Material(0.06, 0.7))
    return shape


def make_tree(rng: np.random.Generator, size: float = 1.0, leaves: Material = LEAVES) -> Shape:
    """A trunk and a crown of leaves, `size` times the usual; sometimes a young tree between stakes."""
    shape = Shape()
    trunk = float(rng.uniform(1.4, 3.0)) * size
    radius = float(rng.uniform(0.06, 0.25))
    shape.cylinder((0.0, 0.0, -0.2), (float(rng.normal(0, 0.1)), float(rng.normal(0, 0.1)), trunk + 0.8), radius, BARK)
    crown = float(rng.uniform(1.0, 2.8)) * size
    for _ in range(int(rng.integers(2, 5))):
        center = (
            float(rng.normal(0, crown * 0.35)),
            float(rng.normal(0, crown * 0.35)),
            trunk + crown * float(rng.uniform(0.5, 1.3)),
        )
        radii = (
            crown * float(rng.uniform(0.6, 1.0)),
            crown * float(rng.uniform(0.6, 1.0)),
            crown * float(rng.uniform(0.5, 0.9)),
        )
        shape.foliage(center, radii, float(rng.uniform(0.5, 1.8)), leaves)
    return shape


def make_bush(rng: np.random.Generator, leaves: Material = LEAVES) -> Shape:
    """A round bush or a piece of hedge."""
    shape = Shape()
    if rng.random() < 0.5:
        r = float(rng.uniform(0.3, 0.9))
        radii = (r, r * float(rng.uniform(0.7, 1.1)), r * float(rng.uniform(0.8, 1.3)))
        shape.foliage((0.0, 0.0, r * 0.8), radii, 4.0, leaves)
    else:
        for i in range(int(rng.integers(3, 9))):
            z = float(rng.uniform(0.4, 0.7))
            shape.foliage((0.8 * i, 0.0, z), (0.7, 0.4, z + 0.1), 5.0, leaves)
    return shape


def make_lamp(rng: np.random.Generator) -> Shape:
    """A street lamp, reaching out over the road (towards -y)."""
    height = float(rng.uniform(5.0, 9.0))
    shape = Shape()
    shape.cylinder((0.0, 0.0, -0.2), (0.0, 0.0, height), float(rng.uniform(0.06, 0.13)), METAL)
    shape.cylinder((0.0, 0.0, height), (0.0, -1.8, height + 0.2), 0.05, METAL)
    return shape


def make_sign(rng: np.random.Generator) -> Shape:
    """A traffic sign: a thin post and a retro-reflecting plate."""
    shape = Shape()
    z = float(rng.uniform(1.9, 2.6))
    shape.cylinder((0.0, 0.0, -0.1), (0.0, 0.0, z + 0.6), 0.035, METAL)
    if rng.random() < 0.6:
        shape.cylinder((-0.05, 0.0, z + 0.3), (-0.03, 0.0, z + 0.3), 0.30, Material(3.0))
    else:
        shape.box((-0.05, -0.03), (-0.4, 0.4), (z, z + 0.6), Material(3.0))
    return shape


def make_furniture(rng: np.random.Generator) -> Shape:
    """A bin, hydrant, bollard, post box, parking meter, switch cabinet, statue or advertising pillar."""
    shape = Shape()
    kind = int(rng.integers(0, 8))
    matter = Material(float(rng.uniform(0.1, 0.5)))
    if kind == 0:
        shape.cylinder((0.0, 0.0, 0.0), (0.0, 0.0, float(rng.uniform(0.8, 1.1))), float(rng.uniform(0.2, 0.3)), matter)
    elif kind == 1:
        shape.cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 0.7), 0.12, matter)
        shape.cylinder((0.0, -0.22, 0.45), (0.0, 0.22, 0.45), 0.07, matter)
    elif kind == 2:
        shape.cylinder((0.0, 0.0, 0.0), (0.0, 0.0, float(rng.uniform(0.7, 1.1))), 0.08, matter)
    elif kind == 3:
        shape.box((-0.22, 0.22), (-0.25, 0.25), (0.55, 1.35), matter)
        shape.cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 0.6), 0.1, matter)
    elif kind == 4:
        shape.cylinder((0.0, 0.0, 0.0), (0.0, 0.0, 1.2), 0.05, METAL)
        shape.box((-0.12, 0.12), (-0.15, 0.15), (1.15, 1.55), matter)
    elif kind == 5:
        shape.box((-0.25, 0.25), (-0.6, 0.6), (0.0, float(rng.uniform(1.0, 1.6))), matter)
    elif kind == 6:  # about a person's size, on a plinth
        shape.box((-0.3, 0.3), (-0.3, 0.3), (0.0, 0.5), CONCRETE)
        shape.cylinder((0.0, 0.0, 0.5), (0.0, 0.0, 1.75), 0.2, CONCRETE)
    else:
        shape.cylinder(
            (0.0, 0.0, 0.0), (0.0, 0.0, float(rng.uniform(1.6, 2.8))), float(rng.uniform(0.15, 0.55)), matter
        )
    return shape


def make_shelter(rng: np.random.Generator) -> Shape:
    """A bus shelter: posts, glass back, roof and bench; the street lies towards -y."""
    shape = Shape()
    for x in (-1.6, 1.6):
        for y in (-0.6, 0.7):
            shape.cylinder((x, y, 0.0), (x, y, 2.4), 0.04, METAL)
    shape.box((-1.6, 1.6), (0.68, 0.72), (0.2, 2.1), GLASS)
    shape.box((-1.9, 1.9), (-0.9, 0.9), (2.4, 2.5), METAL)
    shape.box((-1.2, 1.2), (0.2, 0.6), (0.40, 0.46), Material(0.2))
    return shape


def make_container(rng: np.random.Generator) -> Shape:
    """A skip, a market stall's box or a shipping container: a truck's size without wheels."""
    size = [(1.8, 1.3, 1.3), (2.6, 2.0, 2.5), (6.06, 2.44, 2.59)][int(rng.integers(0, 3))]
    shape = Shape()
    matter = Material(float(rng.uniform(0.1, 0.5)))
    shape.box((-size[0] / 2, size[0] / 2), (-size[1] / 2, size[1] / 2), (0.0, size[2]), matter)
    return shape


class Scenery:
    """Lines roads with bodies that stand still."""

    def __init__(
        self, rng: np.random.Generator, terrain: Terrain, occupancy: Occupancy, place: Surroundings = STREETS
    ) -> None:
        self.place = place
        self.rng = rng
        self.terrain = terrain
        self.occupancy = occupancy
        self.bodies: list[Body] = []

    def _tree(self) -> Shape:
        return make_tree(self.rng, self.place.crowns, self.place.leaves)

    def _stand(
        self, shape: Shape, road: Road, s: float, left: bool, beyond: float, size: float, turn: float = 0.0
    ) -> None:
        """Put a body `beyond` metres behind the kerb, its -y side towards the road, if the place is free."""
        sign = 1 if left else -1
        x, y, heading = road.pose(s, sign * (road.half_width(left) + beyond))
        if float(self.terrain.edge_distance(x, y)) < 0.3:
            return
        yaw = heading + (0.0 if left else math.pi) + turn
        if self.occupancy.claim(Parked(x, y, yaw), size, size, clearance=0.15):
            self.bodies.append((shape, x, y, yaw))

    def line_with_buildings(self, road: Road, span: tuple[float, float], density: float) -> None:
        """House fronts behind the pavement; gaps get a wall, a fence or a hedge."""
        rng = self.rng
        for left in (True, False):
            sign = 1 if left else -1
            s = span[0] + float(rng.uniform(0.0, 10.0))
            setback = float(rng.uniform(*self.place.setback_m))
            while s < span[1]:
                front = float(rng.uniform(8.0, 26.0))
                depth = float(rng.uniform(8.0, 15.0))
                back = self.terrain.sidewalk + setback + float(rng.uniform(0.0, 1.5))
                x, y, heading = road.pose(s + front / 2, sign * (road.half_width(left) + back))
                yaw = heading + (0.0 if left else math.pi)
                u, v = np.meshgrid(np.linspace(-front / 2, front / 2, 9), np.linspace(-1.0, depth, 7))
                px = x + u * math.cos(yaw) - v * math.sin(yaw)
                py = y + u * math.sin(yaw) + v * math.cos(yaw)
                free = float(self.terrain.edge_distance(px, py).min()) > self.terrain.sidewalk * 0.8
                if free and rng.random() < density:
                    self.bodies.append((make_building(rng, front, depth), x, y, yaw))
                elif free:
                    self.bodies.append((self._plot_edge(front), x, y, yaw))
                    for _ in range(int(rng.integers(1, 7))):
                        around = back + float(rng.uniform(1.0, depth))
                        plant = self._tree() if rng.random() < 0.6 else make_bush(rng, self.place.leaves)
                        self._stand(plant, road, s + float(rng.uniform(0.0, front)), left, around, 0.8)
                s += front + (float(rng.uniform(1.0, 6.0)) if rng.random() < 0.5 else 0.3)

    def _plot_edge(self, front: float) -> Shape:
        rng = self.rng
        shape = Shape()
        kind = int(rng.integers(0, 4))
        x = (-front / 2, front / 2)
        if kind == 0:
            shape.box(x, (0.0, 0.2), (-0.5, float(rng.uniform(0.6, 2.2))), CONCRETE)
        elif kind == 1:
            shape.box(x, (0.0, 0.05), (0.0, float(rng.uniform(1.0, 1.8))), WIRE)
            for post in np.arange(x[0], x[1], 2.0).tolist():
                shape.cylinder((post, 0.02, 0.0), (post, 0.02, 1.8), 0.04, METAL)
        elif kind == 2:
            for cx in np.arange(x[0] + 0.5, x[1] - 0.5, 0.9):
                shape.foliage((float(cx), 0.3, 0.7), (0.75, 0.45, 0.75), 5.0, self.place.leaves)
        else:
            shape.box(x, (0.0, 0.3), (-0.5, 0.25), CONCRETE)
        return shape

    def line_with_furniture(self, road: Road, span: tuple[float, float]) -> None:
        """Trees, lamps, signs, bins and the like along the kerb."""
        rng = self.rng
        for left in (True, False):
            trees = rng.random() < 0.6
            spacing = float(rng.uniform(8.0, 18.0))
            s = span[0] + float(rng.uniform(0.0, spacing))
            while s < span[1]:
                jitter = s + float(rng.normal(0.0, 0.5))
                if trees and rng.random() < 0.8:
                    self._stand(self._tree(), road, jitter, left, 0.8, 0.7, float(rng.uniform(-math.pi, math.pi)))
                if rng.random() < 0.5:
                    self._stand(make_furniture(rng), road, s + 3.0, left, float(rng.uniform(0.5, 3.5)), 0.6)
                if rng.random() < 0.25:
                    turn = math.pi if rng.random() < 0.5 else 0.0
                    self._stand(make_sign(rng), road, s + 5.0, left, 0.5, 0.2, turn)
                if rng.random() < 0.25:
                    self._stand(
                        make_bush(rng, self.place.leaves), road, s + 2.0, left, float(rng.uniform(1.0, 4.0)), 0.8
                    )
                if rng.random() < 0.06:
                    self._stand(make_shelter(rng), road, s + 4.0, left, 1.6, 3.0)
                if rng.random() < 0.08:
                    far = self.terrain.sidewalk + 2.5
                    self._stand(make_container(rng), road, s + 6.0, left, far, 4.0, float(rng.normal(0.0, 0.2)))
                s += spacing
            s = span[0] + float(rng.uniform(0.0, 30.0))
            while s < span[1]:
                self._stand(make_lamp(rng), road, s, left, 0.45, 0.3)
                s += float(rng.uniform(25.0, 38.0))
