from __future__ import annotations

import gc
from pathlib import Path

import pytest

from datasets.synthetic.dataset_writer import DatasetConfig, generate


@pytest.fixture(scope="session", autouse=True)
def frozen() -> None:
    """mmengine collects garbage whenever a dataset is opened: what is imported by now need not be looked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene of training, one of validation, three key frames each, two sweeps a frame."""
    root = tmp_path_factory.mktemp("t4") / "data"
    generate(DatasetConfig({"train": 1, "val": 1}, frames_per_scene=3, seed=3, sweeps=2), root, workers=1)
    return root
