"""Forms in which trainers save one and the same model: understood and said, or refused with the choices."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from base.errors import CheckpointError
from models.build import load_checkpoint

State = dict[str, Any]


class Net(nn.Module):
    """Names like those of a detector, with parts inside parts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.head = nn.Linear(2, 1)


def state(value: float) -> State:
    """Every floating-point weight has this value."""
    return {
        name: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
        for name, tensor in Net().state_dict().items()
    }


def after(prefix: str, weights: Mapping[str, Any]) -> State:
    return {prefix + name: tensor for name, tensor in weights.items()}


def inside(part: str, wrapper: str, weights: Mapping[str, Any]) -> State:
    return {name.replace(f"{part}.", f"{part}.{wrapper}.", 1): tensor for name, tensor in weights.items()}


def buffers(weights: Mapping[str, Any]) -> State:
    """As mmcv's EMAHook registers them."""
    return {"ema_" + name.replace(".", "_"): tensor for name, tensor in weights.items()}


GOOD, OTHER = state(1.0), state(2.0)
STEPS = {"steps": torch.tensor(7)}
UNDERSTOOD: dict[str, tuple[Mapping[str, Any], str]] = {
    "data parallel": ({"state_dict": after("module.", GOOD)}, "'state_dict', names after 'module.'"),
    "data parallel, bare": (after("module.", GOOD), "the checkpoint itself, names after 'module.'"),
    "model": ({"model": GOOD, "epoch": 3, "optimizer": {"state": {}}}, "'model'"),
    "model_state": ({"model_state": GOOD, "optimizer_state": None}, "'model_state'"),
    "model_state_dict": ({"model_state_dict": GOOD}, "'model_state_dict'"),
    "net, data parallel": ({"net": after("module.", GOOD)}, "'net', names after 'module.'"),
    "lightning": ({"state_dict": after("model.", GOOD)}, "names after 'model.'"),
    "lightning and its metrics": (
        {"state_dict": {**after("model.", GOOD), "metric.total": torch.zeros(1)}},
        "names after 'model.'; 1 other entries",
    ),
    "compiled": (after("_orig_mod.", GOOD), "names after '_orig_mod.'"),
    "compiled and data parallel": ({"state_dict": after("module._orig_mod.", GOOD)}, "'module._orig_mod.'"),
    "a part that was wrapped": (inside("encoder", "module", GOOD), "names after 'module.'"),
    "averaged alone": (
        {"ema_state_dict": {**STEPS, **after("module.", GOOD)}},
        "'ema_state_dict', names after 'module.'",
    ),
    "averaged alone, another trainer": (
        {"epoch": 1, "model_ema": {"module": GOOD, "updates": 9}},
        "'model_ema.module'",
    ),
    "averaged as buffers alone": ({"state_dict": buffers(GOOD)}, "names after 'ema_'"),
    "teacher alone": ({"state_dict": after("teacher.", GOOD)}, "names after 'teacher.'"),
    "far inside": ({"run": {"best": {"weights": after("module.model.", GOOD)}}}, "'run.best.weights'"),
    "twice the same": ({"model": GOOD, "ema": dict(GOOD)}, "'model'"),
    "beside a whole other network": ({"state_dict": {"x.weight": torch.ones(1)}, "model": GOOD}, "'model'"),
}


def load(checkpoint: Mapping[str, Any], folder: Path) -> nn.Module:
    torch.save(checkpoint, folder / "m.pth")
    model = Net()
    load_checkpoint(model, folder / "m.pth")
    return model


@pytest.mark.parametrize("form", UNDERSTOOD)
def test_forms_of_trainers_are_loaded_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    caplog.set_level(logging.INFO)
    checkpoint, said = UNDERSTOOD[form]
    model = load(checkpoint, tmp_path)
    assert all(torch.equal(GOOD[name], tensor) for name, tensor in model.state_dict().items())
    assert "m.pth': the weights are those of" in caplog.text
    assert said in caplog.text


@pytest.mark.parametrize(
    ("checkpoint", "beside"),
    [
        ({"state_dict": GOOD}, ""),
        (GOOD, ""),
        # What mmengine and mmcv write when they average: the averaged weights have the plain names.
        ({"state_dict": GOOD, "ema_state_dict": {**STEPS, **after("module.", OTHER)}}, "'ema_state_dict', names after"),
        ({"state_dict": {**GOOD, **buffers(OTHER)}}, "names after 'ema_'"),
        ({"state_dict": GOOD, "state_dict_ema": OTHER}, "'state_dict_ema'"),
    ],
)
def test_the_usual_place_is_taken_without_a_word_and_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, checkpoint: Mapping[str, Any], beside: str
) -> None:
    caplog.set_level(logging.INFO)
    model = load(checkpoint, tmp_path)
    assert all(torch.equal(GOOD[name], tensor) for name, tensor in model.state_dict().items())
    assert "the weights are those of" not in caplog.text
    assert ("are not used" in caplog.text) == bool(beside)
    assert beside in caplog.text


@pytest.mark.parametrize(
    ("checkpoint", "choices"),
    [
        ({"model": GOOD, "ema": OTHER}, ("'model'", "'ema'")),
        ({"model": GOOD, "model_ema": {"module": OTHER}}, ("'model'", "'model_ema.module'")),
        (
            {"state_dict": {**after("student.", GOOD), **after("teacher.", OTHER)}},
            ("names after 'student.'", "names after 'teacher.'"),
        ),
    ],
)
def test_several_that_differ_are_an_error_that_names_them(
    tmp_path: Path, checkpoint: Mapping[str, Any], choices: tuple[str, str]
) -> None:
    with pytest.raises(CheckpointError, match="2 sets of weights of this model, which differ") as caught:
        load(checkpoint, tmp_path)
    for choice in choices:
        assert choice in str(caught.value)
    assert "Save the one that is meant as {'state_dict'" in str(caught.value)


def test_what_a_wrapped_network_has_too_much_or_too_little_is_named_without_the_wrapper(tmp_path: Path) -> None:
    less = after("module.", {name: tensor for name, tensor in GOOD.items() if name != "head.bias"})
    with pytest.raises(CheckpointError, match=r"names after 'module\.'\).*1 missing \(head\.bias\); 0 unexpected"):
        load({"state_dict": less}, tmp_path)
    more = after("module.", {**GOOD, "aux.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"0 missing; 1 unexpected \(aux\.weight\)"):
        load({"state_dict": more}, tmp_path)
    wrong = after("module.", {**GOOD, "head.bias": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"head\.bias \(3,\), model has \(1,\)"):
        load({"state_dict": wrong}, tmp_path)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (
            {"epoch": 3, "loss": 0.5},
            r"holds no weights of this model: its entries are 'epoch' \(a int\), 'loss' \(a float\)",
        ),
        ({"model": Path("whole"), "epoch": 3}, r"objects that are not read: 'model' is <skipped pathlib\.PosixPath>"),
        ({"state_dict": [1]}, "'state_dict' is a list, not a dictionary"),
        ({"state_dict": {"w": torch.ones(1)}}, r"another architecture.*1 unexpected \(w\)"),
        (
            {"model_state": {"vfe.w": torch.ones(1), "vfe.b": torch.ones(1)}, "optimizer_state": {"lr": torch.ones(1)}},
            r"\('model_state'\) belongs to another architecture.*2 unexpected \(vfe\.b, vfe\.w\)",
        ),
        ({}, "another architecture.*0 unexpected"),
    ],
)
def test_what_holds_no_weights_says_what_it_holds(tmp_path: Path, checkpoint: Mapping[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(checkpoint, tmp_path)


def test_very_many_names_take_no_time_by_their_square(tmp_path: Path) -> None:
    # A prefix of its own before each: without a limit every one would be tried on all names.
    many = {f"p{number}.head.bias": 0 for number in range(60_000)}
    with pytest.raises(CheckpointError, match="another architecture"):
        load({"state_dict": many}, tmp_path)
