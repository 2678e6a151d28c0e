"""Models, weights and clouds to check kernels with: those of real size, and those at the kernels' limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.spec import ROTATE, HeadSpec, ModelSpec, TaskSpec
from runtime.pillar_weights import PfnLayer, PillarWeights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "ROTATED",
    "clumped_cloud",
    "engine_spec",
    "features_alone",
    "hard_clouds",
    "large_cloud",
    "random_weights",
    "several_tasks",
    "stock_spec",
]

_HEADS = {"heatmap": 5, "reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}


def engine_spec(cells: int, **changes: object) -> ModelSpec:
    """A square model of that many cells along each side, 0.32 m each, with the released models' other numbers."""
    half = cells * 0.16
    spec = ModelSpec(
        name=f"check{cells}",
        point_cloud_range=(-half, -half, -3.0, half, half, 5.0),
        voxel_size=(0.32, 0.32, 8.0),
        max_points_per_voxel=32,
        max_voxels=64000,
        point_columns=("x", "y", "z", "intensity", "time_lag"),
        voxel_center_dims=3,
        encoder_channels=32,
        out_size_factor=1,
        tasks=(
            TaskSpec(
                class_names=("car", "truck", "bus", "bicycle", "pedestrian"),
                heads=tuple(HeadSpec(name, channels) for name, channels in _HEADS.items()),
                nms_min_radius_m2=1.0,
            ),
        ),
        norm_bbox=True,
        score_threshold=0.1,
        max_detections_before_nms=500,
        post_center_range=(-half, -half, -10.0, half, half, 10.0),
        nms_type="circle",
        post_max_size=100,
    )
    return spec.changed(**changes)


def several_tasks() -> tuple[TaskSpec, ...]:
    """Tasks of other sizes and radii than each other's."""
    return _tasks((("car",), 4.0), (("truck", "bus"), 12.0), (("bicycle", "pedestrian"), 0.2))


def _tasks(*groups: tuple[tuple[str, ...], float]) -> tuple[TaskSpec, ...]:
    return tuple(
        TaskSpec(
            names, tuple(HeadSpec(name, len(names) if name == "heatmap" else _HEADS[name]) for name in _HEADS), radius
        )
        for names, radius in groups
    )


def stock_spec(**changes: object) -> ModelSpec:
    """MMDetection3D's stock pillar model for nuScenes (`centerpoint_pillar02_second_secfpn_head-circlenms`)."""
    tasks = _tasks(
        (("car",), 4.0),
        (("truck", "construction_vehicle"), 12.0),
        (("bus", "trailer"), 10.0),
        (("barrier",), 1.0),
        (("motorcycle", "bicycle"), 0.85),
        (("pedestrian", "traffic_cone"), 0.175),
    )
    values: dict[str, object] = {
        "name": "pillar02",
        "point_cloud_range": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
        "voxel_size": (0.2, 0.2, 8.0),
        "max_points_per_voxel": 20,
        "max_voxels": 40_000,
        "encoder_channels": 64,
        "out_size_factor": 4,
        "tasks": tasks,
        "post_center_range": (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0),
        "post_max_size": 83,
    }
    return engine_spec(512, **(values | changes))


ROTATED: dict[str, object] = {"nms_type": ROTATE, "nms_iou_threshold": 0.2, "nms_pre_max_size": 50}
"""Suppression by overlap."""


def random_weights(spec: ModelSpec, hidden: int, *, float16: bool = False, seed: int = 0) -> PillarWeights:
    """Weights whose results are of the size of a trained encoder's.

    Args:
        spec: The model.
        hidden: Channels of the first of two layers; 0 for one layer.
        float16: Of the graph.
        seed: Of the numbers.
    """
    rng = np.random.default_rng(seed)
    sizes = [(spec.encoder_in_features, hidden), (2 * hidden, spec.encoder_channels)]
    if not hidden:
        sizes = [(spec.encoder_in_features, spec.encoder_channels)]
    parts = [rng.normal(0, 0.3, shape).astype(np.float32) for size in sizes for shape in (size, size[1:])]
    parts[0][:2] *= 0.05  # absolute positions matter little
    if float16:
        parts = [part.astype(np.float16).astype(np.float32) for part in parts]
    layers = zip(parts[::2], parts[1::2], strict=True)
    return PillarWeights(tuple(PfnLayer(weight, bias) for weight, bias in layers), float16)


def features_alone(spec: ModelSpec) -> PillarWeights:
    """One layer that passes on each feature of a decorated point and its negative: what a pillar's points hold, bit by
    bit.

    Args:
        spec: A model with twice as many encoder channels as features.
    """
    one = np.eye(spec.layer_in_features, dtype=np.float32)
    return PillarWeights((PfnLayer(np.concatenate([one, -one], axis=1), np.zeros(2 * len(one), np.float32)),))


def large_cloud(spec: ModelSpec, count: int = 200_000, seed: int = 0) -> NDArray[np.float32]:
    """Dense close to the vehicle, thin far away, in random order: more pillars than the model keeps, the worst case."""
    rng = np.random.default_rng(seed)
    reach = spec.point_cloud_range[3]
    radius = reach * 1.1 * rng.uniform(0, 1, count) ** 0.75
    angle = rng.uniform(-np.pi, np.pi, count)
    z = rng.normal(-0.5, 1.0, count)
    xyz = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
    rest = rng.uniform(0, 1, (count, spec.point_features - 3))
    return np.concatenate([xyz, rest], axis=1, dtype=np.float32)


def clumped_cloud(spec: ModelSpec, count: int, seed: int) -> NDArray[np.float32]:
    """Clumps of points, some beyond the range, a few not finite."""
    rng = np.random.default_rng(seed)
    reach = np.asarray(spec.point_cloud_range[3:]) * 1.1
    centers = rng.uniform(-reach, reach, (max(count // 12, 1), 3))
    xyz = centers[rng.integers(0, len(centers), count)] + rng.normal(0, 0.3, (count, 3))
    cloud = np.concatenate([xyz, rng.uniform(0, 1, (count, spec.point_features - 3))], axis=1).astype(np.float32)
    bad = rng.random(cloud.shape) < 0.002
    cloud[bad] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), int(bad.sum()))
    far = rng.random((count, 3)) < 0.002
    cloud[:, :3][far] = rng.choice(np.array([3e38, -3e38], np.float32), int(far.sum()))
    return cloud


def sized_pillars(spec: ModelSpec, most: int, seed: int = 5) -> NDArray[np.float32]:
    """Pillars whose points fill rows of 8, 16, 32, 64, 96 and 128 but for a few, and exceed them, in random order."""
    rng = np.random.default_rng(seed)
    sizes = np.array([*range(1, 42), *range(62, 68), *range(94, 100), *range(126, 132), 300])
    sizes = sizes[np.cumsum(sizes) <= most]
    nx, ny = spec.grid_size
    cells = rng.permutation(nx * ny)[: len(sizes)].repeat(sizes)
    cloud = rng.uniform(0.1, 0.9, (len(cells), spec.point_features))
    for axis, index in enumerate((cells % nx, cells // nx)):
        cloud[:, axis] = spec.point_cloud_range[axis] + (index + cloud[:, axis]) * spec.voxel_size[axis]
    return rng.permutation(cloud).astype(np.float32)


def hard_clouds(spec: ModelSpec, capacity: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Clouds at the limits of the kernels, by name."""
    columns = spec.point_features
    middle = np.full((1, columns), 0.1, np.float32)
    yield "no point", np.zeros((0, columns), np.float32)
    yield "one point", middle
    yield "clumps", clumped_cloud(spec, min(capacity, 5000), 1)
    yield "no point after clumps", np.zeros((0, columns), np.float32)
    yield (
        "one pillar",
        middle + np.random.default_rng(2).uniform(0, 0.1, (min(capacity, 5000), columns)).astype(np.float32),
    )
    yield "pillars of each size", sized_pillars(spec, capacity)
    yield "not finite", np.full((100, columns), np.nan, np.float32)
    yield "outside", np.full((100, columns), 1e6, np.float32)
    yield "full", clumped_cloud(spec, capacity, 3)
    # One point in each cell, in a random order: more pillars than the model keeps.
    nx, ny = spec.grid_size
    cells = np.random.default_rng(4).permutation(nx * ny)[:capacity]
    every = np.zeros((len(cells), columns), np.float32)
    for axis, index in enumerate((cells % nx, cells // nx)):
        every[:, axis] = spec.point_cloud_range[axis] + (index + 0.5) * spec.voxel_size[axis]
    yield "a point in each cell", every
    yield "clumps again", clumped_cloud(spec, min(capacity, 5000), 1)
