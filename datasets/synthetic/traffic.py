"""Who is on the road: traffic in lanes, parked rows, yards, pedestrians and cyclists."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from datasets.synthetic.motion import Actor, AlongRoad, Motion, Occupancy, Parked, Straight
from datasets.synthetic.people import make_parked_bicycle, make_pedestrian
from datasets.synthetic.primitives import Shape
from datasets.synthetic.riders import DEFAULT_RIDERS, RIDERS
from datasets.synthetic.roads import LANE_WIDTH_M, PARKING_WIDTH_M, Road
from datasets.synthetic.terrain import Terrain
from datasets.synthetic.vehicles import make_bus, make_car, make_truck

VEHICLES: dict[str, Callable[[np.random.Generator], Shape]] = {"car": make_car, "truck": make_truck, "bus": make_bus}


class Traffic:
    """Places actors one after another; what does not fit is left out."""

    def __init__(
        self, rng: np.random.Generator, terrain: Terrain, occupancy: Occupancy, riders: str = DEFAULT_RIDERS
    ) -> None:
        self.rng = rng
        self._make_rider = RIDERS[riders]
        self.terrain = terrain
        self.occupancy = occupancy
        self.actors: list[Actor] = []

    def _place(
        self, name: str, shape: Shape, motion: Motion, attributes: tuple[str, ...], ignored: bool = False
    ) -> bool:
        low, high = shape.extent()
        if not self.occupancy.claim(motion, high[0] - low[0], high[1] - low[1]):
            return False
        self.actors.append(Actor(name, shape, motion, attributes, ignored))
        return True

    def _vehicle(self, shares: tuple[float, float, float]) -> tuple[str, Shape]:
        name = str(self.rng.choice(list(VEHICLES), p=shares))
        return name, VEHICLES[name](self.rng)

    def fill_lanes(
        self, road: Road, speed: float, mean_gap: float, span: tuple[float, float], shares: tuple[float, float, float]
    ) -> None:
        """Vehicles, `shares` of them cars, trucks and buses, one behind the other in every lane, each lane at
        its own speed near `speed`.
        """
        rng = self.rng
        for direction in (1, -1):
            for lane in range(road.lanes):
                lane_speed = max(0.0, speed * float(rng.uniform(0.85, 1.15)))
                lateral = direction * (lane + 0.5) * LANE_WIDTH_M
                s = span[0] + float(rng.uniform(0.0, mean_gap))
                while s < span[1]:
                    name, shape = self._vehicle(shares)
                    length = float(shape.extent()[1][0]) * 2
                    offset = lateral + float(rng.normal(0.0, 0.15))
                    motion = AlongRoad(
                        road, s + length / 2, offset, direction, lane_speed, float(rng.normal(0.0, 0.01))
                    )
                    state = "vehicle_state.driving" if lane_speed > 0.1 else "vehicle_state.stopped"
                    self._place(name, shape, motion, (state,))
                    s += (
                        length
                        + 2.0
                        + 0.9 * lane_speed * float(rng.uniform(0.6, 1.4))
                        + float(rng.exponential(mean_gap))
                    )

    def fill_parking_strips(self, road: Road, share: float, span: tuple[float, float]) -> None:
        """Rows parked along the kerb."""
        rng = self.rng
        for left in (True, False):
            if not road.parking[0 if left else 1]:
                continue
            sign = 1 if left else -1
            s = span[0]
            while s < span[1]:
                name, shape = self._vehicle((0.82, 0.14, 0.04))
                length = float(shape.extent()[1][0]) * 2
                if rng.random() < share:
                    lateral = sign * (road.half_width(left) - PARKING_WIDTH_M / 2 - 0.05 + float(rng.normal(0.0, 0.08)))
                    yaw = float(rng.normal(0.0, 0.03)) + (math.pi if rng.random() < 0.1 else 0.0)
                    motion = AlongRoad(road, s + length / 2, lateral, sign, 0.0, yaw)
                    self._place(name, shape, motion, ("vehicle_state.parked",))
                s += length + float(rng.uniform(0.5, 2.0))

    def fill_yard(
        self, center: tuple[float, float, float], size: tuple[float, float], shares: tuple[float, float, float]
    ) -> None:
        """Rows side by side across a yard `size` = (along, across) its heading."""
        rng = self.rng
        cx, cy, heading = center
        big = shares[0] < 0.5
        pitch, depth = (4.2, 13.0) if big else (2.7, 6.0)
        aisle = 5.0
        rows = max(1, int((size[1] - 4.0) // (depth + aisle)))
        for row in range(rows):
            across = -size[1] / 2 + 5.0 + depth / 2 + row * (depth + aisle)
            along = -size[0] / 2 + pitch
            while along < size[0] / 2 - pitch:
                if rng.random() < (0.6 if big else 0.65):
                    x = cx + along * math.cos(heading) - across * math.sin(heading)
                    y = cy + along * math.sin(heading) + across * math.cos(heading)
                    yaw = (
                        heading + math.pi / 2 + (math.pi if rng.random() < 0.5 else 0.0) + float(rng.normal(0.0, 0.03))
                    )
                    name, shape = self._vehicle(shares)
                    self._place(name, shape, Parked(x, y, yaw), ("vehicle_state.parked",))
                along += pitch

    def add_cyclists(self, road: Road, count: int, near_s: float) -> None:
        """Cyclists along the road's edge or on the pavement, most of them with the traffic."""
        rng = self.rng
        for _ in range(count):
            left = bool(rng.random() < 0.5)
            sign = 1 if left else -1
            half = road.half_width(left)
            if rng.random() < 0.7:
                strip = PARKING_WIDTH_M if road.parking[0 if left else 1] else 0.0
                lateral = sign * (half - strip - float(rng.uniform(0.5, 1.0)))
                direction = sign if rng.random() < 0.9 else -sign
            else:
                lateral = sign * (half + float(rng.uniform(0.5, self.terrain.sidewalk - 0.5)))
                direction = 1 if rng.random() < 0.5 else -1
            speed = 0.0 if rng.random() < 0.12 else float(rng.uniform(2.0, 6.5))
            s = near_s + float(rng.normal(5.0, 42.0))
            motion = AlongRoad(road, s, lateral, direction, speed, float(rng.normal(0.0, 0.04)))
            state = "cycle_state.with_rider"
            self._place("bicycle", self._make_rider(rng), motion, (state,))

    def add_pedestrians(self, road: Road, groups: int, near_s: float) -> None:
        """Pedestrians alone or in groups: walking on the pavement, standing, crossing."""
        rng = self.rng
        for _ in range(groups):
            left = bool(rng.random() < 0.5)
            sign = 1 if left else -1
            s = near_s + float(rng.normal(5.0, 40.0))
            size = int(rng.choice([1, 2, 3, 4], p=[0.62, 0.24, 0.09, 0.05]))
            kind = str(rng.choice(["walk", "stand", "cross"], p=[0.62, 0.26, 0.12]))
            direction = 1 if rng.random() < 0.5 else -1
            speed = float(rng.uniform(0.8, 1.8))
            lateral = sign * (road.half_width(left) + float(rng.uniform(0.5, self.terrain.sidewalk + 0.5)))
            if kind == "cross":
                lateral = float(rng.uniform(-1.0, 1.0)) * (road.half_width(left) + 1.0)
            for _ in range(size):
                ds, dl = float(rng.uniform(-1.2, 1.2)), float(rng.uniform(-0.9, 0.9))
                x, y, heading = road.pose(s + ds, lateral + dl)
                motion: Motion
                if kind == "walk":
                    motion = AlongRoad(road, s + ds, lateral + dl, direction, speed, float(rng.normal(0.0, 0.12)))
                elif kind == "stand":
                    motion = Parked(x, y, float(rng.uniform(-math.pi, math.pi)))
                else:
                    motion = Straight(x, y, heading + direction * math.pi / 2 + float(rng.normal(0.0, 0.1)), speed)
                state = "pedestrian_state.standing" if kind == "stand" else "pedestrian_state.walking"
                self._place("pedestrian", make_pedestrian(rng, kind != "stand"), motion, (state,))

    def add_bicycle_rack(self, road: Road, s: float, left: bool) -> None:
        """A row of bicycles without riders: labelled, but not to be detected (label -1)."""
        rng = self.rng
        sign = 1 if left else -1
        for i in range(int(rng.integers(3, 8))):
            lateral = sign * (road.half_width(left) + 1.2)
            x, y, heading = road.pose(s + 0.65 * i, lateral)
            motion = Parked(x, y, heading + math.pi / 2 + float(rng.normal(0.0, 0.08)))
            attributes = ("cycle_state.without_rider", "vehicle_state.parked")
            low, high = (shape := make_parked_bicycle(rng)).extent()
            if self.occupancy.claim(motion, high[0] - low[0], high[1] - low[1], clearance=-0.1):
                self.actors.append(Actor("bicycle", shape, motion, attributes, ignored=True))
