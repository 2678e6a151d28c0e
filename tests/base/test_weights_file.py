"""Checkpoints: what torch saves is read as torch reads it, without what is not weights."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from base.errors import CheckpointError
from base.untrusted import load_weights_file
from tests.base.weights_files import FORMATS, saved

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth"
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
)  # fmt: skip
NEW_DTYPES = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)


def same(ours: Any, theirs: Any) -> None:
    """Equal values of equal types; tensors with dtype, shape, strides and place in their storage."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
        assert (ours.storage_offset(), ours.requires_grad) == (theirs.storage_offset(), theirs.requires_grad)
        assert _content(ours) == _content(theirs)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key, value in ours.items():
            same(value, theirs[key])
        if isinstance(ours, OrderedDict):
            assert vars(ours) == vars(theirs)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


def _content(tensor: torch.Tensor) -> bytes:
    """All bytes of a tensor's storage, also those outside of the tensor."""
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return whole.numpy().tobytes()


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_reads_what_torch_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    grid = torch.arange(12.0).reshape(3, 4)
    value = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [grid, grid.T, grid[1:], grid.view(-1)[3:], grid.expand(5, 3, 4), grid[:, ::2]],
        "dtypes": [torch.ones(3).to(dtype) for dtype in DTYPES],
        "empty": [torch.zeros(0, 3), torch.zeros(0)],
        "scalar": torch.tensor(5),
        "parameter": [nn.Parameter(grid), nn.Parameter(torch.tensor(3), requires_grad=False)],
        "meta": {"shape": grid.shape, "dtype": torch.float16, "device": torch.device("cuda", 1), "set": {1, 2}},
        "numpy": [np.float32(2), np.ones((2, 2)), np.int64(3)],
        "attributes": pickle.loads(pickle.dumps(torch.arange(2.0))),
    }
    if options.get("_use_new_zipfile_serialization", True):  # torch cannot read these from its older format
        value["new"] = [torch.ones(4).to(dtype) for dtype in NEW_DTYPES]
    path = saved(value, tmp_path / "m.pth", **options)
    same(load_weights_file(path), torch.load(path, weights_only=False))


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_tied_weights_stay_tied(tmp_path: Path, options: dict[str, Any]) -> None:
    weight = torch.zeros(4)
    loaded = load_weights_file(saved({"a": weight, "b": weight, "c": weight[1:]}, tmp_path / "m.pth", **options))
    loaded["a"] += 1
    assert loaded["b"].tolist() == [1.0] * 4
    assert loaded["c"].tolist() == [1.0] * 3


TENSORS = st.builds(
    lambda dtype, shape, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=4),
    st.integers(0, 99),
)
STATES = st.dictionaries(st.text(), TENSORS | st.integers() | st.floats(allow_nan=False) | st.text(), max_size=5)


def test_random_state_dicts(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("states")

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(STATES, st.sampled_from(FORMATS))
    def check(state: dict[str, Any], options: dict[str, Any]) -> None:
        path = saved(state, folder / "m.pth", **options)
        # torch's own restricted unpickler knows protocols 2 and 3 alone.
        same(load_weights_file(path), torch.load(path, weights_only="pickle_protocol" not in options))

    check()


def test_the_demo_checkpoint() -> None:
    same(load_weights_file(DEMO), torch.load(DEMO, weights_only=True))


def test_a_checkpoint_of_a_training_run(tmp_path: Path) -> None:
    """As mmengine's Runner saves it: weights, optimizer, schedule, curves, and functions by name."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Toy(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, inputs: torch.Tensor, mode: str = "tensor") -> Any:
            loss = self.layer(inputs).mean()
            return {"loss": loss} if mode == "loss" else [loss]

    runner = Runner(
        model=Toy(),
        work_dir=str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 1))),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
        param_scheduler={"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 2},
        default_hooks={"logger": {"type": "LoggerHook", "interval": 1}},
        experiment_name="toy",
    )
    runner.train()
    path = tmp_path / "epoch_1.pth"
    ours, theirs = load_weights_file(path), torch.load(path, weights_only=False)
    assert set(ours) == set(theirs) == {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers"}
    for part in ("meta", "state_dict", "optimizer"):
        same(ours[part], theirs[part])
    curves = ours["message_hub"]["log_scalars"]
    assert set(curves) == set(theirs["message_hub"]["log_scalars"])
    assert {repr(curve) for curve in curves.values()} == {
        "<skipped mmengine.logging.history_buffer.HistoryBuffer>",
    }


class Settings(dict[str, Any]):
    """A dictionary of a class of its own, as Lightning's hyper-parameters are."""


def test_objects_beside_the_weights_are_skipped(tmp_path: Path) -> None:
    """As Lightning's .ckpt: hyper-parameters of any class, callbacks, loops."""
    from omegaconf import OmegaConf

    value = {
        "state_dict": OrderedDict(w=torch.ones(2)),
        "hyper_parameters": Settings(lr=0.1, config=OmegaConf.create({"a": {"b": [1, 2]}})),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": Path("a")}},
        "others": [argparse.Namespace(a=1), datetime(2024, 1, 1), partial(int, base=2), defaultdict(list), nn.ReLU],
        "np": {"dtype": np.dtype("float32"), "type": np.float32},
    }
    path = saved(value, tmp_path / "last.ckpt")
    loaded = load_weights_file(path)
    same(loaded["state_dict"], value["state_dict"])
    assert repr(loaded["hyper_parameters"]) == f"<skipped {__name__}.Settings>"
    assert loaded["callbacks"]["ModelCheckpoint"]["best_model_score"] == 0.5
    assert repr(loaded["callbacks"]["ModelCheckpoint"]["dirpath"]) == "<skipped pathlib.PosixPath>"
    assert len(loaded["others"]) == 5


class Called:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Called(os.mkdir, "owned"), r"it calls '(posix|os)\.mkdir'"),
        (Called(eval, "1"), r"it calls 'builtins\.eval'"),
        (Called(subprocess.Popen, ["true"]), r"it calls 'subprocess\.Popen'"),
        (Called(getattr, Path, "cwd"), r"it asks for 'pathlib\.Path\.cwd'"),
        (Called(getattr, "a", "b"), r"calls 'builtins\.getattr' with a value of type str"),
        (Called(torch.hub.load, "a", "b"), r"it calls 'torch\.hub\.load'"),
        (Called(np.load, "a"), r"it calls 'numpy\.load'"),
        (Called(bytearray, 1 << 30), "Nothing in it was run"),
    ],
)
@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_functions_are_never_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Called, message: str, options: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved({"state_dict": {"w": torch.ones(1)}, "meta": value}, tmp_path / "m.pth", **options)
    if value.call[0] is bytearray:
        assert repr(load_weights_file(path)["meta"]) == "<skipped builtins.bytearray>"
    else:
        with pytest.raises(CheckpointError, match=message):
            load_weights_file(path)
    assert not (tmp_path / "owned").exists()


def test_whole_models_are_named(tmp_path: Path) -> None:
    path = saved(nn.Linear(1, 1), tmp_path / "m.pth")
    with pytest.raises(
        CheckpointError, match=r"an object of class 'torch\.nn\.modules\.linear\.Linear', such as a whole"
    ):
        load_weights_file(path)
