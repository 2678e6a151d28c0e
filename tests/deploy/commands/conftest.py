"""A whole small deployment: model config, checkpoint, dataset, and the commands run as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.deploy.commands.in_process import Deploy, config_file
from tests.deploy.commands.small_dataset import CLASSES, Points, frame_points, write_split

REPOSITORY = Path(__file__).parents[3]
MODEL_CONFIG = REPOSITORY / "tests" / "data" / "deploy" / "tiny_deployment.py"
NUM_FRAMES = 3

# What the fixtures hand out.
MakeDataset: TypeAlias = Callable[[Path, list[Points]], Path]
MakePoints: TypeAlias = Callable[..., Points]
Command: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Deployment:
    """Files of a small deployment."""

    model_config: Path
    checkpoint: Path
    data_root: Path


def write_dataset(root: Path, clouds: list[Points]) -> Path:
    """A T4 dataset with one validation frame for each cloud."""
    return write_split(root, "val", clouds)


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    return write_dataset


@pytest.fixture(scope="session")
def make_points() -> MakePoints:
    return frame_points


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Model config, seeded checkpoint and a dataset of three frames."""
    import torch

    from models.build import build_model
    from models.config import load_model_config

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("deployment")
    model: Any = build_model(load_model_config(MODEL_CONFIG), seed=5)
    with torch.no_grad():
        # An untrained head scores 1 %; raised and spread, so that there are boxes to compare.
        heatmap = model.pts_bbox_head.task_heads[0].heatmap[-1]
        heatmap.bias.fill_(-0.5)
        heatmap.weight.mul_(20.0)
    meta = {"seed": 5, "class_names": list(CLASSES)}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, root / "checkpoint.pth")
    write_dataset(root / "data", [frame_points(seed) for seed in range(NUM_FRAMES)])
    return Deployment(MODEL_CONFIG, root / "checkpoint.pth", root / "data")


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """Environment of a Python process that imports what this one does."""
    path = os.pathsep.join([str(REPOSITORY), *(entry for entry in sys.path if entry)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def command(deployment: Deployment, child_environment: dict[str, str]) -> Command:
    """`command(cwd, *options, module="deploy.export")`: a command on the small deployment, in its own process."""

    def run(cwd: Path, *options: str | Path, module: str = "deploy.export") -> subprocess.CompletedProcess[str]:
        environment = {**child_environment, "COLUMNS": "120"}
        environment.pop("BUILD_WORKING_DIRECTORY", None)
        environment.pop("CENTERPOINT_DEMO_DATA", None)
        given = [str(option) for option in options]
        if module == "deploy.export":
            defaults = {
                "--model-config": deployment.model_config,
                "--checkpoint": deployment.checkpoint,
                "--data-root": deployment.data_root,
                "--num-samples": "-1",
                "--num-verify-samples": str(NUM_FRAMES),
                "--work-dir": "out",
            }
            named = {option.split("=")[0] for option in given}
            given += [f"{key}={value}" for key, value in defaults.items() if key not in named]
        return subprocess.run(
            [sys.executable, "-m", module, *given],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def deploy(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Deploy:
    """`deploy(*options)` in this process: exit code, stdout, stderr. Exports nothing unless `--mode` says so."""
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("CENTERPOINT_DEMO_DATA", raising=False)

    from deploy.export import main

    def run(*options: str | Path) -> tuple[int, str, str]:
        given = [str(option) for option in options]
        defaults = {
            "--mode": "onnx",
            "--deploy-config": config_file(tmp_path),
            "--model-config": deployment.model_config,
            "--checkpoint": deployment.checkpoint,
            "--data-root": deployment.data_root,
            "--num-samples": "-1",
            "--num-verify-samples": "1",
            "--work-dir": "out",
            "--log-level": "WARNING",
        }
        named = {option.split("=")[0] for option in given}
        given += [f"{key}={value}" for key, value in defaults.items() if key not in named]
        code = main(given)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
