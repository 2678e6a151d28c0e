"""Pedestrians and cyclists: bodies of capsules and ellipsoids in a random pose."""

from __future__ import annotations

import math

import numpy as np

from datasets.synthetic.primitives import METAL, RUBBER, SKIN, SPOKES, Material, Shape

Point = tuple[float, float, float]


def _cloth(rng: np.random.Generator) -> Material:
    return Material(float(rng.uniform(0.08, 0.55)))


def make_pedestrian(rng: np.random.Generator, walking: bool) -> Shape:
    """A child or an adult of 1.05 to 1.95 m, standing or in mid-stride, some with a rucksack, bag or umbrella."""
    child = rng.random() < 0.12
    height = float(rng.uniform(1.05, 1.45) if child else np.clip(rng.normal(1.69, 0.09), 1.5, 1.95))
    girth = height / 1.7 * float(rng.uniform(0.9, 1.2))
    coat, trousers = _cloth(rng), _cloth(rng)
    shape = Shape()
    hip, shoulder = 0.50 * height, 0.80 * height
    stride = float(rng.uniform(0.12, 0.30)) * height * float(rng.choice([-1.0, 1.0])) if walking else 0.03
    for side in (-1.0, 1.0):
        foot_x = side * stride
        knee: Point = (0.55 * foot_x + 0.04, side * 0.09 * girth, 0.27 * height)
        shape.cylinder((0.0, side * 0.09 * girth, hip), knee, 0.085 * girth, trousers)
        shape.cylinder(knee, (foot_x, side * 0.09 * girth, 0.05), 0.065 * girth, trousers)
        shape.box(
            (foot_x - 0.09, foot_x + 0.17),
            (side * 0.09 * girth - 0.05, side * 0.09 * girth + 0.05),
            (0.0, 0.09),
            RUBBER,
        )
        # Arms swing against the legs.
        hand: Point = (-0.8 * foot_x + 0.05, side * 0.27 * girth, 0.47 * height)
        elbow: Point = (-0.3 * foot_x - 0.02, side * 0.26 * girth, 0.63 * height)
        shape.cylinder((0.0, side * 0.20 * girth, shoulder - 0.02), elbow, 0.052 * girth, coat)
        shape.cylinder(elbow, hand, 0.045 * girth, coat)
    lean = 0.05 if walking else 0.0
    middle = (hip + shoulder) / 2
    shape.ellipsoid((lean, 0.0, middle), (0.14 * girth, 0.21 * girth, (shoulder - hip) / 2 + 0.10 * height), coat)
    if rng.random() < 0.3:  # skirt or long coat
        shape.box(
            (-0.17 * girth, 0.17 * girth),
            (-0.2 * girth, 0.2 * girth),
            (0.35 * height, hip + 0.05),
            coat,
            front=0.05,
            rear=0.05,
        )
    head = 0.115
    shape.cylinder((lean, 0.0, shoulder), (lean, 0.0, height - 1.6 * head), 0.06, SKIN)
    shape.ellipsoid((lean + 0.01, 0.0, height - head), (0.10, 0.08, head), SKIN)
    extra = rng.random()
    if extra < 0.15:
        shape.box((-0.36 * girth, -0.10 * girth), (-0.16, 0.16), (0.55 * height, 0.80 * height), _cloth(rng))
    elif extra < 0.25:
        side = float(rng.choice([-1.0, 1.0]))
        shape.box((-0.15, 0.15), (side * 0.33 - 0.07, side * 0.33 + 0.07), (0.22 * height, 0.44 * height), _cloth(rng))
    elif extra < 0.29:
        top = height + 0.12
        shape.cylinder((0.12, 0.16, 0.62 * height), (0.12, 0.10, top), 0.015, METAL)
        shape.ellipsoid((0.10, 0.08, top), (0.48, 0.48, 0.14), _cloth(rng))
    return shape.centered()


def _bicycle_frame(shape: Shape, rng: np.random.Generator) -> tuple[float, float, float]:
    """Add wheels, frame and handlebar; returns (saddle x, saddle z, handlebar x)."""
    radius = float(rng.uniform(0.30, 0.35))
    base = float(rng.uniform(1.00, 1.12))
    rear, front = -base / 2, base / 2
    tyre = 0.022
    for x in (rear, front):
        shape.cylinder((x, -tyre, radius), (x, tyre, radius), radius, SPOKES)
        # Tyre and rim: a ring of short bars stops what the spokes let through.
        for k in range(8):
            a, b = 2 * math.pi * k / 8, 2 * math.pi * (k + 1) / 8
            r = radius - 0.03
            shape.cylinder(
                (x + r * math.cos(a), 0.0, radius + r * math.sin(a)),
                (x + r * math.cos(b), 0.0, radius + r * math.sin(b)),
                0.026,
                RUBBER,
            )
    frame = Material(float(rng.uniform(0.15, 0.5)))
    crank: Point = (rear + 0.43, 0.0, radius - 0.04)
    saddle_x, saddle_z = rear + 0.26, float(rng.uniform(0.82, 0.98))
    bar_x, bar_z = front - 0.20, saddle_z + float(rng.uniform(0.02, 0.18))
    joints: list[tuple[Point, Point]] = [
        (crank, (saddle_x, 0.0, saddle_z)),
        (crank, (bar_x + 0.03, 0.0, bar_z - 0.25)),
        ((saddle_x + 0.03, 0.0, saddle_z - 0.15), (bar_x + 0.02, 0.0, bar_z - 0.17)),
        (crank, (rear, 0.0, radius)),
        ((saddle_x + 0.03, 0.0, saddle_z - 0.15), (rear, 0.0, radius)),
        ((bar_x, 0.0, bar_z), (front, 0.0, radius)),
    ]
    for start, end in joints:
        shape.cylinder(start, end, 0.022, frame)
    shape.cylinder((bar_x, -0.29, bar_z), (bar_x, 0.29, bar_z), 0.018, METAL)
    shape.box((saddle_x - 0.14, saddle_x + 0.12), (-0.08, 0.08), (saddle_z, saddle_z + 0.06), RUBBER)
    if rng.random() < 0.45:  # basket
        shape.box((bar_x + 0.08, bar_x + 0.38), (-0.17, 0.17), (bar_z - 0.28, bar_z - 0.02), Material(0.25, 0.6))
    if rng.random() < 0.6:
        shape.box((rear - radius - 0.01, rear - radius + 0.03), (-0.03, 0.03), (0.45, 0.52), Material(2.0))
    return saddle_x, saddle_z, bar_x


def make_bicycle(rng: np.random.Generator) -> Shape:
    """A bicycle with its rider; about 1.75 m long, 0.6 m wide and 1.6 to 1.85 m tall."""
    shape = Shape()
    saddle_x, saddle_z, bar_x = _bicycle_frame(shape, rng)
    coat, trousers = _cloth(rng), _cloth(rng)
    scale = float(rng.uniform(0.92, 1.06))
    lean = float(rng.uniform(0.10, 0.42))
    hip_z = saddle_z + 0.10
    shoulder: Point = (saddle_x + 0.05 + lean, 0.0, hip_z + 0.48 * scale)
    phase = float(rng.uniform(0.0, 2.0 * math.pi))
    crank_x, crank_z = saddle_x + 0.18, 0.30
    for side, angle in ((-1.0, phase), (1.0, phase + math.pi)):
        y = side * 0.11
        foot: Point = (crank_x + 0.17 * math.cos(angle), y, crank_z + 0.17 * math.sin(angle))
        knee: Point = ((saddle_x + foot[0]) / 2 + 0.24, y, (hip_z + foot[2]) / 2 + 0.10)
        shape.cylinder((saddle_x, y, hip_z), knee, 0.080, trousers)
        shape.cylinder(knee, foot, 0.058, trousers)
        shape.box((foot[0] - 0.08, foot[0] + 0.17), (y - 0.045, y + 0.045), (foot[2] - 0.05, foot[2] + 0.03), RUBBER)
        elbow: Point = ((shoulder[0] + bar_x) / 2 - 0.05, side * 0.27, shoulder[2] - 0.28)
        shape.cylinder((shoulder[0], side * 0.19, shoulder[2]), elbow, 0.05, coat)
        shape.cylinder(elbow, (bar_x - 0.02, side * 0.26, saddle_z + 0.12), 0.042, coat)
    middle: Point = ((saddle_x + shoulder[0]) / 2, 0.0, (hip_z + shoulder[2]) / 2)
    shape.ellipsoid(middle, (0.15 + 0.25 * lean, 0.20, 0.36 * scale), coat)
    shape.cylinder(shoulder, (shoulder[0] + 0.05, 0.0, shoulder[2] + 0.15), 0.06, SKIN)
    helmet = _cloth(rng) if rng.random() < 0.4 else SKIN
    shape.ellipsoid((shoulder[0] + 0.07, 0.0, shoulder[2] + 0.24), (0.12, 0.095, 0.13), helmet)
    if rng.random() < 0.25:
        shape.box(
            (middle[0] - 0.36, middle[0] - 0.14), (-0.16, 0.16), (middle[2] - 0.15, middle[2] + 0.25), _cloth(rng)
        )
    return shape.centered()


def make_parked_bicycle(rng: np.random.Generator) -> Shape:
    """A bicycle without a rider, as it stands in a rack."""
    shape = Shape()
    _bicycle_frame(shape, rng)
    return shape.centered()
