"""The demo model with its trained weights, and a canvas for it."""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.build import build_model, load_checkpoint
from models.config import load_model_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _configs_are_not_laid_out() -> Iterator[None]:
    """Every training has yapf lay out its config five times, half a second each, for people to read."""
    from mmengine.config import config

    def as_it_is(text: str, **_: Any) -> tuple[str, bool]:
        return text, False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "FormatCode", as_it_is)
        yield


@pytest.fixture(scope="session", autouse=True)
def _ranges_of_weights_are_searched_once() -> Iterator[None]:
    """Every calibration searches those of the demo model's weights, for a second; `test_amax_weights` tests that."""
    calibrator: Any = importlib.import_module("quant.calibration.calibrator")
    search, known = calibrator.weight_amax, dict[Any, torch.Tensor]()

    def remembered(weight: torch.Tensor, axis: int | None, method: str = "mse", name: str = "weight") -> torch.Tensor:
        values = weight.detach().cpu().contiguous()
        key = (hashlib.sha256(values.numpy().tobytes()).digest(), values.dtype, values.shape, axis, method)
        if key not in known:
            known[key] = search(weight, axis, method, name)
        return known[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrator, "weight_amax", remembered)
        yield


@pytest.fixture(scope="session")
def four_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated dataset: two training scenes of two frames, and one to score. Tests leave it as it is."""
    from datasets.synthetic.dataset_writer import DatasetConfig, generate

    root = tmp_path_factory.mktemp("four_frames") / "t4"
    generate(DatasetConfig({"train": 2, "val": 1}, frames_per_scene=2, seed=5, sweeps=1), root, workers=1)
    return root


@pytest.fixture(scope="session")
def demo_cfg() -> Any:
    return load_model_config(ROOT / "configs" / "model" / "centerpoint_t4_demo.py")


@pytest.fixture(scope="session")
def trained_demo_model(demo_cfg: Any) -> torch.nn.Module:
    """Shared by all tests: copy it before you change it, or ask for `demo_model`."""
    torch.set_num_threads(1)
    model = build_model(demo_cfg)
    load_checkpoint(model, ROOT / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth")
    return model


@pytest.fixture
def demo_model(trained_demo_model: torch.nn.Module) -> torch.nn.Module:
    """A copy for one test."""
    return copy.deepcopy(trained_demo_model)


@pytest.fixture(scope="session")
def canvas() -> torch.Tensor:
    """(1, 32, 64, 64), mostly empty as a real one is: pillar features are at least zero."""
    generator = torch.Generator().manual_seed(7)
    features = torch.rand(1, 32, 64, 64, generator=generator) * 3
    occupied = torch.rand(1, 1, 64, 64, generator=generator) < 0.2
    return features * occupied
