"""Quantized models saved as bare state dicts: the keys say what is quantized."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from base.errors import CheckpointError
from models.build import build_model, load_checkpoint
from quant.checkpoint import is_quantized_checkpoint, load_ptq_model, save_ptq_model
from quant.fusion import fuse_model_bn
from quant.replace import quant_model
from quant.state_dict import structure_of_state
from quant.structure import quantization_structure
from quant.utils import disable_quantization, enable_quantization
from tests.quant.quantized_model import calibrate_by_max, run_network

SKIPPED = ["pts_backbone.blocks.0.0", "pts_neck.deblocks.1"]


def quantize(model: Any, canvas: torch.Tensor, *, fuse_bn: bool = True, skip: list[str] = SKIPPED) -> Any:
    if fuse_bn:
        fuse_model_bn(model)
    quant_model(model, skip)
    calibrate_by_max(model, canvas)
    return model


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("fuse_bn", [True, False])
@pytest.mark.parametrize("skip", [[], SKIPPED, ["pts_bbox_head.shared_conv"]], ids=["none", "some", "after the concat"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state},
        lambda state: state,
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["wrapped", "bare", "another form"],
)
def test_the_keys_give_the_structure_that_save_ptq_model_writes(
    demo_model: Any,
    demo_cfg: Any,
    canvas: torch.Tensor,
    tmp_path: Path,
    fuse_bn: bool,
    skip: list[str],
    wrap: Callable[[Any], Any],
) -> None:
    model = quantize(demo_model, canvas, fuse_bn=fuse_bn, skip=skip)
    path = saved(wrap(model.state_dict()), tmp_path / "bare.pth")
    assert is_quantized_checkpoint(path)
    loaded = build_model(demo_cfg, seed=11)
    assert load_ptq_model(loaded, path) == quantization_structure(model)
    expected, found = run_network(model, canvas), run_network(loaded, canvas)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # Saved in the full form, both are the same file.
    assert (
        save_ptq_model(loaded, tmp_path / "a.pth").read_bytes()
        == save_ptq_model(model, tmp_path / "b.pth").read_bytes()
    )


def test_layers_that_were_switched_off_are_float_ones(
    demo_model: Any, demo_cfg: Any, canvas: torch.Tensor, tmp_path: Path
) -> None:
    """What the specification's last example ends with: the layer stays as it was switched, in either form."""
    model = quantize(demo_model, canvas)
    # One that shares its quantizer with its neighbours, and one that does not.
    for layer in (model.pts_backbone.blocks[0][3], model.pts_bbox_head.task_heads[0].reg[0]):
        disable_quantization(layer).apply()
    expected = run_network(model, canvas)
    for path in (
        saved({"state_dict": model.state_dict()}, tmp_path / "bare.pth"),
        save_ptq_model(model, tmp_path / "full.pth"),
    ):
        loaded = build_model(demo_cfg)
        structure = load_ptq_model(loaded, path)
        off = {layer.path for layer in structure.layers if not layer.quantized}
        assert {"pts_backbone.blocks.0.3", "pts_bbox_head.task_heads.0.reg.0.conv", *SKIPPED[:1]} <= off
        found = run_network(loaded, canvas)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_concat_without_a_quantized_reader_is_a_float_one(
    demo_model: Any, demo_cfg: Any, canvas: torch.Tensor, tmp_path: Path
) -> None:
    """Switched off or skipped from the start, the layer behind it takes it along."""
    skipped = quantize(copy.deepcopy(demo_model), canvas, skip=["pts_bbox_head.shared_conv"])
    model = quantize(demo_model, canvas, skip=[])
    disable_quantization(model.pts_bbox_head.shared_conv).apply()
    for path in (
        saved({"state_dict": model.state_dict()}, tmp_path / "bare.pth"),
        save_ptq_model(model, tmp_path / "full.pth"),
    ):
        loaded = build_model(demo_cfg)
        assert load_ptq_model(loaded, path) == quantization_structure(skipped)
        assert loaded.state_dict().keys() == skipped.state_dict().keys()


def test_a_state_dict_fits_the_model_that_it_is_of(demo_model: Any, canvas: torch.Tensor) -> None:
    model = quantize(demo_model, canvas)
    whole = model.state_dict()
    key = "pts_backbone.blocks.0.3.input_quantizer.scale"
    disable_quantization(model.pts_backbone.blocks[0][3]).apply()
    part = model.state_dict()
    assert set(whole) - set(part) == {key, key.replace("input", "weight")}
    model.load_state_dict(part, strict=True)
    model.load_state_dict(whole, strict=True)
    enable_quantization(model).apply()
    assert model.state_dict().keys() == whole.keys()
    # Of a layer in INT8 the scales are wanted.
    with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
        model.load_state_dict(part, strict=True)


def test_an_idle_layer_needs_no_scale(demo_model: Any, canvas: torch.Tensor, tmp_path: Path) -> None:
    model = quantize(demo_model, canvas)
    layer = model.pts_backbone.blocks[0][3]
    for quantizer in layer.quantizer_slots().values():
        quantizer.load_state_dict({"scale": torch.full_like(quantizer.scale, torch.nan)})
    disable_quantization(layer).apply()
    save_ptq_model(model, tmp_path / "model.pth")


def test_the_float_loader_tells_it_apart(demo_model: Any, demo_cfg: Any, canvas: torch.Tensor, tmp_path: Path) -> None:
    path = saved({"state_dict": quantize(demo_model, canvas).state_dict()}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="is a quantized checkpoint, and a float one was expected"):
        load_checkpoint(build_model(demo_cfg), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {**s, "pts_backbone.blocks.9.0.input_quantizer.scale": torch.tensor(1.0)},
            r"quantizes 1 layers that the model does not have \(pts_backbone.blocks.9.0\)",
        ),
        (
            lambda s: {**s, "pts_bbox_head.task_heads.0.vel.0.conv.input_quantizer.scale": torch.tensor(0.5)},
            "read one tensor, but have different scales for it: .*0.5",
        ),
        (
            lambda s: {**s, "pts_backbone.blocks.0.3.weight_quantizer.scale": s["pts_neck.deblocks.0.0.bias"][:1] * 0},
            "does not fit the model config",
        ),
        (
            lambda s: {**s, "pts_backbone.blocks.0.3.input_quantizer.scale": torch.tensor(torch.nan)},
            "holds NaN or infinite values in pts_backbone.blocks.0.3.input_quantizer.scale. A scale that is NaN",
        ),
        (
            lambda s: {k: v for k, v in s.items() if k != "pts_backbone.blocks.0.3.weight_quantizer.scale"},
            "does not fit the model config.*blocks.0.3.weight_quantizer.scale",
        ),
        (lambda s: {**s, 7: torch.zeros(1)}, r"weights whose names are no texts: 1 keys \(7\)"),
        (
            lambda s: {**s, "pts_bbox_head.task_heads.0.vel.0.conv.input_quantizer.scale": [0.5]},
            "vel.0.conv.input_quantizer.scale is",
        ),
        (
            lambda s: {**s, "pts_backbone.blocks.0.1.running_mean": torch.zeros(64)},
            r"its BatchNorms are folded but for 1 of \d+ \(pts_backbone.blocks.0.1\)",
        ),
    ],
)
def test_damaged_state_dicts(
    trained_demo_model: Any, demo_cfg: Any, canvas: torch.Tensor, tmp_path: Path, change: Any, message: str
) -> None:
    model = quantize(copy.deepcopy(trained_demo_model), canvas)
    path = saved({"state_dict": change(dict(model.state_dict()))}, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match=message):
        load_ptq_model(build_model(demo_cfg), path)


def test_asking_changes_nothing(demo_model: Any, demo_cfg: Any, canvas: torch.Tensor) -> None:
    state = quantize(demo_model, canvas).state_dict()
    fresh = build_model(demo_cfg)
    before = [(name, type(module)) for name, module in fresh.named_modules()]
    structure_of_state(fresh, state)
    assert [(name, type(module)) for name, module in fresh.named_modules()] == before
