"""Bias correction: the mean of every quantized layer's output becomes the float layer's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from base.errors import ConfigError
from quant.bias_correction import correct_biases
from quant.fusion import fuse_model_bn
from quant.reconstruction.blocks import quantized_layers
from quant.replace import quant_model
from tests.quant.quantized_model import calibrate_by_max, run_network


@pytest.fixture(scope="module")
def canvases() -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    features = torch.rand(3, 32, 64, 64, generator=generator) * 4
    return features * (torch.rand(3, 1, 64, 64, generator=generator) < 0.2)


@pytest.fixture(scope="module")
def models(trained_demo_model: Any, canvases: torch.Tensor) -> tuple[Any, Any]:
    """Calibrated, and its float reference."""
    reference = fuse_model_bn(copy.deepcopy(trained_demo_model))
    model = copy.deepcopy(reference)
    quant_model(model)
    calibrate_by_max(model, canvases[:1])
    return model, reference


def means(model: Any, canvases: torch.Tensor, paths: list[str]) -> dict[str, torch.Tensor]:
    """Mean output by channel of some layers, in one run of the stock forward."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _m, _i, output, path=path: found.__setitem__(path, output.double().mean(dim=(0, 2, 3)))
        )
        for path in paths
    ]
    run_network(model, canvases)
    for handle in handles:
        handle.remove()
    return found


def test_means_become_the_float_ones(models: tuple[Any, Any], canvases: torch.Tensor) -> None:
    model, reference = copy.deepcopy(models[0]), models[1]
    paths = [path for path, _ in quantized_layers(model)]
    expected, before = means(reference, canvases, paths), means(model, canvases, paths)
    corrections = correct_biases(model, reference, canvases)
    after = means(model, canvases, paths)
    assert sorted(corrections) == sorted(paths)
    for path in paths:
        size = float(expected[path].abs().max())
        torch.testing.assert_close(after[path], expected[path], rtol=0, atol=1e-4 * size)
    assert max(float((before[p] - expected[p]).abs().max() / expected[p].abs().max()) for p in paths) > 1e-2
    # A correction is what was missing, given that the layers before it were right already.
    first = paths[0]
    assert corrections[first] == pytest.approx(float((expected[first] - before[first]).abs().max()), rel=1e-3)


def test_only_biases_change_and_the_result_repeats(models: tuple[Any, Any], canvases: torch.Tensor) -> None:
    states = []
    for threads in (1, 2):
        model = copy.deepcopy(models[0])
        torch.set_num_threads(threads)
        try:
            correct_biases(model, models[1], canvases)
        finally:
            torch.set_num_threads(1)
        states.append(model.state_dict())
    for name, value in models[0].state_dict().items():
        assert torch.equal(states[0][name], states[1][name]), name
        assert torch.equal(value, states[0][name]) or name.endswith(".bias"), name


def test_a_layer_without_bias_is_refused(demo_model: Any, canvases: torch.Tensor) -> None:
    reference = copy.deepcopy(demo_model)
    quant_model(demo_model)
    calibrate_by_max(demo_model, canvases[:1])
    with pytest.raises(ConfigError, match=r"'pts_backbone\.blocks\.0\.0' has none. Fold BatchNorm"):
        correct_biases(demo_model, reference, canvases)
