"""The switch, and the table of states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import quant
from base.errors import ConfigError
from quant import disable_quantization, enable_quantization, fuse_model_bn, print_quantizer_status, quant_model
from tests.quant.quantized_model import calibrate_by_max, run_network


@pytest.fixture
def quantized(demo_model: Any, canvas: torch.Tensor) -> Any:
    quant_model(fuse_model_bn(demo_model))
    calibrate_by_max(demo_model, canvas)
    return demo_model


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_switch(quantized: Any, canvas: torch.Tensor) -> None:
    int8 = run_network(quantized, canvas)
    with disable_quantization(quantized) as switch:
        floating = run_network(quantized, canvas)
        assert switch is not None
    assert not equal(floating, int8)
    assert equal(run_network(quantized, canvas), int8)
    disable_quantization(quantized).apply()
    assert equal(run_network(quantized, canvas), floating)
    with enable_quantization(quantized):
        assert equal(run_network(quantized, canvas), int8)
    broken = canvas[:, 1:]
    with pytest.raises(RuntimeError, match="expected input"), enable_quantization(quantized):
        run_network(quantized, broken)
    assert equal(run_network(quantized, canvas), floating), "restored after an exception too"


def test_one_layer_of_a_shared_quantizer(quantized: Any, canvas: torch.Tensor) -> None:
    """The specification's example; the other five heads, which share its input's quantizer, stay quantized."""
    int8 = run_network(quantized, canvas)
    disable_quantization(quantized.pts_bbox_head.task_heads[0].reg[0].conv).apply()
    found = run_network(quantized, canvas)
    assert [name for name in int8 if not torch.equal(found[name], int8[name])] == ["reg"]
    with disable_quantization(quantized):
        pass
    assert equal(run_network(quantized, canvas), found), "a context restores each layer's own state"


def test_a_layer_that_was_skipped_is_off_already(demo_model: Any, canvas: torch.Tensor) -> None:
    """The specification skips a layer and then switches it off."""
    quant_model(fuse_model_bn(demo_model), {"pts_backbone.blocks.0.0"})
    calibrate_by_max(demo_model, canvas)
    before = run_network(demo_model, canvas)
    layer = demo_model.pts_backbone.blocks[0][0]
    disable_quantization(layer).apply()
    with disable_quantization(layer):
        assert equal(run_network(demo_model, canvas), before)
    with pytest.raises(ConfigError, match="no quantized layer in this Conv2d: skip_names left it in floating point"):
        enable_quantization(layer)
    quant.unquant_model(demo_model)
    with pytest.raises(ConfigError, match="no quantized layer in this Conv2d; call quant_model first"):
        disable_quantization(layer)


def test_nothing_to_switch() -> None:
    with pytest.raises(ConfigError, match="no quantized layer in this Conv2d"):
        disable_quantization(nn.Conv2d(1, 1, 1))


def test_status(quantized: Any, capsys: pytest.CaptureFixture[str]) -> None:
    disable_quantization(quantized.pts_backbone.blocks[0][0]).apply()
    quantizer = quantized.pts_backbone.blocks[0][3].input_quantizer
    quantizer.load_state_dict(
        {name: torch.full_like(value, torch.nan) for name, value in quantizer.state_dict().items()}
    )
    print_quantizer_status(quantized)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "state", "quantizer", "range"]
    by_slot = {tuple(line.split()[:3:2]): line for line in lines[1:]}
    first = by_slot["pts_backbone.blocks.0.0", "input_quantizer"]
    assert first.split()[1] == "float"
    amax = float(quantized.pts_backbone.blocks[0][0].input_quantizer.amax)
    assert f"±{amax:.4g}" in first
    assert by_slot["pts_backbone.blocks.0.3", "input_quantizer"].endswith("no scale")
    assert by_slot["pts_neck.deblocks.0.0", "input_quantizer"].endswith("that of pts_backbone.blocks.1.0")
    assert " … ±" in by_slot["pts_neck.deblocks.0.0", "weight_quantizer"]


def test_public_names_point_at_modules() -> None:
    assert set(quant.__all__) >= {"quant_model", "fuse_model_bn", "save_ptq_model", "load_ptq_model", "QATHook"}
    for name in ("quant_conv_module", "quant_linear_module", "load_ptq_model", "save_ptq_model", "unquant_model"):
        assert callable(getattr(quant, name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        quant.nothing  # noqa: B018
