"""A small model specification, its stock mmdet3d network, and clouds to run through both."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from models.spec import HeadSpec, ModelSpec
from numpy.typing import NDArray


def small_spec(**changes: Any) -> ModelSpec:
    spec = ModelSpec(
        name="small",
        class_names=("car", "truck", "bus", "bicycle", "pedestrian"),
        point_cloud_range=(-12.8, -9.6, -3.0, 12.8, 9.6, 5.0),
        voxel_size=(0.32, 0.32, 8.0),
        max_points_per_voxel=8,
        max_voxels=2000,
        point_features=5,
        voxel_center_dims=3,
        encoder_channels=8,
        out_size_factor=2,
        heads=tuple(HeadSpec(n, c) for n, c in dict(heatmap=5, reg=2, height=1, dim=3, rot=2, vel=2).items()),
        norm_bbox=True,
        score_threshold=0.1,
        max_detections_before_nms=200,
        post_center_range=(-15.0, -10.0, -10.0, 15.0, 10.0, 10.0),
        nms_type="circle",
        nms_min_radius_m2=1.0,
        post_max_size=50,
    )
    return dataclasses.replace(spec, **changes)


def cloud(seed: int, count: int, columns: int = 5) -> NDArray[np.float32]:
    """Points in clumps, so that pillars overflow, some beyond the range."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform((-14, -11, -3.5), (14, 11, 5.5), (max(count // 12, 1), 3))
    xyz = centers[rng.integers(0, len(centers), count)] + rng.normal(0, 0.3, (count, 3))
    return np.concatenate([xyz, rng.uniform(0, 1, (count, columns - 3))], axis=1).astype(np.float32)


@pytest.fixture
def spec() -> ModelSpec:
    return small_spec()
