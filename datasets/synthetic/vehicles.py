"""Cars, trucks and buses: random shapes of the right proportions."""

from __future__ import annotations

import numpy as np

from datasets.synthetic.primitives import GLASS, METAL, PLATE, RUBBER, Material, Shape


def _paint(rng: np.random.Generator) -> Material:
    """Body paint: dark colours send little back, white a lot."""
    return Material(float(rng.choice([0.06, 0.10, 0.18, 0.30, 0.45, 0.60])) * float(rng.uniform(0.8, 1.2)))


def _wheels(shape: Shape, axles: list[float], half_width: float, radius: float, tyre: float) -> None:
    for x in axles:
        for side in (-1.0, 1.0):
            outer = side * (half_width - 0.02)
            shape.cylinder((x, outer, radius), (x, outer - side * tyre, radius), radius, RUBBER)


def _plates_and_lamps(shape: Shape, length: float, half_width: float, z: float) -> None:
    for x in (length / 2, -length / 2):
        sign = 1.0 if x > 0 else -1.0
        # A hand's width proud of the bumper, so that it is hit before it.
        extent = (min(x, x + sign * 0.012), max(x, x + sign * 0.012))
        shape.box(extent, (-0.22, 0.22), (z, z + 0.13), PLATE)
        for side in (-1.0, 1.0):
            y = side * (half_width - 0.22)
            shape.box(extent, (y - 0.12, y + 0.12), (z + 0.16, z + 0.30), Material(0.8))


def make_car(rng: np.random.Generator) -> Shape:
    """A kei car, hatchback, saloon, estate, SUV, minivan or pickup; 3.2 to 5.4 m long."""
    kind = str(
        rng.choice(
            ["kei", "hatch", "saloon", "estate", "suv", "minivan", "pickup"],
            p=[0.15, 0.2, 0.22, 0.1, 0.17, 0.12, 0.04],
        )
    )
    length, width, height = {
        "kei": (3.35, 1.48, 1.68),
        "hatch": (4.05, 1.73, 1.50),
        "saloon": (4.70, 1.82, 1.45),
        "estate": (4.65, 1.80, 1.50),
        "suv": (4.60, 1.88, 1.72),
        "minivan": (4.80, 1.82, 1.88),
        "pickup": (5.25, 1.90, 1.80),
    }[kind]
    length *= float(rng.uniform(0.93, 1.07))
    width *= float(rng.uniform(0.96, 1.04))
    height *= float(rng.uniform(0.95, 1.05))
    half, w = length / 2, width / 2
    paint = _paint(rng)
    clearance = float(rng.uniform(0.16, 0.24)) + (0.05 if kind in ("suv", "pickup") else 0.0)
    belt = height * float(rng.uniform(0.54, 0.60))
    bonnet_len, boot_len, rake_f, rake_r = {
        "kei": (0.50, 0.02, 0.45, 0.08),
        "hatch": (0.95, 0.05, 0.70, 0.40),
        "saloon": (1.15, 0.75, 0.80, 0.65),
        "estate": (1.10, 0.05, 0.75, 0.35),
        "suv": (1.10, 0.05, 0.60, 0.25),
        "minivan": (0.75, 0.03, 0.85, 0.10),
        "pickup": (1.15, 1.70, 0.55, 0.15),
    }[kind]
    shape = Shape()
    front = half - bonnet_len
    rear = -half + boot_len
    # Sill to belt line, with bumpers rounded off a little.
    shape.box((-half, half), (-w, w), (clearance, belt * 0.78), paint, front=0.06, rear=0.06)
    shape.box((rear - 0.02, half - 0.05), (-w, w), (belt * 0.78, belt), paint, front=0.22, side=0.03)
    if kind == "pickup":
        shape.box((-half, rear), (-w, -w + 0.08), (belt * 0.78, belt), paint)
        shape.box((-half, rear), (w - 0.08, w), (belt * 0.78, belt), paint)
        shape.box((-half, -half + 0.08), (-w, w), (belt * 0.78, belt), paint)
    elif boot_len > 0.2:
        shape.box((-half + 0.03, rear), (-w, w), (belt * 0.78, belt * 0.98), paint, rear=0.10, side=0.03)
    inset = 0.10 * height
    shape.box((rear, front), (-w + 0.03, w - 0.03), (belt, height - 0.10), GLASS, front=rake_f, rear=rake_r, side=inset)
    roof_w = w - 0.03 - inset
    shape.box(
        (rear + rake_r, front - rake_f),
        (-roof_w, roof_w),
        (height - 0.10, height),
        paint,
        front=0.1,
        rear=0.05,
        side=0.05,
    )
    # Pillars and seats: what is left to see through the glass.
    for x in np.linspace(rear + rake_r * 0.6, front - rake_f * 0.9, 3):
        for side in (-1.0, 1.0):
            y = side * (w - 0.08 - inset / 2)
            shape.box((x - 0.05, x + 0.05), (y - 0.03, y + 0.03), (belt, height - 0.1), paint)
    middle = (front + rear) / 2
    for x in (middle + 0.15, middle - 0.75):
        shape.box((x - 0.12, x + 0.12), (-w + 0.2, w - 0.2), (belt * 0.6, belt + 0.22), Material(0.12))
    radius = float(rng.uniform(0.29, 0.33)) + (0.05 if kind in ("suv", "pickup") else 0.0)
    _wheels(shape, [half - 0.78, -half + 0.78], w, radius, 0.2)
    for side in (-1.0, 1.0):  # mirrors
        y = side * (w + 0.06)
        shape.box((front - 0.25, front - 0.13), (y - 0.08, y + 0.08), (belt - 0.02, belt + 0.13), paint)
    _plates_and_lamps(shape, length, w, 0.42)
    return shape.centered()


def make_truck(rng: np.random.Generator) -> Shape:
    """A light, medium or heavy truck with box, tarpaulin, flat bed, tipper or tank; 4.7 to 12 m long."""
    size = str(rng.choice(["light", "medium", "heavy"], p=[0.35, 0.40, 0.25]))
    length, width, cab_height, cab_len = {
        "light": (float(rng.uniform(4.7, 6.4)), 1.85, 2.05, 1.55),
        "medium": (float(rng.uniform(6.6, 8.8)), 2.25, 2.55, 1.80),
        "heavy": (float(rng.uniform(9.0, 12.0)), 2.49, 3.00, 2.15),
    }[size]
    cab_height *= float(rng.uniform(0.95, 1.06))
    half, w = length / 2, width / 2
    paint, load = _paint(rng), _paint(rng)
    floor = {"light": 0.80, "medium": 1.00, "heavy": 1.15}[size]
    shape = Shape()
    cab_rear = half - cab_len
    sill = 0.40
    waist = sill + 0.52 * (cab_height - sill)
    shape.box((cab_rear, half), (-w + 0.05, w - 0.05), (sill, waist), paint, front=0.05)
    shape.box((cab_rear, half - 0.05), (-w + 0.05, w - 0.05), (waist, cab_height - 0.25), GLASS, front=0.22, side=0.05)
    shape.box((cab_rear, half - 0.27), (-w + 0.10, w - 0.10), (cab_height - 0.25, cab_height), paint, front=0.15)
    shape.box((cab_rear, cab_rear + 0.12), (-w + 0.05, w - 0.05), (waist, cab_height - 0.2), paint)
    shape.box((cab_rear + 0.35, cab_rear + 0.6), (-w + 0.3, w - 0.3), (1.0, waist + 0.35), Material(0.12))
    for side in (-1.0, 1.0):
        y = side * (w + 0.08)
        shape.box((half - 0.3, half - 0.15), (y - 0.09, y + 0.09), (waist, waist + 0.45), Material(0.08))
    # Chassis and load.
    gap = float(rng.uniform(0.10, 0.35))
    start = cab_rear - gap
    shape.box((-half + 0.05, cab_rear), (-w * 0.45, w * 0.45), (0.55, floor - 0.08), Material(0.08))
    shape.box((-half, start), (-w, w), (floor - 0.10, floor), METAL)
    body = str(rng.choice(["box", "tarpaulin", "flat", "tipper", "tank"], p=[0.42, 0.18, 0.18, 0.12, 0.10]))
    top = cab_height + float(rng.uniform(0.15, 0.75))
    if body == "box":
        shape.box((-half, start), (-w, w), (floor, top), load)
    elif body == "tarpaulin":
        shape.box((-half, start), (-w, w), (floor, top - 0.2), load, side=0.03)
        shape.box((-half, start), (-w + 0.03, w - 0.03), (top - 0.2, top), load, side=0.35)
    elif body == "flat":
        for y in (-w, w - 0.05):
            shape.box((-half, start), (y, y + 0.05), (floor, floor + 0.40), METAL)
        shape.box((start - 0.08, start), (-w, w), (floor, floor + 1.0), METAL)
        shape.box((-half, -half + 0.05), (-w, w), (floor, floor + 0.40), METAL)
        reach = -half + 0.3
        while reach < start - 1.5:
            cargo = float(rng.uniform(0.8, 1.6))
            if rng.random() < 0.65:
                z = floor + float(rng.uniform(0.5, 1.5))
                shape.box((reach, reach + cargo), (-w * 0.75, w * 0.75), (floor, z), Material(0.3))
            reach += cargo + 0.2
    elif body == "tipper":
        shape.box((-half, start), (-w, w), (floor, floor + 1.15), load, front=-0.10, rear=-0.0, side=-0.06)
    else:
        radius = min(w - 0.05, (top - floor) / 2)
        shape.cylinder((-half + 0.1, 0.0, floor + radius), (start - 0.05, 0.0, floor + radius), radius, METAL)
        shape.box((-half, start), (-0.25, 0.25), (floor + 2 * radius, floor + 2 * radius + 0.15), METAL)
    radius = {"light": 0.36, "medium": 0.44, "heavy": 0.51}[size]
    rear_axle = -half + 0.22 * length
    axles = [half - 0.62 * cab_len, rear_axle]
    if size == "heavy":
        axles.append(rear_axle + 2.2 * radius + 0.1)
    _wheels(shape, axles, w, radius, 0.3)
    if size != "light":  # side guards and tail lamps bar
        for side in (-1.0, 1.0):
            y = side * (w - 0.06)
            shape.box((rear_axle + 1.4, cab_rear - 0.5), (y - 0.02, y + 0.02), (0.45, 0.62), METAL)
    _plates_and_lamps(shape, length, w, 0.55)
    return shape.centered()


def make_bus(rng: np.random.Generator) -> Shape:
    """A community, city or touring bus; 6.9 to 12.5 m long."""
    size = str(rng.choice(["small", "city", "touring"], p=[0.25, 0.5, 0.25]))
    length, width, height = {
        "small": (float(rng.uniform(6.9, 7.8)), 2.10, 2.75),
        "city": (float(rng.uniform(10.2, 12.0)), 2.50, 3.05),
        "touring": (float(rng.uniform(11.5, 12.5)), 2.50, 3.55),
    }[size]
    height *= float(rng.uniform(0.97, 1.03))
    half, w = length / 2, width / 2
    paint = _paint(rng)
    shape = Shape()
    waist = {"small": 1.05, "city": 1.10, "touring": 1.75}[size] * float(rng.uniform(0.95, 1.08))
    head = height - float(rng.uniform(0.45, 0.65))
    shape.box((-half, half), (-w, w), (0.30, waist), paint, front=0.04, rear=0.03)
    shape.box((-half + 0.03, half - 0.04), (-w, w), (waist, head), GLASS, front=0.10, rear=0.05, side=0.04)
    shape.box(
        (-half + 0.08, half - 0.14), (-w + 0.04, w - 0.04), (head, height), paint, front=0.15, rear=0.10, side=0.10
    )
    # Window posts, a closed rear, seats and floor seen through the windows.
    for x in np.arange(-half + 0.2, half - 0.4, 1.45).tolist():
        for side in (-1.0, 1.0):
            y = side * (w - 0.07)
            shape.box((x - 0.07, x + 0.07), (y - 0.03, y + 0.03), (waist, head), paint)
    shape.box((-half + 0.08, -half + 0.16), (-w + 0.06, w - 0.06), (waist, head - 0.3), paint)
    for x in np.arange(-half + 0.8, half - 1.6, 0.95).tolist():
        for side in (-1.0, 1.0):
            y = side * (w - 0.55)
            shape.box((x, x + 0.15), (y - 0.4, y + 0.4), (0.6, waist + 0.25), Material(0.12))
    if rng.random() < 0.5:  # air conditioner on the roof
        shape.box((-1.4, 1.2), (-w * 0.7, w * 0.7), (height, height + 0.25), METAL)
    radius = 0.40 if size == "small" else 0.49
    _wheels(
        shape, [half - (1.5 if size == "small" else 2.65), -half + (1.6 if size == "small" else 3.2)], w, radius, 0.3
    )
    for side in (-1.0, 1.0):
        y = side * (w + 0.10)
        shape.box((half - 0.10, half + 0.08), (y - 0.09, y + 0.09), (waist + 0.35, waist + 0.85), Material(0.08))
    _plates_and_lamps(shape, length, w, 0.50)
    return shape.centered()
