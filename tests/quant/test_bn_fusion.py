"""Folding of BatchNorm: the same outputs to float rounding, on toy layers and on the trained demo model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from base.errors import ConfigError
from models.build import import_mmdet3d
from models.components import VoxelEncoder
from quant.fusion.bn_fusion import foldable_pairs, fuse_model_bn
from quant.replace import quant_conv_module
from tests.quant.quantized_model import calibrate_by_max, relative_difference, run_network


def lively(model: nn.Module) -> nn.Module:
    """BatchNorm statistics and parameters away from their initial values."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.1)
            if module.affine:
                nn.init.uniform_(module.weight, -2, 2, generator=generator)
                nn.init.uniform_(module.bias, -2, 2, generator=generator)
    return model.eval()


TOYS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "conv": (lambda: [nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3)], (6, 9, 9)),
    "conv with bias, not affine": (lambda: [nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8, affine=False)], (6, 9, 9)),
    "grouped conv": (lambda: [nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8)], (6, 9, 9)),
    "transposed": (lambda: [nn.ConvTranspose2d(6, 8, 2, 2, bias=False), nn.BatchNorm2d(8)], (6, 9, 9)),
    "grouped transposed": (lambda: [nn.ConvTranspose2d(6, 8, 2, 2, groups=2), nn.BatchNorm2d(8)], (6, 9, 9)),
    "linear": (lambda: [nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8)], (6,)),
}


@pytest.mark.parametrize("name", TOYS)
def test_equal_outputs(name: str) -> None:
    torch.manual_seed(1)
    make, shape = TOYS[name]
    model = nn.Sequential(*make(), nn.ReLU())
    lively(model).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        assert fuse_model_bn(model) is model
        found = model(x)
    assert isinstance(model[1], nn.Identity)
    # All in float64, so that a wrong formula cannot hide behind rounding.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_trained_model_and_its_keys(demo_model: Any, canvas: torch.Tensor) -> None:
    before = demo_model.state_dict()
    expected = run_network(demo_model, canvas)
    points = torch.rand(50, 32, 11, generator=torch.Generator().manual_seed(0))[
        ..., : demo_model.pts_voxel_encoder.pfn_layers[0].linear.in_features
    ]
    with torch.no_grad():
        pillars = VoxelEncoder(demo_model)(points)
    num_norms = sum(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in demo_model.modules())
    assert len(foldable_pairs(demo_model)) == num_norms > 20

    fuse_model_bn(demo_model)
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in demo_model.modules())
    # Measured 1.3e-6: some twenty layers of float32.
    assert relative_difference(run_network(demo_model, canvas), expected) < 5e-6
    with torch.no_grad():
        torch.testing.assert_close(VoxelEncoder(demo_model)(points), pillars, rtol=1e-5, atol=1e-5)
    after = demo_model.state_dict()
    weights = {key for key in before if key.endswith(".weight") and before[key].dim() > 1}
    assert weights <= set(after)
    assert {key for key in after if key not in before} == {
        key.replace(".weight", ".bias") for key in weights if key.replace(".weight", ".bias") not in before
    }

    assert foldable_pairs(demo_model) == []
    state = {key: value.clone() for key, value in after.items()}
    fuse_model_bn(demo_model)
    assert all(torch.equal(value, state[key]) for key, value in demo_model.state_dict().items())


def test_folding_is_wrong_by_less_than_one_rounding_of_each_weight(demo_model: Any) -> None:
    """Each folded weight is the float64 product, rounded once."""
    conv, norm = demo_model.pts_backbone.blocks[1][0], demo_model.pts_backbone.blocks[1][1]
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = (conv.weight.double() * gain.reshape(-1, 1, 1, 1)).float()
    bias = (norm.bias.double() - norm.running_mean.double() * gain).float()
    fuse_model_bn(demo_model)
    torch.testing.assert_close(conv.weight.detach(), weight.detach(), rtol=2**-23, atol=0)
    torch.testing.assert_close(conv.bias.detach(), bias.detach(), rtol=2**-23, atol=1e-12)


def test_order_decides() -> None:
    """BatchNorm before a convolution, or after something else, stays."""
    model = lively(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)))
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    assert foldable_pairs(model) == []
    assert torch.equal(fuse_model_bn(model)(x), expected)
    import_mmdet3d()
    from mmcv.cnn import ConvModule

    norm = {"type": "BN"}
    before = lively(ConvModule(3, 3, 1, norm_cfg=norm, order=("norm", "conv", "act")))
    between = lively(ConvModule(3, 3, 1, norm_cfg=norm, order=("conv", "act", "norm")))
    after = lively(ConvModule(3, 3, 1, norm_cfg=norm, order=("conv", "norm", "act")))
    assert [len(foldable_pairs(module)) for module in (before, between, after)] == [0, 0, 1]
    expected = after(x)
    torch.testing.assert_close(fuse_model_bn(after)(x), expected)


def test_refusals() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(ConfigError, match=r"BatchNorm after '0' is in training mode.*Call model\.eval\(\) first"):
        fuse_model_bn(model.train())
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(ConfigError, match="keeps no running statistics"):
        fuse_model_bn(model)
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3)).eval()
    with pytest.raises(ConfigError, match="occurs more than once"):
        fuse_model_bn(model)
    assert isinstance(model[1], nn.BatchNorm2d), "nothing is folded when something is refused"


def test_scales_of_a_quantized_layer_follow() -> None:
    """What training with BatchNorm ended with: the codes of the weights stay, each channel's scale takes its factor."""
    torch.manual_seed(0)
    conv = quant_conv_module(nn.Conv2d(6, 8, 3))
    model = lively(nn.Sequential(conv, nn.BatchNorm2d(8)))
    x = torch.randn(2, 6, 9, 9)
    calibrate_by_max(model, x, run=lambda module, x: module(x))
    with torch.no_grad():
        expected = model(x)
        codes = torch.round(conv.weight / conv.weight_quantizer.scale.reshape(-1, 1, 1, 1))
        fuse_model_bn(model)
        new_codes = torch.round(conv.weight / conv.weight_quantizer.scale.reshape(-1, 1, 1, 1))
        found = model(x)
    # The new scale is rounded to eight bits: at most 0.4 % of a code, half a code at 127.
    assert float((new_codes.abs() - codes.abs()).abs().max()) <= 1
    assert float((found - expected).norm() / expected.norm()) < 0.01


def test_a_layer_that_occurs_twice_makes_no_neighbours() -> None:
    activation = nn.ReLU()
    model = nn.Sequential(activation, nn.Conv2d(3, 3, 1), activation, nn.BatchNorm2d(3)).eval()
    assert foldable_pairs(model) == []
