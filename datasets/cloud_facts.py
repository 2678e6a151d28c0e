"""The numbers of a cloud by which it is judged: how far, how high, how flat, how bright, how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_JUDGED", "CloudFacts", "measure_cloud"]

MIN_JUDGED: Final = 500
"""Points below which a cloud is not judged."""

_SAMPLE = 8_192
_BEYOND_M = 1e5
# The ring around the vehicle in which ground and objects are looked for, and the cells that it is cut into.
_RING_M = (5.0, 25.0)
_CELL_M = 2.0
_MIN_IN_CELL, _MIN_CELLS = 4, 12
# Flatness: of the layer that is the ground, and by how much the other end must be less flat.
_FLAT_M, _CLEARLY = 0.5, 2.0
_MIN_SPREAD_M = 0.3
# So many times its own spread lies a cloud from the origin that is not around the vehicle.
_AWAY = 3.0
_BRIGHT = 99.9
_HEIGHT_MM = 1 << 20

Array = NDArray[np.float32]


@dataclass(frozen=True)
class CloudFacts:
    """Numbers of one cloud, metres.

    Attributes:
        in_file: Points in the file.
        points: Of these, valid and not exactly (0, 0, 0); the numbers below are of them.
        zeros: Points at exactly (0, 0, 0).
        invalid: Points with NaN or an infinity.
        repeated: Points that another one before equals in all columns; estimated.
        outside: Points outside the model's range; 0 where none was given.
        beyond: Points more than 100 km away.
        low_m, high_m: Smallest and largest x, y, z; 0 without points.
        farthest_m: Largest distance from the origin, over the ground.
        middle_m: Its median; None with too few points.
        off_centre: Whether all points lie together on one side, far away as seen from their own extent.
        vertical: Axis along which the surroundings are flat ("x", "y", "z"); empty where none is clearly.
        upside_down: Whether the flat layer is at the top along z.
        ground_z_m: Height of the ground around the vehicle; None where none is seen.
        lowest_intensity, bright_intensity, top_intensity: Smallest, 99.9th percentile, largest; None without.
    """

    in_file: int = 0
    points: int = 0
    zeros: int = 0
    invalid: int = 0
    repeated: int = 0
    outside: int = 0
    beyond: int = 0
    low_m: tuple[float, ...] = (0.0, 0.0, 0.0)
    high_m: tuple[float, ...] = (0.0, 0.0, 0.0)
    farthest_m: float = 0.0
    middle_m: float | None = None
    off_centre: bool = False
    vertical: str = ""
    upside_down: bool = False
    ground_z_m: float | None = None
    lowest_intensity: float | None = None
    bright_intensity: float | None = None
    top_intensity: float | None = None


def measure_cloud(
    points: Array, intensity: int | None = None, range_m: Sequence[float] | None = None, *, counts_only: bool = False
) -> CloudFacts:
    """Measures a cloud; what needs no count of every point is measured on some 8,000 of them, the same every time.

    Args:
        points: (N, C) float32, x, y, z first, metres.
        intensity: Column of the intensity, if there is one.
        range_m: The model's (x, y, z, x, y, z), low then high.
        counts_only: Leave all but `in_file`, `points`, `zeros` and `invalid` as they are of no cloud: a fifth of the
            time.
    """
    total = len(points)
    kept, invalid = _finite(points)
    is_zero = kept[:, 0] == 0
    zeros = 0
    if is_zero.any():
        is_zero &= (kept[:, 1] == 0) & (kept[:, 2] == 0)
        zeros = int(is_zero.sum())
        kept = kept[~is_zero] if zeros else kept
    if not len(kept) or counts_only:
        return CloudFacts(total, len(kept), zeros, invalid)
    axes = [np.ascontiguousarray(kept[:, axis]) for axis in range(3)]
    low, high = [float(values.min()) for values in axes], [float(values.max()) for values in axes]
    outside = 0
    if range_m is not None:
        limits = np.asarray(range_m, np.float32)
        inside = np.ones(len(kept), bool)
        for axis, values in enumerate(axes):
            # An axis that is all inside is not looked at again.
            if low[axis] < limits[axis] or high[axis] >= limits[axis + 3]:
                inside &= (values >= limits[axis]) & (values < limits[axis + 3])
        outside = len(kept) - int(inside.sum())
    beyond = 0
    if max(-min(low), max(high)) > _BEYOND_M:
        beyond = int(np.any([np.abs(values) > _BEYOND_M for values in axes], axis=0).sum())
    # An odd step: beams come in powers of two.
    some = kept[:: (len(kept) // _SAMPLE) | 1]
    xyz = some[:, :3].astype(np.float64)
    distance = np.hypot(xyz[:, 0], xyz[:, 1])
    levels: tuple[float | None, ...] = (None, None, None)
    if intensity is not None:
        column = kept[:, intensity]
        bright = float(np.percentile(some[:, intensity], _BRIGHT))
        levels = float(column.min()), bright, float(column.max())
    enough = len(kept) >= MIN_JUDGED
    ground, upside_down = _ground(xyz, distance) if enough else (None, False)
    return CloudFacts(
        total,
        len(kept),
        zeros,
        invalid,
        _repeated(kept, axes[0]),
        outside,
        beyond,
        tuple(low),
        tuple(high),
        float(np.hypot(max(-low[0], high[0]), max(-low[1], high[1]))),
        float(np.median(distance)) if enough else None,
        enough and _off_centre(xyz, distance),
        _vertical(xyz) if enough else "",
        upside_down,
        ground,
        *levels,
    )


def _finite(points: Array) -> tuple[Array, int]:
    # The sum of all is finite where all are, but for the rare overflow: then each is looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(points.sum()):
            return points, 0
    finite = np.isfinite(points).all(axis=1)
    return points[finite], len(points) - int(finite.sum())


def _repeated(points: Array, x: Array) -> int:
    """Points that equal an earlier one, estimated from those whose x has a certain hash."""
    if len(points) < MIN_JUDGED:
        return 0
    share = 1 << (len(points) // _SAMPLE).bit_length()
    with np.errstate(over="ignore"):
        hashed = (x.view("<u4") * np.uint32(0x9E3779B1)) >> np.uint32(16)
        chosen = np.flatnonzero(hashed & np.uint32(share - 1) == 0)
        bits = np.ascontiguousarray(points[chosen]).view("<u4").astype(np.uint64)
        key: NDArray[Any] = np.zeros(len(chosen), np.uint64)
        for column in range(bits.shape[1]):
            key = (key ^ bits[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
    if not len(key):
        return 0
    key.sort()
    return round(int((key[1:] == key[:-1]).sum()) / len(key) * len(points))


def _off_centre(xyz: NDArray[np.float64], distance: NDArray[np.float64]) -> bool:
    low, high = np.percentile(distance, [25, 75])
    return bool(np.hypot(*np.median(xyz[:, :2], axis=0)) > _AWAY * max(high - low, 1.0))


def _vertical(xyz: NDArray[np.float64]) -> str:
    """The axis along which near points are spread least, if by far."""
    near = np.linalg.norm(xyz, axis=1)
    some = xyz[(near > _RING_M[0]) & (near < _RING_M[1])]
    if len(some) < MIN_JUDGED // 2:
        return ""
    spread = np.subtract(*np.percentile(some, [75, 25], axis=0))
    flat = int(spread.argmin())
    others = np.delete(spread, flat)
    return "xyz"[flat] if spread[flat] * 2 < others.min() and spread[flat] < 4 * _CELL_M else ""


def _ground(xyz: NDArray[np.float64], distance: NDArray[np.float64]) -> tuple[float | None, bool]:
    """Height of the flat layer at which the cells around the vehicle begin, and whether they end in one instead.

    The lowest point of each cell is ground or an object's foot, the highest an object's top: the lowest ones lie in one
    plane, the highest do not. Turned over, it is the other way round.
    """
    near = (distance > _RING_M[0]) & (distance < _RING_M[1])
    some = xyz[near]
    if len(some) < MIN_JUDGED // 2:
        return None, False
    cell = (some[:, 0] // _CELL_M).astype(np.int64) * 64 + (some[:, 1] // _CELL_M).astype(np.int64)
    # One sort of both: the cell, and below it the height in millimetres.
    height = np.clip(some[:, 2] * 1e3, -_HEIGHT_MM, _HEIGHT_MM - 1).astype(np.int64) + _HEIGHT_MM
    both = np.sort(cell * (2 * _HEIGHT_MM) + height)
    cells, heights = both // (2 * _HEIGHT_MM), (both % (2 * _HEIGHT_MM) - _HEIGHT_MM) / 1e3
    starts = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1))
    ends = np.append(starts[1:], len(cells))
    full = ends - starts >= _MIN_IN_CELL
    if int(full.sum()) < _MIN_CELLS:
        return None, False
    lowest, highest = heights[starts[full]], heights[ends[full] - 1]
    low, high = float(np.median(lowest)), float(np.median(highest))
    flat_below, flat_above = (
        float(np.percentile(np.abs(values - middle), 60)) for values, middle in ((lowest, low), (highest, high))
    )
    upside_down = flat_above < _FLAT_M and flat_below > max(_CLEARLY * flat_above, _MIN_SPREAD_M)
    return (high if upside_down else low) if min(flat_below, flat_above) < 2 * _FLAT_M else None, upside_down
