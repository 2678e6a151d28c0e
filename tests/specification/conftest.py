"""A user's folder as the specification assumes it: a T4 dataset and trained weights of a tiny CenterPoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.commands.small_dataset import frame_points, write_split

REPOSITORY = Path(__file__).parents[2]
MODEL_CONFIG = REPOSITORY / "tests" / "data" / "specification" / "tiny.py"
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


def write_dataset(root: Path) -> None:
    """The specification's layout: two info files, and point clouds in `lidar/`."""
    first = 0
    for split, count in NUM_FRAMES.items():
        write_split(root, split, [frame_points(first + index) for index in range(count)], first)
        first += count


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
