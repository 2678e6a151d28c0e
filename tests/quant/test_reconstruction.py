"""Reconstruction of a network, and its parts between which it is cut."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from base.errors import ConfigError, DataError
from models.components import BackboneNeckHead
from models.spec import ModelSpec
from quant.fusion import fuse_model_bn
from quant.reconstruction.blocks import CANVAS, partition, quantized_layers, run_blocks
from quant.reconstruction.network import BlockResult, reconstruct
from quant.reconstruction.settings import ReconstructionSettings
from quant.replace import quant_model
from tests.quant.quantized_model import calibrate_by_max

SETTINGS = ReconstructionSettings(iterations=6, batch_size=1, window_cells=32, held_out=0.34, rounding_lr=0.05)


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    features = torch.rand(3, 32, 64, 64, generator=generator) * 4
    return features * (torch.rand(3, 1, 64, 64, generator=generator) < 0.2)


def quantized(model: Any, windows: torch.Tensor) -> tuple[Any, Any]:
    """A calibrated copy and its float reference."""
    reference = fuse_model_bn(copy.deepcopy(model))
    twin = copy.deepcopy(reference)
    quant_model(twin)
    calibrate_by_max(twin, windows[:1])
    return twin, reference


def run(model: Any, windows: torch.Tensor, settings: ReconstructionSettings) -> tuple[Any, tuple[BlockResult, ...]]:
    twin, reference = quantized(model, windows)
    return twin, reconstruct(twin, reference, windows, 0.1, settings)


@pytest.fixture(scope="module")
def reconstructed(trained_demo_model: Any, windows: torch.Tensor) -> tuple[Any, tuple[BlockResult, ...]]:
    return run(trained_demo_model, windows, SETTINGS)


@pytest.mark.parametrize("layers", [None, 1, 2])
def test_blocks_compute_what_the_network_does(demo_model: Any, demo_cfg: Any, canvas: Any, layers: int | None) -> None:
    blocks = partition(demo_model, layers_per_block=layers)
    network = BackboneNeckHead(demo_model, ModelSpec.from_config(demo_cfg))
    with torch.no_grad():
        found = run_blocks(blocks, {CANVAS: canvas})
        for name, expected in zip(network.head_names, network(canvas), strict=True):
            assert torch.equal(found[name], expected)
    assert len({block.path for block in blocks}) == len(blocks)


def test_blocks_of_another_model() -> None:
    with pytest.raises(ConfigError, match=r"has no 'pts_backbone\.blocks'"):
        partition(torch.nn.Sequential())


def test_errors_on_unseen_windows_fall(reconstructed: tuple[Any, tuple[BlockResult, ...]]) -> None:
    _, results = reconstructed
    assert [result.path for result in results][:2] == ["pts_backbone.blocks.0", "pts_backbone.blocks.1"]
    kept = [result for result in results if result.kept]
    assert kept
    for result in kept:
        assert result.after.relative_to(result.before, 1.0) < result.before.relative_to(result.before, 1.0)


def test_weights_lie_on_the_grid_of_their_calibrated_scales(
    reconstructed: tuple[Any, tuple[BlockResult, ...]], trained_demo_model: Any, windows: torch.Tensor
) -> None:
    model, results = reconstructed
    before, _ = quantized(trained_demo_model, windows)
    changed = [result.path for result in results if result.kept]
    moved = 0
    for (path, layer), (_, old) in zip(quantized_layers(model), quantized_layers(before), strict=True):
        assert torch.equal(layer.weight_quantizer.scale, old.weight_quantizer.scale)
        if not any(path.startswith(f"{block}.") for block in changed):
            continue
        # The quantizer finds every weight in place, and no weight is farther than its other neighbour.
        torch.testing.assert_close(layer.weight_quantizer(layer.weight), layer.weight, rtol=1e-6, atol=0)
        nearest = old.weight_quantizer(old.weight)
        shape = [1] * 4
        shape[layer.weight_axis] = -1
        steps = (layer.weight - nearest) / layer.weight_quantizer.scale.reshape(shape)
        assert steps.abs().max() < 1 + 1e-3
        moved += int((steps.abs() > 0.5).sum())
    assert moved > 0


def test_nothing_is_left_behind(
    reconstructed: tuple[Any, tuple[BlockResult, ...]], trained_demo_model: Any, windows: torch.Tensor
) -> None:
    model, _ = reconstructed
    before, _ = quantized(trained_demo_model, windows)
    assert list(model.state_dict()) == list(before.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]


def test_the_same_bytes_again_with_other_threads(
    reconstructed: tuple[Any, tuple[BlockResult, ...]], trained_demo_model: Any, windows: torch.Tensor
) -> None:
    first, _ = reconstructed
    torch.manual_seed(99)
    torch.set_num_threads(2)
    try:
        second, _ = run(trained_demo_model, windows, SETTINGS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_a_block_that_gets_worse_keeps_its_nearest_rounding(trained_demo_model: Any, windows: torch.Tensor) -> None:
    wild = ReconstructionSettings(
        iterations=3, batch_size=1, held_out=0.34, rounding_lr=50.0, bias_lr=20.0, scale_lr=2.0
    )
    model, results = run(trained_demo_model, windows, wild)
    before, _ = quantized(trained_demo_model, windows)
    refused = [result.path for result in results if not result.kept]
    assert refused
    old = before.state_dict()
    for path in refused:
        for name, value in model.get_submodule(path).state_dict(prefix=f"{path}.").items():
            if not name.endswith("input_quantizer.scale"):  # it may be an earlier block's
                assert torch.equal(value, old[name]), name


def test_one_window_is_too_few(trained_demo_model: Any, windows: torch.Tensor) -> None:
    twin, reference = quantized(trained_demo_model, windows)
    with pytest.raises(DataError, match="1 windows are too few"):
        reconstruct(twin, reference, windows[:1], 0.1, SETTINGS)
