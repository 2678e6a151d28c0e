"""Cyclists of many builds: seats, trunks, arms, luggage and wheels that beams mostly pass, for recipes that mix real
frames in.

`people.make_bicycle` is one kind of rider, close behind the middle of the bicycle, on wheels that a third of all beams
hit. A network trained on it alone tells front from back by those; on real scans, where the hip is far back, wheels are
nearly empty and a rack or a bag may stand where that rider has a basket, it is often wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from datasets.synthetic.people import make_bicycle
from datasets.synthetic.primitives import SKIN, Material, Shape

__all__ = ["DEFAULT_RIDERS", "RIDERS", "make_varied_rider"]

Point = tuple[float, float, float]

DEFAULT_RIDERS = "plain"


def _cloth(rng: np.random.Generator) -> Material:
    return Material(float(rng.uniform(0.05, 0.65)))


def _wheel(shape: Shape, x: float, radius: float, spokes: Material, tyre: Material, guard: Material | None) -> None:
    """Spokes as a disc that most beams pass, the tyre as a ring of bars, the mudguard as the ring's upper half."""
    shape.cylinder((x, -0.02, radius), (x, 0.02, radius), radius - 0.02, spokes)
    bars = 10
    for k in range(bars):
        a, b = 2 * math.pi * k / bars, 2 * math.pi * (k + 1) / bars
        r = radius - 0.025
        ends: list[Point] = [(x + r * math.cos(t), 0.0, radius + r * math.sin(t)) for t in (a, b)]
        shape.cylinder(ends[0], ends[1], 0.022, tyre)
        if guard is not None and k < bars // 2:
            over: list[Point] = [(x + (r + 0.05) * math.cos(t), 0.0, radius + (r + 0.05) * math.sin(t)) for t in (a, b)]
            shape.cylinder(over[0], over[1], 0.030, guard)


def _luggage(shape: Shape, rng: np.random.Generator, rear: float, front: float, bar: Point, radius: float) -> None:
    """A rack, bags or a child's seat at the back, a basket or a bag in front: each may be there or not."""
    top = 2 * radius + float(rng.uniform(0.04, 0.14))
    if rng.random() < 0.45:
        shape.box((rear - 0.22, rear + 0.16), (-0.07, 0.07), (top - 0.02, top), Material(0.15, 0.5))
        load = rng.random()
        if load < 0.35:
            half = float(rng.uniform(0.10, 0.20))
            shape.box((rear - 0.22, rear + 0.16), (-half, half), (top, top + float(rng.uniform(0.1, 0.3))), _cloth(rng))
        elif load < 0.50:
            shape.box((rear - 0.20, rear + 0.10), (-0.17, 0.17), (top, top + 0.12), _cloth(rng))
            shape.ellipsoid((rear - 0.04, 0.0, top + 0.30), (0.12, 0.15, 0.22), _cloth(rng))
            shape.ellipsoid((rear - 0.03, 0.0, top + 0.58), (0.10, 0.09, 0.10), SKIN)
    if rng.random() < 0.3:
        for side in (-1.0, 1.0):
            y = side * 0.15
            shape.box((rear - 0.20, rear + 0.12), (y - 0.06, y + 0.06), (top - 0.36, top), _cloth(rng))
    if rng.random() < 0.25:
        shape.box((bar[0] + 0.06, bar[0] + 0.34), (-0.16, 0.16), (bar[2] - 0.27, bar[2] - 0.02), Material(0.25, 0.5))
    if rng.random() < 0.4:
        shape.box((rear - radius - 0.02, rear - radius + 0.02), (-0.03, 0.03), (0.42, 0.50), Material(2.0))
    if rng.random() < 0.3:
        shape.box((front - 0.16, front - 0.12), (-0.04, 0.04), (bar[2] - 0.16, bar[2] - 0.08), Material(1.2))


def make_varied_rider(rng: np.random.Generator) -> Shape:
    """A bicycle with its rider, from a racer's low trunk to a sitter's upright one; 1.6 to 2.0 m long, 1.4 to 2.0 m
    tall. x is ahead; the shape is centred as all are."""
    shape = Shape()
    radius, base = float(rng.uniform(0.30, 0.36)), float(rng.uniform(0.98, 1.15))
    rear, front = -base / 2, base / 2
    spokes = Material(float(rng.uniform(0.05, 0.25)), float(rng.uniform(0.02, 0.35)))
    tyre = Material(float(rng.uniform(0.02, 0.15)))
    metal = Material(float(rng.uniform(0.05, 0.5)))
    guard = Material(float(rng.uniform(0.05, 0.4))) if rng.random() < 0.5 else None
    for x in (rear, front):
        _wheel(shape, x, radius, spokes, tyre, guard)

    scale = float(rng.uniform(0.86, 1.10))
    crank: Point = (rear + float(rng.uniform(0.40, 0.48)), 0.0, radius - 0.04)
    saddle: Point = (rear + float(rng.uniform(0.08, 0.30)), 0.0, 0.92 * scale + float(rng.uniform(-0.08, 0.06)))
    bar: Point = (front - float(rng.uniform(0.10, 0.32)), 0.0, saddle[2] + float(rng.uniform(-0.10, 0.24)))
    joints = [(crank, saddle), (crank, (bar[0] + 0.04, 0.0, bar[2] - 0.25)), (crank, (rear, 0.0, radius))]
    joints += [(bar, (front, 0.0, radius)), ((saddle[0] + 0.04, 0.0, saddle[2] - 0.16), (rear, 0.0, radius))]
    if rng.random() < 0.7:  # a frame without its upper tube is a step-through one
        joints.append(((saddle[0] + 0.04, 0.0, saddle[2] - 0.16), (bar[0] + 0.02, 0.0, bar[2] - 0.18)))
    for start, end in joints:
        shape.cylinder(start, end, 0.020, metal)
    grip = float(rng.uniform(0.20, 0.32))
    shape.cylinder((bar[0], -grip, bar[2]), (bar[0], grip, bar[2]), 0.018, metal)
    shape.box((saddle[0] - 0.13, saddle[0] + 0.13), (-0.08, 0.08), (saddle[2] - 0.05, saddle[2] + 0.01), tyre)
    _luggage(shape, rng, rear, front, bar, radius)

    coat, trousers, hair = _cloth(rng), _cloth(rng), Material(float(rng.uniform(0.03, 0.5)))
    lean = math.radians(float(rng.uniform(5.0, 58.0)))
    length = 0.50 * scale
    hip: Point = (saddle[0], 0.0, saddle[2] + 0.09)
    shoulder: Point = (hip[0] + length * math.sin(lean), 0.0, hip[2] + length * math.cos(lean))
    phase, width = float(rng.uniform(0.0, 2.0 * math.pi)), float(rng.uniform(0.16, 0.21)) * scale
    for side, angle in ((-1.0, phase), (1.0, phase + math.pi)):
        y = side * 0.11
        foot: Point = (crank[0] + 0.17 * math.cos(angle), y, crank[2] + 0.17 * math.sin(angle))
        knee: Point = ((hip[0] + foot[0]) / 2 + 0.22 * scale, y, (hip[2] + foot[2]) / 2 + 0.10)
        shape.cylinder((hip[0], y, hip[2]), knee, 0.078 * scale, trousers)
        shape.cylinder(knee, foot, 0.056 * scale, trousers)
        shape.box((foot[0] - 0.08, foot[0] + 0.17), (y - 0.045, y + 0.045), (foot[2] - 0.05, foot[2] + 0.03), tyre)
        hand: Point = (bar[0] - 0.02, side * grip, bar[2] + 0.02)
        bend = float(rng.uniform(0.0, 0.14))
        elbow: Point = ((shoulder[0] + hand[0]) / 2, side * (width + 0.06), (shoulder[2] + hand[2]) / 2 - bend)
        shape.cylinder((shoulder[0], side * width, shoulder[2]), elbow, 0.050 * scale, coat)
        shape.cylinder(elbow, hand, 0.040 * scale, coat)
        # Two trunks side by side: broad across, thin along the way, and inclined, which an ellipsoid here cannot be.
        shape.cylinder((hip[0], 0.5 * y, hip[2] - 0.06), (shoulder[0], 0.7 * side * width, shoulder[2]), 0.12, coat)
    shape.ellipsoid(hip, (0.15, 0.19, 0.14), trousers)
    shape.ellipsoid(shoulder, (0.12, width + 0.05, 0.10), coat)
    head: Point = (shoulder[0] + 0.05 + 0.10 * math.sin(lean), 0.0, shoulder[2] + 0.24 - 0.05 * math.sin(lean))
    shape.cylinder(shoulder, head, 0.06, SKIN)
    shape.ellipsoid(head, (0.11, 0.085, 0.125), hair)
    if rng.random() < 0.25:  # a rucksack lies on the trunk
        back = (-0.20 * math.cos(lean), 0.0, 0.20 * math.sin(lean))
        ends: list[Point] = [
            (hip[0] + t * (shoulder[0] - hip[0]) + back[0], 0.0, hip[2] + t * (shoulder[2] - hip[2]) + back[2])
            for t in (0.35, 0.95)
        ]
        shape.cylinder(ends[0], ends[1], 0.13, _cloth(rng))
    return shape.centered()


RIDERS: dict[str, Callable[[np.random.Generator], Shape]] = {
    DEFAULT_RIDERS: make_bicycle,
    "varied": make_varied_rider,
}
"""Name -> what makes a bicycle with its rider."""
