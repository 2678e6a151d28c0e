"""A T4 dataset of a few frames, small enough for the tiny models of the tests."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]
Points: TypeAlias = NDArray[np.float32]


def frame_points(seed: int, count: int = 600) -> Points:
    """(count, 5) float32 within the tiny model's range, in clusters, so that pillars hold several points."""
    generator = np.random.default_rng(seed)
    centers = generator.uniform(-4.5, 4.5, (40, 2))
    points = np.zeros((count, 5), np.float32)
    points[:, :2] = centers[generator.integers(0, len(centers), count)] + generator.normal(0, 0.15, (count, 2))
    points[:, 2] = generator.uniform(-2, 2, count)
    points[:, 3] = generator.uniform(0, 255, count)
    return points


def sample(index: int, name: str) -> dict[str, Any]:
    """One key frame of an info file, with an object of each class."""
    instances = [
        {
            "bbox_3d": [x, 1.0, 0.0, 4.0, 1.8, 1.5, 0.3],
            "bbox_label": label,
            "bbox_label_3d": label,
            "velocity": [1.0, 0.0],
            "num_lidar_pts": 20,
            "num_radar_pts": 0,
            "bbox_3d_isvalid": True,
        }
        for label, x in enumerate((-4.0, -2.0, 0.0, 2.0, 4.0))
    ]
    return {
        "sample_idx": index,
        "token": f"frame-{index}",
        "timestamp": 1000.0 + 0.1 * index,
        "scene_name": "tiny",
        "ego2global": np.eye(4).tolist(),
        "lidar_points": {"num_pts_feats": 5, "lidar_path": name, "lidar2ego": np.eye(4).tolist()},
        "lidar_sweeps": [],
        "images": {},
        "instances": instances,
    }


def write_split(root: Path, split: str, clouds: Sequence[Points], first: int = 0) -> Path:
    """The info file of a split with a frame for each cloud, and the clouds in `lidar/`, numbered from `first`."""
    (root / "lidar").mkdir(parents=True, exist_ok=True)
    samples = []
    for index, cloud in enumerate(clouds, first):
        name = f"lidar/{index:05d}.bin"
        cloud.astype("<f4").tofile(root / name)
        samples.append(sample(index, name))
    info = {"data_list": samples, "metainfo": {"classes": CLASSES, "version": "tiny"}}
    (root / f"centerpoint_infos_{split}.pkl").write_bytes(pickle.dumps(info, protocol=4))
    return root
