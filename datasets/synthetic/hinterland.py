"""What stands beyond the plots along the roads: trees and houses, as far as a beam reaches."""

from __future__ import annotations

import math

from datasets.synthetic.motion import Parked
from datasets.synthetic.scenery import Scenery, make_building, make_tree
from datasets.synthetic.surroundings import Surroundings

__all__ = ["add_hinterland"]

_TREES_FROM_M, _HOUSES_FROM_M = 12.0, 29.0
"""From the kerb to a tree's trunk and to a house's front. The plots along the roads are `Scenery`'s; a house reaches up
to 20 m towards the road where it turns its back on it. The terrain knows distances of up to 30 m."""


def add_hinterland(scenery: Scenery, place: Surroundings) -> None:
    """Scatter trees and houses over the ground that no road and no plot along one takes."""
    terrain, rng = scenery.terrain, scenery.rng
    side = terrain.cell * (terrain.height.shape[0] - 1)
    hectares = side * side / 1e4
    for house, per_ha in ((True, place.houses_per_ha), (False, place.trees_per_ha)):
        for _ in range(round(per_ha * hectares)):
            x, y = terrain.x0 + float(rng.uniform(0.0, side)), terrain.y0 + float(rng.uniform(0.0, side))
            yaw = float(rng.uniform(-math.pi, math.pi))
            if house:
                front, depth = float(rng.uniform(8.0, 26.0)), float(rng.uniform(8.0, 15.0))
                size = math.hypot(front, 2.0 * depth)  # a building stands behind its front
                shape = make_building(rng, front, depth)
            else:
                size, shape = 1.0, make_tree(rng, place.crowns, place.leaves)
            beyond = float(terrain.edge_distance(x, y)) > (_HOUSES_FROM_M if house else _TREES_FROM_M)
            if beyond and scenery.occupancy.claim(Parked(x, y, yaw), size, size):
                scenery.bodies.append((shape, x, y, yaw))
