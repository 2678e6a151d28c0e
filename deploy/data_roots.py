"""Which datasets a run reads: those that are named, or the demo's, never one of each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError, DataError
from base.messages import shown_file
from deploy.config.paths import input_path, repository_root
from deploy.config.schema import DeployConfig

if TYPE_CHECKING:
    from datasets.demo import DemoDataset

__all__ = ["DEMO_DATA_VARIABLE", "DEMO_TRAIN_DATA_VARIABLE", "DataRoot", "calibration_root", "validation_root"]

DEMO_DATA_VARIABLE = "CENTERPOINT_DEMO_DATA"
DEMO_TRAIN_DATA_VARIABLE = "CENTERPOINT_DEMO_TRAIN_DATA"
_ASSUMED = Path("data/t4dataset")


@dataclass(frozen=True)
class DataRoot:
    """A dataset that a run reads.

    Attributes:
        path: Its folder.
        info_file: Of the split.
        demo: What makes it first, where it is a demo dataset that may be missing.
    """

    path: Path
    info_file: Path
    demo: DemoDataset | None = None


def validation_root(config: DeployConfig, model_cfg: Any) -> DataRoot:
    """What a run verifies and evaluates on.

    Raises:
        DataError: no dataset is named, or it has no such split.
        ConfigError: the model config has no val_dataloader.
    """
    loader = model_cfg.get("val_dataloader")
    if not isinstance(loader, Mapping) or not isinstance(loader.get("dataset"), Mapping):
        raise ConfigError(
            f"{shown_file(model_cfg.filename)} has no val_dataloader with a dataset, so that there are no frames to "
            "verify or to evaluate on. Add one, or set evaluation.enabled and verification.enabled to False in the "
            "deploy config."
        )
    dataset = loader["dataset"]
    info = config.runtime_io.info_file or dataset.get("ann_file", "centerpoint_infos_val.pkl")
    built = os.environ.get(DEMO_DATA_VARIABLE)
    named = config.runtime_io.data_root or dataset.get("data_root")
    if config.runtime_io.data_root is None and built:
        # Set by the build, relative to its own tree rather than to the user's folder.
        root = repository_root() / built
    elif named is None:
        advice = _how_to_get(_ASSUMED, info, "val")
        raise DataError(f"No dataset is named by --data-root, {DEMO_DATA_VARIABLE} or the model config. {advice}")
    else:
        root = input_path(named)
        if _demo_stands_in(config, model_cfg, root):
            return _demo("demo", info)
    if not root.is_dir():
        raise DataError(f"Dataset folder '{root}' does not exist. {_how_to_get(root, info, 'val')}")
    if not (root / info).is_file():
        raise DataError(
            f"Dataset '{root}' has no info file '{Path(info).name}' (looked for '{root / info}'). "
            f"{_how_to_get(root, info, 'val')}"
        )
    return DataRoot(root, root / info)


def calibration_root(config: DeployConfig, model_cfg: Any) -> DataRoot:
    """What a run calibrates on.

    Raises:
        DataError: no dataset is named, or it has no such split.
    """
    calibration = config.quantization.calibration
    split = calibration.split
    built = os.environ.get(DEMO_TRAIN_DATA_VARIABLE)
    loader = model_cfg.get(f"{split}_dataloader")
    own = None if loader is None else loader.dataset.get("data_root")
    in_config = None if loader is None else loader.dataset.get("ann_file")
    name: str = calibration.info_file or in_config or f"centerpoint_infos_{split}.pkl"
    if calibration.data_root is not None:
        root, key = input_path(calibration.data_root), "quantization.calibration.data_root"
    elif config.runtime_io.data_root is not None:
        root, key = input_path(config.runtime_io.data_root), "runtime_io.data_root"
    elif built:
        root, key = repository_root() / built, DEMO_TRAIN_DATA_VARIABLE
    elif own is None:
        raise DataError(
            f"No dataset to calibrate on: the model config names none for split '{split}'. "
            f"{_how_to_get(Path('data/calibration'), name, split, calibrates=True)}"
        )
    else:
        root, key = input_path(own), "model config"
        if _demo_stands_in(config, model_cfg, root):
            return _demo("demo_train" if split == "train" else "demo", name)
    if not (root / name).is_file():
        raise DataError(
            f"Calibration reads split '{split}', but dataset '{root}' ({key}) has no '{Path(name).name}'. "
            f"{_how_to_get(root, name, split, calibrates=True)}"
        )
    return DataRoot(root, root / name)


def _demo_stands_in(config: DeployConfig, model_cfg: Any, root: Path) -> bool:
    """Whether nobody named a dataset: the folder is what the shipped model configs assume, and it is not there."""
    named = (config.runtime_io.data_root, config.quantization.calibration.data_root)
    built = (os.environ.get(DEMO_DATA_VARIABLE), os.environ.get(DEMO_TRAIN_DATA_VARIABLE))
    config_file = Path(model_cfg.filename)
    # File by file: of a runfiles tree only the files are links.
    shipped = repository_root() / "configs" / "model" / config_file.name
    is_shipped = shipped.resolve() == config_file.resolve()
    return is_shipped and not any((*named, *built)) and not root.exists()


def _demo(name: str, info: str) -> DataRoot:
    from datasets.demo import demo_dataset

    demo = demo_dataset(name)
    return DataRoot(demo.path, demo.path / info, demo)


def _how_to_get(root: Path, info: str, split: str, *, calibrates: bool = False) -> str:
    from datasets.remedies import DataOptions, how_to_get

    calibration = DataOptions("--calibration-data-root", "--calibration-info-file")
    return how_to_get(root, info, split, calibration if calibrates else None)
