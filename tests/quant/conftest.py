"""The demo model with its trained weights, and a canvas for it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.build import build_model, load_checkpoint
from models.config import load_model_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _layouts_are_kept() -> Iterator[None]:
    """Every training has yapf lay out its config five times, half a second each; the same text is laid out once."""
    from mmengine.config import config

    lay_out, known = config.FormatCode, dict[str, Any]()

    def remembered(text: str, **options: Any) -> Any:
        key = f"{text}{options}"
        if key not in known:
            known[key] = lay_out(text, **options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "FormatCode", remembered)
        yield


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
