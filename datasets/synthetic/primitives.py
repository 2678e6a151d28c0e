"""Solids that every object and building of the synthetic world is made of.

A :class:`Shape` is a list of primitives in a body's own frame (x forward, y left, z up, metres, origin on the ground
below the body's centre). Primitives are rows of plain arrays, because the ray caster walks over thousands of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TAPERED_BOX = 0
"""[cx, cy, z0, half_x, half_y, height, front, rear, side]: a box whose front, rear and side faces lean inwards by the
last three numbers (metres at the top)."""
ELLIPSOID = 1
"""[cx, cy, cz, rx, ry, rz]."""
CYLINDER = 2
"""[x0, y0, z0, x1, y1, z1, radius]: flat ended, around any axis."""
FOLIAGE = 3
"""[cx, cy, cz, rx, ry, rz, density]: an ellipsoid of leaves that stops a beam with `density` per metre."""

NUM_PARAMS = 9

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """What a beam meets.

    Attributes:
        reflectivity: share of the light sent back at normal incidence (1 = white, above 1 = retro-reflector).
        opacity: chance that a beam stops here; the rest goes on (glass, spokes, wire fence).
        gaps: u ** gaps of a beam's light, u uniform in 0..1, meets something: all of it at 0, less among leaves.
    """

    reflectivity: float
    opacity: float = 1.0
    gaps: float = 0.0


GLASS = Material(0.10, 0.45)
RUBBER = Material(0.05)
SPOKES = Material(0.18, 0.35)
METAL = Material(0.30)
PLATE = Material(3.0)
SKIN = Material(0.35)
BARK = Material(0.18)
LEAVES = Material(0.30)
CONCRETE = Material(0.28)
WIRE = Material(0.25, 0.35)


@dataclass
class Shape:
    """Primitives of one body; grows through the `box`, `ellipsoid`, `cylinder` and `foliage` methods."""

    kinds: list[int] = field(default_factory=list)
    params: list[list[float]] = field(default_factory=list)
    bounds: list[list[float]] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)

    def _add(self, kind: int, params: list[float], low: Array, high: Array, material: Material) -> None:
        self.kinds.append(kind)
        self.params.append(params + [0.0] * (NUM_PARAMS - len(params)))
        self.bounds.append([*low.tolist(), *high.tolist()])
        self.materials.append(material)

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        material: Material,
        *,
        front: float = 0.0,
        rear: float = 0.0,
        side: float = 0.0,
    ) -> None:
        """Add a box given by its extents; `front`, `rear` and `side` say how far the top is drawn in (metres)."""
        cx, cy = (x[0] + x[1]) / 2, (y[0] + y[1]) / 2
        params = [cx, cy, z[0], (x[1] - x[0]) / 2, (y[1] - y[0]) / 2, z[1] - z[0], front, rear, side]
        low, high = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
        self._add(TAPERED_BOX, params, low, high, material)

    def ellipsoid(
        self,
        center: tuple[float, float, float],
        radii: tuple[float, float, float],
        material: Material,
    ) -> None:
        """Add an axis-aligned ellipsoid."""
        low, high = np.subtract(center, radii), np.add(center, radii)
        self._add(ELLIPSOID, [*center, *radii], low, high, material)

    def cylinder(
        self,
        start: tuple[float, float, float],
        end: tuple[float, float, float],
        radius: float,
        material: Material,
    ) -> None:
        """Add a flat-ended cylinder between two points."""
        a, b = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        axis = (b - a) / np.linalg.norm(b - a)
        # Half extent of a disc of that radius along each coordinate axis.
        reach = radius * np.sqrt(np.clip(1.0 - axis**2, 0.0, 1.0))
        low, high = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        self._add(CYLINDER, [*a.tolist(), *b.tolist(), radius], low, high, material)

    def foliage(
        self,
        center: tuple[float, float, float],
        radii: tuple[float, float, float],
        density_per_m: float,
        material: Material = LEAVES,
    ) -> None:
        """Add an ellipsoid that beams enter and that stops them somewhere inside, or not at all."""
        low, high = np.subtract(center, radii), np.add(center, radii)
        self._add(FOLIAGE, [*center, *radii, density_per_m], low, high, material)

    def extent(self) -> tuple[Array, Array]:
        """Lower and upper corner (3,) of the box around all primitives, in the body's frame."""
        bounds = np.asarray(self.bounds)
        return bounds[:, :3].min(axis=0), bounds[:, 3:].max(axis=0)

    def centered(self) -> Shape:
        """The same shape moved so that its extent is centred on x = y = 0 and stands on z = 0."""
        low, high = self.extent()
        shift = np.array([-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2]])
        moved = Shape(list(self.kinds), [], [], list(self.materials))
        for kind, params, bounds in zip(self.kinds, self.params, self.bounds, strict=True):
            row = list(params)
            for i in range(3):
                row[i] += shift[i]
                if kind == CYLINDER:
                    row[3 + i] += shift[i]
            moved.params.append(row)
            moved.bounds.append([b + s for b, s in zip(bounds, [*shift, *shift], strict=True)])
        return moved


@dataclass(frozen=True)
class PrimitiveTable:
    """All primitives of a scene as arrays; `body (P,)` points into a table of body poses `(B, 4) [x, y, z, yaw]`."""

    kind: NDArray[np.int64]
    params: Array
    bounds: Array
    body: NDArray[np.int64]
    reflectivity: Array
    opacity: Array
    gaps: Array

    @staticmethod
    def from_shapes(shapes: list[Shape]) -> PrimitiveTable:
        """Stack shapes; body `i` is `shapes[i]`."""
        materials = [m for s in shapes for m in s.materials]
        return PrimitiveTable(
            kind=np.array([k for s in shapes for k in s.kinds], dtype=np.int64),
            params=np.array([p for s in shapes for p in s.params], dtype=np.float64).reshape(-1, NUM_PARAMS),
            bounds=np.array([b for s in shapes for b in s.bounds], dtype=np.float64).reshape(-1, 6),
            body=np.array([i for i, s in enumerate(shapes) for _ in s.kinds], dtype=np.int64),
            reflectivity=np.array([m.reflectivity for m in materials], dtype=np.float64),
            opacity=np.array([m.opacity for m in materials], dtype=np.float64),
            gaps=np.array([m.gaps for m in materials], dtype=np.float64),
        )
