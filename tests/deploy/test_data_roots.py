"""Which dataset a run reads: one that somebody named, or the demo's where nobody did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from base.errors import DataError
from deploy.config.loading import load_deploy_config
from deploy.data_roots import DEMO_DATA_VARIABLE, DEMO_TRAIN_DATA_VARIABLE, calibration_root, validation_root
from models.config import load_model_config

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "configs" / "model" / "centerpoint_t4_demo.py"
DEPLOY = REPOSITORY / "configs" / "deploy" / "deploy_config_int8.py"
SPLITS = ("train", "val")


@pytest.fixture(autouse=True)
def _nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without data, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (DEMO_DATA_VARIABLE, DEMO_TRAIN_DATA_VARIABLE, "BUILD_WORKING_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def config(**overrides: str) -> Any:
    return load_deploy_config(DEPLOY, {key.replace("__", "."): value for key, value in overrides.items()})


def dataset(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for split in SPLITS:
        (folder / f"centerpoint_infos_{split}.pkl").write_bytes(b"")
    return folder


@pytest.fixture
def shipped() -> Any:
    return load_model_config(SHIPPED)


def test_nobody_named_one(shipped: Any, tmp_path: Path) -> None:
    for found, name in (
        (validation_root(config(), shipped), "demo"),
        (calibration_root(config(), shipped), "demo_train"),
    ):
        assert found.demo is not None
        assert found.demo.name == name
        assert found.path == found.demo.path
        assert found.path.is_relative_to(tmp_path / "cache")
        assert found.info_file.parent == found.path
    assert not (tmp_path / "cache" / "centerpoint").exists()  # finding out makes nothing


def test_the_folder_that_the_configs_assume_is_the_users(shipped: Any, tmp_path: Path) -> None:
    own = dataset(tmp_path / "data" / "t4dataset")
    for found in (validation_root(config(), shipped), calibration_root(config(), shipped)):
        assert found.demo is None
        assert found.path == own
    # Half of a dataset is a mistake in it, no reason to fill it up.
    (own / "centerpoint_infos_train.pkl").unlink()
    with pytest.raises(DataError, match=r"has no 'centerpoint_infos_train.pkl'"):
        calibration_root(config(), shipped)


def test_a_named_one_is_never_mixed_with_the_demos(shipped: Any, tmp_path: Path) -> None:
    own = dataset(tmp_path / "own")
    named = config(runtime_io__data_root=str(own))
    assert validation_root(named, shipped).path == calibration_root(named, shipped).path == own
    calibrated = config(quantization__calibration__data_root=str(own))
    assert calibration_root(calibrated, shipped).path == own
    with pytest.raises(DataError, match=r"Dataset folder '.*t4dataset' does not exist. Generate one with"):
        validation_root(calibrated, shipped)
    absent = config(runtime_io__data_root=str(tmp_path / "absent"))
    with pytest.raises(DataError, match="absent' does not exist"):
        validation_root(absent, shipped)


def test_one_of_the_build(shipped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = dataset(tmp_path / "built")
    monkeypatch.setenv(DEMO_DATA_VARIABLE, str(built))
    assert validation_root(config(), shipped).path == built
    with pytest.raises(DataError, match="Calibration reads split 'train'"):
        calibration_root(config(), shipped)
    monkeypatch.setenv(DEMO_TRAIN_DATA_VARIABLE, str(built))
    assert calibration_root(config(), shipped).path == built


def test_a_model_config_of_ones_own_means_data_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = [{str(SHIPPED)!r}]\n")
    with pytest.raises(DataError, match=r"Dataset folder '.*t4dataset' does not exist. Generate one with"):
        validation_root(config(), load_model_config(path))


def test_the_plan_makes_them_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from base.errors import CheckpointError
    from datasets.demo import DemoDataset
    from deploy.plan import make_plan

    made: list[str] = []
    monkeypatch.setattr(DemoDataset, "make", lambda self: made.append(self.name))
    missing = config(checkpoint_path=str(tmp_path / "absent.pth"))
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        make_plan(missing, "deploy config", SHIPPED)
    assert made == []
    plan = make_plan(config(export__mode="onnx", export__work_dir=str(tmp_path / "out")), "deploy config", SHIPPED)
    assert made == ["demo", "demo_train"]
    assert plan.data_root is not None
    assert plan.data_root.name.startswith("demo-")
