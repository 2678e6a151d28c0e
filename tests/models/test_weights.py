"""Weights of the wrong kind are named, converted ones are logged, and a refusal leaves the model as it was."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from base.errors import CheckpointError
from models.build import load_checkpoint


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def _load(model: nn.Module, folder: Path, **changes: Any) -> dict[str, Any]:
    state = dict(_model().state_dict())
    state.update({key.replace("_", ".", 1): value for key, value in changes.items()})
    torch.save({"state_dict": state}, folder / "m.pth")
    return load_checkpoint(model, folder / "m.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0_weight": torch.ones(2, 3).to(torch.int8)}, r"\(0\.weight is int8, the model has float32\)"),
        ({"0_weight": torch.ones(2, 3).bool()}, r"0\.weight is bool, the model has float32"),
        ({"0_weight": torch.ones(2, 3).to(torch.complex64)}, r"0\.weight is complex64, the model has float32"),
        ({"0_weight": torch.ones(2, 3).long()}, r"0\.weight is int64, the model has float32"),
        ({"0_weight": torch.ones(2, 3).to(torch.float8_e4m3fn)}, r"0\.weight is float8_e4m3fn, the model has float32"),
        ({"1_num_batches_tracked": torch.tensor(3.0)}, r"1\.num_batches_tracked is float32, the model has int64"),
        ({"0_weight": np.ones((2, 3))}, r"0\.weight is a ndarray, the model has float32"),
        ({"0_weight": [1.0]}, r"0\.weight is a list, the model has float32"),
        ({"0_weight": Path("a")}, r"0\.weight is <skipped pathlib\.PosixPath>, the model has float32"),
        (
            {"0_weight": torch.ones(2, 3).int(), "0_bias": torch.ones(2).int()},
            r"2 values of another kind \(0\.weight is int32, .*; |0\.bias is int32",
        ),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = _model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message) as caught:
        _load(model, tmp_path, **changes)
    assert "m.pth' holds" in str(caught.value)
    assert "are converted to float32, nothing else" in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "weight",
    [
        torch.full((2, 3), torch.nan),
        torch.full((2, 3), -torch.inf, dtype=torch.float16),
        torch.full((2, 3), 1e300, dtype=torch.float64),
    ],
)
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, weight: torch.Tensor) -> None:
    model = _model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in 1 tensors \(0\.weight\)"):
        _load(model, tmp_path, **{"0_weight": weight})
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_converted_and_logged(
    tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = _model()
    weight = torch.rand(2, 3).to(dtype)
    _load(model, tmp_path, **{"0_weight": weight, "0_bias": torch.zeros(2, dtype=dtype)})
    loaded = model.state_dict()["0.weight"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, weight.float())
    name = str(dtype).removeprefix("torch.")
    assert f"m.pth': 2 tensors of {name} are converted to float32" in caplog.text


def test_equal_kinds_are_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _load(_model(), tmp_path)
    assert "converted" not in caplog.text


def test_names_that_are_no_texts(tmp_path: Path) -> None:
    torch.save({"state_dict": {**_model().state_dict(), 5: 1, "a": 2}}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"another architecture.*2 unexpected \(5, a\)"):
        load_checkpoint(_model(), tmp_path / "m.pth")
