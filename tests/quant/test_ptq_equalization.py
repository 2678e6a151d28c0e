"""Channel equalization: the same function, activations of one range."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from base.errors import DataError
from quant.equalization import ChannelRanges, equalization_sites
from quant.fusion import fuse_model_bn
from tests.quant.quantized_model import run_network


@pytest.fixture(scope="module")
def folded(trained_demo_model: Any) -> Any:
    return fuse_model_bn(copy.deepcopy(trained_demo_model))


def peaks(model: Any, canvas: torch.Tensor) -> dict[str, torch.Tensor]:
    """Largest magnitude by channel of what each ReLU makes, measured apart from the code under test."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _m, _i, output, name=name: found.__setitem__(name, output.abs().amax(dim=(0, 2, 3)))
        )
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ReLU)
    ]
    run_network(model, canvas)
    for handle in handles:
        handle.remove()
    return found


def equalized(folded: Any, canvas: torch.Tensor) -> Any:
    model = copy.deepcopy(folded)
    with ChannelRanges(model) as ranges:
        run_network(model, canvas)
    ranges.equalize()
    return model


def test_the_float_outputs_stay(folded: Any, canvas: torch.Tensor) -> None:
    expected, found = run_network(folded, canvas), run_network(equalized(folded, canvas), canvas)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_channels_of_a_tensor_come_closer(folded: Any, canvas: torch.Tensor) -> None:
    before, after = peaks(folded, canvas), peaks(equalized(folded, canvas), canvas)
    sites = [name for name in after if not name.startswith("pts_voxel_encoder") and "task_heads" not in name]
    decks = [name for name in sites if name.startswith("pts_neck")]
    assert len(sites) == 4 + 6 + 4 + 3 + 1  # three stages, three deblocks, the shared convolution
    assert len(decks) == 3

    def spread(found: dict[str, torch.Tensor], names: list[str]) -> float:
        """Standard deviation of the channels' ranges in powers of two; channels that may be dead are left out."""
        old = torch.cat([before[name] for name in names])
        alive = old > 1e-3 * old.max()
        return float(torch.cat([found[name] for name in names])[alive].log2().std())

    # The deblocks' outputs are the parts of one concatenation, with one scale.
    for tensor in [[name] for name in sites if name not in decks] + [decks]:
        assert spread(after, tensor) < 0.75 * spread(before, tensor), tensor


def test_tensors_before_floating_point_layers_are_left_alone(folded: Any, canvas: torch.Tensor) -> None:
    before, after = peaks(folded, canvas), peaks(equalized(folded, canvas), canvas)
    for name in (name for name in before if "task_heads" in name):
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-5)


def test_batch_norm_between_blocks_a_site(trained_demo_model: Any) -> None:
    """Unfolded, a factor would not pass."""
    assert equalization_sites(trained_demo_model) == ()


def test_nothing_was_run(folded: Any) -> None:
    with pytest.raises(DataError, match="Zero calibration frames"):
        ChannelRanges(copy.deepcopy(folded)).equalize()


def test_broken_activations_are_named(folded: Any, canvas: torch.Tensor) -> None:
    model = copy.deepcopy(folded)
    with ChannelRanges(model) as ranges:
        run_network(model, torch.full_like(canvas, torch.nan))
    with pytest.raises(DataError, match=r"behind 'pts_backbone\.blocks\.0\.0' are NaN or infinite"):
        ranges.equalize()
