"""What a set of scans is like, in numbers that a real and a generated one can be held against each other by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ELEVATION_EDGES_DEG",
    "FAR_EDGES_M",
    "RANGE_EDGES_M",
    "Scan",
    "TileLayer",
    "active_tiles",
    "layers_of",
    "scan_facts",
]

RANGE_EDGES_M = (0, 10, 20, 30, 40, 50)
FAR_EDGES_M = (50, 75, 100, 150, 200)
ELEVATION_EDGES_DEG = tuple(range(-31, 17))
_HEIGHT_EDGES_M = (-10.0, -0.3, 0.3, 1.0, 2.0, 3.0, 10.0)
_TILE = (8, 16)
_CELL_M, _FLAT_M, _FEWEST, _NARROWEST_M = 2.0, 0.3, 12, 0.2
_PERCENTILES = (5, 25, 50, 75, 95)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scan:
    """One scan, z = 0 on the ground.

    Attributes:
        points: (N, >= 4) float32 x, y, z, intensity 0..255.
        origin_m: height of the sensor above the ground, for angles.
        boxes: (M, 7) x, y, z centre, l, w, h, yaw.
        names: class of each box.
        counts: (M,) points in each.
    """

    points: NDArray[np.float32]
    origin_m: float
    boxes: NDArray[np.float64]
    names: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class TileLayer:
    """A convolution as far as empty ground goes: `name`, whether it halves, by how much it spreads, what it reads."""

    name: str
    stride: int = 1
    spread: int = 1
    source: str = ""


def layers_of(backbone: Mapping[str, Any], neck: Mapping[str, Any]) -> list[TileLayer]:
    """Layers of a SECOND backbone and its SECONDFPN, canvas to neck, by their config."""
    layers, last = [], "canvas"
    for block, (count, stride) in enumerate(zip(backbone["layer_nums"], backbone["layer_strides"], strict=True)):
        for index in range(count + 1):
            name = f"blocks.{block}.{index}"
            layers.append(TileLayer(name, stride if index == 0 else 1, 1, last))
            last = name
        spread = neck["upsample_strides"][block]
        layers.append(TileLayer(f"deblocks.{block}", 1, int(spread), last))
    return layers


def active_tiles(canvas: Mask, layers: Sequence[TileLayer]) -> dict[str, float]:
    """Share of 8 x 16 tiles of each layer's output that an occupied pillar can reach.

    A 3 x 3 convolution reaches one cell, one of stride 2 halves the map, a transposed one spreads each cell.
    """
    maps, shares = {"canvas": canvas}, {"canvas": _tile_share(canvas)}
    for layer in layers:
        cells = maps[layer.source]
        if layer.name.startswith("deblocks"):
            cells = np.kron(cells, np.ones((layer.spread, layer.spread), bool)) if layer.spread > 1 else cells
        else:
            cells = _dilated(cells)[:: layer.stride, :: layer.stride]
        maps[layer.name] = cells
        shares[layer.name] = _tile_share(cells)
    return shares


def _dilated(cells: Mask) -> Mask:
    padded = np.pad(cells, 1)
    height, width = cells.shape
    reached = np.zeros_like(cells)
    for dy in range(3):
        for dx in range(3):
            reached |= padded[dy : dy + height, dx : dx + width]
    return reached


def _tile_share(cells: Mask) -> float:
    rows, columns = (-(-size // step) for size, step in zip(cells.shape, _TILE, strict=True))
    padded = np.zeros((rows * _TILE[0], columns * _TILE[1]), bool)
    padded[: cells.shape[0], : cells.shape[1]] = cells
    return float(padded.reshape(rows, _TILE[0], columns, _TILE[1]).any(axis=(1, 3)).mean())


def scan_facts(
    scans: Iterable[Scan], view_deg: float, range_m: Sequence[float], voxel_m: float, layers: Sequence[TileLayer]
) -> dict[str, Any]:
    """Means over the scans.

    Args:
        scans: At least one.
        view_deg: Points and objects within this angle of straight ahead count; 180 for all.
        range_m: The model's range (6,).
        voxel_m: Side of its pillars.
        layers: Of its network, for tiles.
    """
    rows: list[dict[str, NDArray[np.float64]]] = []
    intensity, elevation, objects = [], [], []
    for scan in scans:
        seen = np.abs(np.degrees(np.arctan2(scan.points[:, 1], scan.points[:, 0]))) < view_deg
        points = scan.points[seen].astype(np.float64)
        rows.append(_of_scan(points, range_m, voxel_m, layers))
        intensity.append(points[:, 3])
        elevation.append(np.degrees(np.arctan2(points[:, 2] - scan.origin_m, np.hypot(points[:, 0], points[:, 1]))))
        near = np.abs(np.degrees(np.arctan2(scan.boxes[:, 1], scan.boxes[:, 0]))) < view_deg
        distance = np.hypot(scan.boxes[:, 0], scan.boxes[:, 1])
        objects += [(scan.names[i], float(distance[i]), int(scan.counts[i])) for i in np.flatnonzero(near)]
    means = {key: _mean([row[key] for row in rows]).tolist() for key in rows[0]}
    return {
        "scans": len(rows),
        **means,
        "tiles": dict(zip(["canvas", *(layer.name for layer in layers)], means["tiles"], strict=True)),
        "intensity": np.percentile(np.concatenate(intensity), _PERCENTILES).tolist(),
        "elevation_deg": np.percentile(np.concatenate(elevation), _PERCENTILES).tolist(),
        "elevation_histogram": (np.histogram(np.concatenate(elevation), ELEVATION_EDGES_DEG)[0] / len(rows)).tolist(),
        "objects": _of_objects(objects, len(rows)),
    }


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    total, count = np.where(known, stacked, 0.0).sum(axis=0), known.sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _of_scan(
    points: NDArray[np.float64], range_m: Sequence[float], voxel_m: float, layers: Sequence[TileLayer]
) -> dict[str, NDArray[np.float64]]:
    distance = np.hypot(points[:, 0], points[:, 1])
    lower, upper = np.asarray(range_m[:3]), np.asarray(range_m[3:])
    inside = points[((points[:, :3] >= lower) & (points[:, :3] < upper)).all(axis=1)]
    width, height = (round(float(upper[i] - lower[i]) / voxel_m) for i in (0, 1))
    cells = np.minimum(((inside[:, :2] - lower[:2]) / voxel_m).astype(int), [width - 1, height - 1])
    canvas = np.zeros((height, width), bool)
    canvas[cells[:, 1], cells[:, 0]] = True
    places = np.argwhere(canvas)
    away = np.hypot(*(((places[:, ::-1] + 0.5) * voxel_m + lower[:2]).T))
    return {
        "points": np.array(float(len(points))),
        "points_by_range": np.histogram(distance, RANGE_EDGES_M)[0].astype(float),
        "points_far": np.histogram(distance, FAR_EDGES_M)[0].astype(float),
        "pillars": np.array(float(canvas.sum())),
        "pillars_by_range": np.histogram(away, RANGE_EDGES_M)[0].astype(float),
        "pillars_far": np.histogram(away, FAR_EDGES_M)[0].astype(float),
        "tiles": np.array(list(active_tiles(canvas, layers).values())),
        "height_shares": np.histogram(points[distance < RANGE_EDGES_M[-1], 2], _HEIGHT_EDGES_M)[0]
        / max(1, int((distance < RANGE_EDGES_M[-1]).sum())),
        "roughness_m": _roughness(points),
    }


def _roughness(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """By range, median standard deviation of z about a plane, over flat cells of 2 m near z = 0; NaN without one.

    Points of one beam lie on a line and fit any plane through it: cells count where points spread both ways.
    """
    low = points[np.abs(points[:, 2]) < 0.5]
    cell = np.floor(low[:, :2] / _CELL_M).astype(np.int64)
    _, which = np.unique(cell, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    ends = np.flatnonzero(np.diff(which.ravel()[order])) + 1
    found = []
    for rows in np.split(order, ends) if len(order) else []:
        if len(rows) < _FEWEST or np.ptp(low[rows, 2]) > _FLAT_M:
            continue
        own = low[rows, :3]
        flat = own[:, :2] - own[:, :2].mean(axis=0)
        if np.linalg.svd(flat, compute_uv=False)[1] < _NARROWEST_M * np.sqrt(len(own)):
            continue
        base = np.column_stack([flat, np.ones(len(own))])
        plane, *_ = np.linalg.lstsq(base, own[:, 2], rcond=None)
        found.append((float(np.hypot(*own[:, :2].mean(axis=0))), float(np.std(own[:, 2] - base @ plane))))
    values = np.array(found).reshape(-1, 2)
    out = np.full(len(RANGE_EDGES_M) - 1, np.nan)
    for index, (near, far) in enumerate(pairwise(RANGE_EDGES_M)):
        here = values[(values[:, 0] >= near) & (values[:, 0] < far), 1]
        out[index] = np.median(here) if len(here) else np.nan
    return out


def _of_objects(objects: Sequence[tuple[str, float, int]], scans: int) -> dict[str, list[dict[str, float | None]]]:
    """By class and range: objects a scan, and their points at the tenth, half and nine tenths; hidden ones have few."""
    table: dict[str, list[dict[str, float | None]]] = {}
    for name in dict.fromkeys(item[0] for item in objects):
        table[name] = []
        for near, far in pairwise(RANGE_EDGES_M):
            counts = np.array([c for n, d, c in objects if n == name and near <= d < far])
            seen = counts[counts > 0]
            p10, p50, p90 = np.percentile(seen, (10, 50, 90)).tolist() if len(seen) else (None, None, None)
            median = p50 or 0.0
            table[name].append(
                {
                    "per_scan": len(counts) / scans,
                    "unseen": float((counts == 0).mean()) if len(counts) else None,
                    "mostly_hidden": float((counts < 0.25 * median).mean()) if len(seen) else None,
                    "p10": p10,
                    "median": p50,
                    "p90": p90,
                }
            )
    return table
