"""A user's folder as the specification assumes it: a T4 dataset and trained weights of a tiny CenterPoint."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

REPOSITORY = Path(__file__).parents[2]
MODEL_CONFIG = REPOSITORY / "tests" / "data" / "specification" / "tiny.py"
CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]
NUM_FRAMES = {"train": 4, "val": 2}


@dataclass(frozen=True)
class Project:
    """A folder in which the specification's commands are typed.

    Attributes:
        root: The folder; `data/t4dataset` and `work_dirs/centerpoint/best.pth` lie in it.
        model_config: Of the tiny CenterPoint.
    """

    root: Path
    model_config: Path

    @property
    def checkpoint(self) -> Path:
        """The trained weights, where the specification's commands look for them."""
        return self.root / "work_dirs" / "centerpoint" / "best.pth"

    @property
    def data_root(self) -> Path:
        """The dataset."""
        return self.root / "data" / "t4dataset"


def frame_points(seed: int, count: int = 600) -> NDArray[np.float32]:
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


def write_dataset(root: Path) -> None:
    """The specification's layout: two info files, and point clouds in `lidar/`."""
    (root / "lidar").mkdir(parents=True)
    index = 0
    for split, count in NUM_FRAMES.items():
        samples = []
        for _ in range(count):
            name = f"lidar/{index:05d}.bin"
            frame_points(index).astype("<f4").tofile(root / name)
            samples.append(sample(index, name))
            index += 1
        info = {"data_list": samples, "metainfo": {"classes": CLASSES, "version": "tiny"}}
        (root / f"centerpoint_infos_{split}.pkl").write_bytes(pickle.dumps(info, protocol=4))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The folder; what its tests write there lies in `work_dirs`."""
    import torch

    from models.build import build_model
    from models.config import load_model_config

    torch.set_num_threads(1)
    made = Project(tmp_path_factory.mktemp("project"), MODEL_CONFIG)
    write_dataset(made.data_root)
    model: Any = build_model(load_model_config(MODEL_CONFIG), seed=5)
    with torch.no_grad():
        # An untrained head scores 1 %; raised and spread, so that there are boxes to compare, and no ties at 100 %.
        heatmap = model.pts_bbox_head.task_heads[0].heatmap[-1]
        heatmap.bias.fill_(-0.5)
        heatmap.weight.mul_(3.0)
    made.checkpoint.parent.mkdir(parents=True)
    torch.save({"state_dict": model.state_dict(), "meta": {"seed": 5}}, made.checkpoint)
    return made
