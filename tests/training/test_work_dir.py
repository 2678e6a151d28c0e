"""The folder of a training: nothing of the user's that lies there is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import ConfigError
from training.work_dir import open_runner, owned_work_dir

_CONFIG = "# my notes\nmodel = dict(type='ToyModel')\n"


def _runner(folder: Path, name: str, content: str) -> Path:
    """Makes mmengine's Runner of a config that lies in its work dir; the config's file."""
    from mmengine.config import Config
    from mmengine.model import BaseModel
    from mmengine.registry import MODELS

    if "ToyModel" not in MODELS.module_dict:
        MODELS.register_module(name="ToyModel", module=type("ToyModel", (BaseModel,), {"forward": None}))
    file = folder / name
    file.write_text(content)
    cfg = Config.fromfile(file)
    cfg.work_dir = str(folder)
    cfg.experiment_name = f"of_{folder.name}"
    open_runner(cfg)
    return file


@pytest.mark.parametrize(
    ("name", "content"), [("mine.py", _CONFIG), ("mine.yaml", "# my notes\nmodel:\n  type: ToyModel\n")]
)
def test_the_config_stays_and_what_ran_lies_in_the_folder_of_the_run(tmp_path: Path, name: str, content: str) -> None:
    from mmengine.config import Config

    file = _runner(tmp_path, name, content)
    assert file.read_text() == content
    (kept,) = tmp_path.glob(f"*/{name}")
    assert Config.fromfile(kept).work_dir == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]


@pytest.mark.parametrize("name", ["epoch_12.pth", "iter_4000.pth", "last_checkpoint"])
def test_checkpoints_of_an_earlier_training_stay(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.write_bytes(b"a week of training")
    with (
        pytest.raises(ConfigError, match=rf"{name}' is of an earlier training.* with --resume, choose another folder"),
        owned_work_dir(tmp_path, resume=False),
    ):
        pytest.fail("entered")
    with owned_work_dir(tmp_path, resume=True):
        pass
    assert theirs.read_bytes() == b"a week of training"


def test_other_files_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "best.pth").write_bytes(b"x")
    with owned_work_dir(tmp_path, resume=False):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth", "notes.txt"]
