"""A raw T4 dataset, weights of a small model that finds boxes, and how a command is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.synthetic.dataset_writer import DatasetConfig, generate
from models.build import build_model
from models.config import load_model_config

DEPLOYMENT = Path(__file__).parents[1] / "data" / "deploy" / "tiny_deployment.py"
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw T4 dataset of two key frames and their sweeps."""
    root = tmp_path_factory.mktemp("case") / "data"
    config = DatasetConfig({"val": 1}, frames_per_scene=2, seed=5, key_every=2, sweeps=1, tables=True)
    generate(config, root, workers=1)
    return root


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    model: Any = build_model(load_model_config(DEPLOYMENT), seed=5)
    with torch.no_grad():  # so that there are boxes
        heatmap = model.pts_bbox_head.task_heads[0].heatmap[-1]
        heatmap.bias.fill_(-0.5)
        heatmap.weight.mul_(3.0)
    return dict(model.state_dict())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its exit code, and what it said to the user."""

    def run(command: Any, *arguments: object) -> tuple[int, str]:
        code = command.main([*map(str, arguments), "--log-level=WARNING"])
        return code, capsys.readouterr().err

    return run
