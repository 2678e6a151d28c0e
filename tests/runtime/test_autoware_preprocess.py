"""The encoder's input is what the node's kernels assemble, for each of the three widths it knows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.point_columns import NODE_COLUMNS
from models.spec import ModelSpec
from runtime.preprocess import preprocess
from tests.runtime.small_model import cloud, small_spec


def node_pillars(points: NDArray[np.float32], spec: ModelSpec) -> dict[tuple[int, int], list[NDArray[np.float32]]]:
    """(y, x) -> its points: the node's range test and cell, in input order where the node's is random."""
    low = np.asarray(spec.point_cloud_range[:3], np.float32)
    high = np.asarray(spec.point_cloud_range[3:], np.float32)
    pillars: dict[tuple[int, int], list[NDArray[np.float32]]] = {}
    for point in points:
        if any(not low[axis] <= point[axis] < high[axis] for axis in range(3)):
            continue
        x, y = (int(np.floor((point[axis] - low[axis]) / np.float32(spec.voxel_size[axis]))) for axis in (0, 1))
        pillar = pillars.setdefault((y, x), [])
        if len(pillar) < spec.max_points_per_voxel:
            pillar.append(point)
    return pillars


def node_features(pillar: list[NDArray[np.float32]], y: int, x: int, spec: ModelSpec) -> list[list[float]]:
    """9: x y z t; 10: the same with the z offset; 11: x y z intensity t; then mean and centre offsets."""
    mean = [sum(float(point[axis]) for point in pillar) / len(pillar) for axis in range(3)]
    cell = (x, y, 0)
    centre = [spec.voxel_size[a] / 2 + cell[a] * spec.voxel_size[a] + spec.point_cloud_range[a] for a in range(3)]
    rows = []
    for point in pillar:
        row = [float(value) for value in point]
        row += [float(point[axis]) - mean[axis] for axis in range(3)]
        row += [float(point[axis]) - centre[axis] for axis in range(2 if spec.encoder_in_features == 9 else 3)]
        rows.append(row)
    return rows + [[0.0] * spec.encoder_in_features] * (spec.max_points_per_voxel - len(pillar))


@pytest.mark.parametrize(("columns", "center_dims", "width"), [(4, 2, 9), (4, 3, 10), (5, 3, 11)])
def test_features_are_the_node_s(columns: int, center_dims: int, width: int) -> None:
    spec = small_spec(point_columns=next(c for c in NODE_COLUMNS if len(c) == columns), voxel_center_dims=center_dims)
    assert spec.encoder_in_features == width
    points = cloud(4, 3000, columns)
    # On the limits: the lower one is inside, the upper one is not.
    points[0, :3], points[1, :3] = spec.point_cloud_range[:3], spec.point_cloud_range[3:]
    pillars = node_pillars(points, spec)
    ours = preprocess(points, spec)
    cells = [(int(y), int(x)) for _, y, x in ours.coords]
    assert sorted(cells) == sorted(pillars)
    assert (0, 0) in pillars
    for features, cell in zip(ours.features, cells, strict=True):
        np.testing.assert_allclose(features, node_features(pillars[cell], *cell, spec), atol=5e-6)
