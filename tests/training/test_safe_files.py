"""A training goes on from its checkpoint as mmengine itself would let it, and nothing in a checkpoint runs."""

from __future__ import annotations

import itertools
import os
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import load_from_local
from torch import nn

from base.errors import CheckpointError, DataError
from training.safe_files import safe_files

NUMBERS = itertools.count()


class Toy(BaseModel):
    """A line through a few points."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs: torch.Tensor, mode: str = "tensor") -> Any:
        loss = ((self.layer(inputs) - 2 * inputs) ** 2).mean()
        return {"loss": loss} if mode == "loss" else [loss]


def _runner(folder: Path, epochs: int, resume: bool = False, **more: Any) -> Runner:
    torch.manual_seed(0)
    return Runner(
        model=Toy(),
        work_dir=str(folder),
        train_dataloader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(4.0).reshape(4, 1))),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
        param_scheduler={"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 6},
        default_hooks={"logger": {"type": "LoggerHook", "interval": 1}},
        experiment_name=f"toy{next(NUMBERS)}",  # mmengine keeps one registry scope for each name and second
        resume=resume,
        **more,
    )


def _weights(runner: Runner) -> list[float]:
    return [value.item() for value in runner.model.state_dict().values()]


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")  # set below, for mmengine
def test_a_resumed_training_is_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _runner(tmp_path / "whole", 2)
    whole.train()
    found = {}
    for name, reader in (("ours", safe_files(resume=True)), ("mmengine's", nullcontext())):
        _runner(tmp_path / name, 1).train()
        second = _runner(tmp_path / name, 2, resume=True)
        with monkeypatch.context() as patch, reader:
            patch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", str(int(name != "ours")))
            second.train()
        assert (second.epoch, second.iter) == (2, 8)
        found[name] = _weights(second)
    assert found["ours"] == found["mmengine's"] == _weights(whole)


def test_weights_to_start_from_are_read_the_same_way(tmp_path: Path) -> None:
    first = _runner(tmp_path / "a", 1)
    first.train()
    second = _runner(tmp_path / "b", 1, load_from=str(tmp_path / "a" / "epoch_1.pth"))
    with safe_files(resume=False):
        second.load_or_resume()
    assert _weights(second) == _weights(first)


class Hostile:
    """Unpickling it creates a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_nothing_in_a_work_dir_runs(tmp_path: Path) -> None:
    folder, marker = tmp_path / "work", tmp_path / "owned"
    _runner(folder, 1).train()
    path = folder / "epoch_1.pth"
    good = torch.load(path, weights_only=False)

    torch.save({**good, "optimizer": Hostile(marker)}, path)
    with safe_files(resume=True), pytest.raises(CheckpointError, match=r"epoch_1\.pth' .* it calls '.*mkdir'"):
        _runner(folder, 2, resume=True).train()

    meta = {**good["meta"], "config": f"import os\nos.mkdir({str(marker)!r})\n"}
    torch.save({**good, "meta": meta}, path)
    with safe_files(resume=True):
        _runner(folder, 2, resume=True).train()
    assert not marker.exists()


@pytest.mark.parametrize("part", ["meta", "state_dict", "optimizer", "message_hub"])
def test_what_is_missing_is_named(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "work"
    _runner(folder, 1).train()
    content = torch.load(folder / "epoch_1.pth", weights_only=False)
    del content[part]
    torch.save(content, folder / "epoch_1.pth")
    with (
        safe_files(resume=True),
        pytest.raises(CheckpointError, match=r"epoch_1\.pth' is none that a training can"),
    ):
        _runner(folder, 2, resume=True).train()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_databases_of_objects_are_read_without_running_them(tmp_path: Path, protocol: int) -> None:
    """As mmdet3d's `DataBaseSampler` reads them: an open file, or a path."""
    marker = tmp_path / "owned"
    good = {"car": [{"path": "a.bin", "box3d_lidar": np.arange(7.0), "num_points_in_gt": 9}]}
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(good, protocol=protocol))
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"car": [Hostile(marker)]}, protocol=protocol))
    with safe_files(resume=False):
        with (tmp_path / "good.pkl").open("rb") as file:
            found = mmengine.load(file, file_format="pkl")
        np.testing.assert_array_equal(found["car"][0]["box3d_lidar"], np.arange(7.0))
        with (
            (tmp_path / "bad.pkl").open("rb") as file,
            pytest.raises(DataError, match=r"bad\.pkl' .* it asks for '(posix|os)\.mkdir'"),
        ):
            mmengine.load(file, file_format="pkl")
        with pytest.raises(DataError, match=r"it asks for '(posix|os)\.mkdir'"):
            mmengine.load(str(tmp_path / "bad.pkl"))
    assert not marker.exists()


def test_mmengine_reads_as_before_afterwards(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), safe_files(resume=True):
        raise ZeroDivisionError
    assert CheckpointLoader._get_checkpoint_loader("a.pth") is load_from_local
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Path("a")))
    assert mmengine.load(str(tmp_path / "a.pkl")) == Path("a")
