"""Voxelization and decoration against mmdet3d, a sequential reference, and properties that hold for any cloud."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from base.errors import DataError
from models.build import import_mmdet3d
from models.spec import ModelSpec
from runtime.preprocess import decorate, preprocess, voxelize
from tests.runtime.small_model import cloud, small_spec

torch = pytest.importorskip("torch")

CASES = [
    pytest.param({}, 5000, id="overflowing-pillars"),
    pytest.param({"max_voxels": 60}, 5000, id="too-many-pillars"),
    pytest.param({"max_points_per_voxel": 1, "max_voxels": 17}, 3000, id="one-point-a-pillar"),
    pytest.param({"max_points_per_voxel": 32}, 8000, id="32-points"),
    pytest.param(
        {"voxel_size": (0.32, 0.32, 0.5), "point_columns": ("x", "y", "z", "time_lag")}, 4000, id="several-layers"
    ),
    pytest.param({}, 1, id="one-point"),
]


def sequential(points: NDArray[np.float32], spec: ModelSpec) -> tuple[list[list[int]], list[tuple[int, ...]], int]:
    """Point indices and [z, y, x] of each pillar by the definition, one point after the other."""
    low, high = (np.asarray(spec.point_cloud_range, np.float32)[i : i + 3] for i in (0, 3))
    size = np.asarray(spec.voxel_size, np.float32)
    grid = np.round((high - low) / size)
    members: dict[tuple[int, ...], list[int]] = {}
    dropped: set[tuple[int, ...]] = set()
    for i, point in enumerate(points):
        if not np.isfinite(point).all():
            continue
        cell = np.floor((point[:3] - low) / size)
        if (cell < 0).any() or (cell >= grid).any():
            continue
        key = tuple(int(v) for v in cell[::-1])
        if key not in members:
            if len(members) == spec.max_voxels:
                dropped.add(key)
                continue
            members[key] = []
        if len(members[key]) < spec.max_points_per_voxel:
            members[key].append(i)
    return list(members.values()), list(members), len(dropped)


@pytest.mark.parametrize(("changes", "count"), CASES)
def test_voxels_and_features_are_mmdet3ds_bit_for_bit(changes: dict[str, Any], count: int) -> None:
    import_mmdet3d()
    from mmcv.ops.voxelize import voxelization
    from mmdet3d.models.voxel_encoders import PillarFeatureNet

    spec = small_spec(**changes)
    points = cloud(1, count, spec.point_features)
    if count == 1:
        points[:] = 0.1
    ours = voxelize(points, spec)
    limits = (spec.max_points_per_voxel, spec.max_voxels, True)
    theirs = voxelization(torch.from_numpy(points), list(spec.voxel_size), list(spec.point_cloud_range), *limits)
    for mine, stock in zip((ours.points, ours.coords, ours.num_points), theirs, strict=True):
        np.testing.assert_array_equal(mine, stock.numpy(), strict=True)

    net = PillarFeatureNet(
        in_channels=spec.point_features,
        feat_channels=(8,),
        voxel_size=spec.voxel_size,
        point_cloud_range=spec.point_cloud_range,
        legacy=False,
    ).eval()
    seen: dict[str, Any] = {}
    net.pfn_layers[0].register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0].clone()))
    with torch.no_grad():
        net(theirs[0].clone(), theirs[2], torch.nn.functional.pad(theirs[1], (1, 0)))
    np.testing.assert_array_equal(decorate(ours, spec), seen["features"].numpy(), strict=True)


@pytest.mark.parametrize(("changes", "count"), CASES)
def test_torch_gives_the_same_bits_as_numpy(changes: dict[str, Any], count: int) -> None:
    spec = small_spec(**changes)
    points = cloud(2, count, spec.point_features)
    points[::7, 2] = np.nan
    on_numpy, on_torch = voxelize(points, spec), voxelize(torch.from_numpy(points), spec)
    for name in ("points", "num_points", "coords"):
        np.testing.assert_array_equal(getattr(on_numpy, name), getattr(on_torch, name).numpy(), strict=True)
    assert on_numpy.counts == on_torch.counts
    np.testing.assert_array_equal(decorate(on_numpy, spec), decorate(on_torch, spec).numpy(), strict=True)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 300),
    max_voxels=st.integers(1, 40),
    max_points=st.integers(1, 6),
    on_borders=st.booleans(),
)
def test_any_cloud_matches_the_sequential_definition(
    seed: int, count: int, max_voxels: int, max_points: int, on_borders: bool
) -> None:
    spec = small_spec(max_voxels=max_voxels, max_points_per_voxel=max_points)
    points = cloud(seed, count) if count else np.zeros((0, 5), np.float32)
    if on_borders:  # coordinates that are multiples of the cell size, where rounding decides
        points[:, :2] = np.round(points[:, :2] / np.float32(0.32)) * np.float32(0.32)
    if count > 10:
        points[3, 4], points[5, 0] = np.inf, np.nan
    members, cells, dropped = sequential(points, spec)
    voxels = voxelize(points, spec)
    assert [tuple(c) for c in voxels.coords.tolist()] == cells
    assert voxels.num_points.tolist() == [len(m) for m in members]
    for row, indices in zip(voxels.points, members, strict=True):
        np.testing.assert_array_equal(row[: len(indices)], points[indices])
        assert not row[len(indices) :].any()
    counts = voxels.counts
    assert (counts.voxels, counts.dropped_voxels) == (len(cells), dropped)
    kept = int(voxels.num_points.sum())
    left_out = counts.dropped_points + counts.outside_points + counts.invalid_points
    assert kept + left_out == count


def test_decoration_by_hand() -> None:
    spec = small_spec(voxel_size=(1.0, 1.0, 8.0), point_cloud_range=(-4, -4, -3, 4, 4, 5))
    points = np.array([[0.25, 1.5, 0.0, 0.5, 0.1], [0.75, 1.25, 2.0, 0.25, 0.0]], np.float32)
    features = preprocess(points, spec).features
    # Mean (0.5, 1.375, 1.0); centre of cell (x 4, y 5): (0.5, 1.5), of the one layer: 1.0.
    first = [0.25, 1.5, 0.0, 0.5, 0.1, -0.25, 0.125, -1.0, -0.25, 0.0, -1.0]
    second = [0.75, 1.25, 2.0, 0.25, 0.0, 0.25, -0.125, 1.0, 0.25, -0.25, 1.0]
    np.testing.assert_allclose(features[0, :2], [first, second], atol=1e-7)
    assert not features[0, 2:].any()
    flat = preprocess(
        points, small_spec(voxel_size=(1.0, 1.0, 8.0), point_cloud_range=(-4, -4, -3, 4, 4, 5), voxel_center_dims=2)
    )
    np.testing.assert_array_equal(flat.features, features[:, :, :10])


@pytest.mark.parametrize("points", [np.zeros((0, 5)), np.full((3, 5), np.nan), np.full((3, 5), 1e38)])
def test_a_cloud_without_a_usable_point_gives_no_pillars(points: NDArray[np.float64], spec: ModelSpec) -> None:
    for given_points in (points.astype(np.float32), torch.from_numpy(points.astype(np.float32))):
        result = preprocess(given_points, spec)
        assert result.features.shape == spec.encoder_shape(0)
        assert result.coords.shape == (0, 3)
        assert result.counts.invalid_points + result.counts.outside_points == len(points)


def test_wrong_points_are_refused_by_name(spec: ModelSpec) -> None:
    with pytest.raises(DataError, match=r"shape \(7, 4\); model 'small' needs \(N, 5\)"):
        voxelize(np.zeros((7, 4), np.float32), spec)
    with pytest.raises(DataError, match=r"is float64; it must be float32"):
        voxelize(np.zeros((7, 5)), spec)
    with pytest.raises(DataError, match=r"is float16; it must be float32"):
        voxelize(torch.zeros((7, 5), dtype=torch.float16), spec)
