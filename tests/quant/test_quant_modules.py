"""Quantized layers: what they compute, what they keep of the float layer, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from base.errors import ConfigError
from quant.modules import QuantAdd, QuantConcat, QuantConv2d, QuantConvTranspose2d, QuantLinear
from quant.modules.quant_add import Add
from quant.modules.quant_concat import Concat, expose_concats, hide_concats
from quant.quantizer import ENGINES
from quant.replace import quant_conv_module, quant_linear_module
from tests.quant.quantized_model import calibrate_by_max


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_grid(x: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
    """Nearest multiple of amax / 127; `amax` broadcasts."""
    step = amax / 127
    return torch.clamp(torch.round(x / step), -128, 127) * step


LAYERS: dict[str, tuple[Callable[[], nn.Module], type[Any], int]] = {
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1, dilation=2), QuantConv2d, 0),
    "conv2d grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2, bias=False), QuantConv2d, 0),
    "conv2d padding by reflection": (lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), QuantConv2d, 0),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(6, 8, 2, stride=2), QuantConvTranspose2d, 1),
    "conv_transpose2d odd": (
        lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1, bias=False),
        QuantConvTranspose2d,
        1,
    ),
    "linear": (lambda: nn.Linear(9, 8), QuantLinear, 0),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_weighted_layers(name: str, engine: str) -> None:
    make, quantized_type, axis = LAYERS[name]
    torch.manual_seed(0)
    layer: Any = make()
    x = tensor(2, 9, 9, 9)[:, :6] if not isinstance(layer, nn.Linear) else tensor(4, 7, 9)
    expected_float = layer(x).detach()
    convert: Any = quant_linear_module if isinstance(layer, nn.Linear) else quant_conv_module
    quantized: Any = convert(layer, engine)
    assert type(quantized) is quantized_type
    assert quantized.weight is layer.weight
    assert list(layer.state_dict()) == [key for key in quantized.state_dict() if "quantizer" not in key]
    assert not hasattr(layer, "input_quantizer"), "the float layer stays as it is"

    calibrate_by_max(quantized, x, run=lambda module, x: module(x))
    assert quantized.weight_quantizer.scale.shape == (8,), "one scale for each output channel"
    weight_amax = quantized.weight_quantizer.scale * 127
    shape = [1] * layer.weight.dim()
    shape[axis] = -1
    reference: Any = make()
    reference.load_state_dict(layer.state_dict())
    with torch.no_grad():
        reference.weight.copy_(on_grid(layer.weight, weight_amax.reshape(shape)))
        expected = reference(on_grid(x, quantized.input_quantizer.scale * 127))
        found = quantized(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    # 8 bits: about 0.4 % of the range in each operand.
    error = float((found - expected_float).norm() / expected_float.norm())
    assert 1e-4 < error < 0.03

    quantized.quantized = False
    assert torch.equal(quantized(x), expected_float)
    assert "in floating point" in repr(quantized)
    back = quantized.to_float()
    assert type(back) is type(layer)
    assert back.weight is layer.weight
    assert list(back.state_dict()) == list(layer.state_dict())
    assert vars(back).keys() == vars(layer).keys()
    assert torch.equal(back(x), expected_float)


def test_gradients_reach_weight_and_input() -> None:
    layer = quant_conv_module(nn.Conv2d(3, 4, 3))
    x = tensor(1, 3, 8, 8).requires_grad_()
    calibrate_by_max(layer, x, run=lambda module, x: module(x))
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    # Nothing is clipped, so the gradient is that of the convolution of the quantized operands.
    quantized_x = on_grid(x.detach(), layer.input_quantizer.scale * 127)
    weight = on_grid(layer.weight.detach(), (layer.weight_quantizer.scale * 127).reshape(-1, 1, 1, 1)).requires_grad_()
    assert layer.bias is not None
    torch.autograd.backward(F.conv2d(quantized_x, weight, layer.bias.detach()).square().sum())
    assert weight.grad is not None
    assert torch.allclose(layer.weight.grad, weight.grad, rtol=1e-4, atol=1e-3)


def test_hooks_and_mode_move_along() -> None:
    layer = nn.Conv2d(3, 4, 1).eval()
    calls: list[str] = []
    layer.register_forward_hook(lambda *_: calls.append("called"))
    quantized = quant_conv_module(layer)
    assert not quantized.training
    assert not quantized.input_quantizer.training
    with pytest.raises(ConfigError, match="without a scale"):
        quantized(tensor(1, 3, 2, 2))
    calibrate_by_max(quantized, tensor(1, 3, 2, 2), run=lambda module, x: module(x))
    assert calls == ["called"]


def test_wrong_layers() -> None:
    with pytest.raises(ConfigError, match="transposed convolution with 2 groups cannot be quantized by output channel"):
        quant_conv_module(nn.ConvTranspose2d(4, 4, 2, groups=2))
    with pytest.raises(ConfigError, match="A Conv1d is no convolution that can be quantized"):
        quant_conv_module(nn.Conv1d(3, 3, 1))
    with pytest.raises(ConfigError, match="A Conv2d is no linear layer"):
        quant_linear_module(nn.Conv2d(3, 3, 1))
    with pytest.raises(ConfigError, match="Unknown quantization engine"):
        quant_conv_module(nn.Conv2d(3, 3, 1), "none")


def test_add_has_a_scale_for_each_operand() -> None:
    add = QuantAdd.from_float(Add().eval())
    first, second = tensor(2, 3, 4, 4), tensor(2, 3, 4, 4, seed=1) * 10
    calibrate_by_max(add, first, second, run=lambda module, a, b: module(a, b))
    assert float(add.second_quantizer.scale) > 5 * float(add.input_quantizer.scale)
    expected = on_grid(first, add.input_quantizer.scale * 127) + on_grid(second, add.second_quantizer.scale * 127)
    assert torch.allclose(add(first, second), expected, atol=1e-6)
    add.quantized = False
    assert torch.equal(add(first, second), first + second)
    assert torch.equal(add.to_float()(first, second), first + second)


def test_concat_puts_all_on_one_grid() -> None:
    concat = QuantConcat.from_float(Concat().eval())
    inputs = [tensor(2, 3, 4, 4), tensor(2, 5, 4, 4, seed=1) * 10]
    calibrate_by_max(concat, inputs, run=lambda module, x: module(x))
    result = concat(inputs)
    amax = max(float(x.abs().max()) for x in inputs)
    assert amax <= float(concat.input_quantizer.scale) * 127 <= amax * 1.01
    assert torch.equal(result, concat.input_quantizer(torch.cat(inputs, 1)))
    assert torch.equal(concat.input_quantizer(result), result), "the result lies on the grid already"
    assert torch.equal(concat.to_float()(inputs), torch.cat(inputs, 1))


def test_stock_neck_concatenates_through_the_child(demo_model: Any) -> None:
    neck = demo_model.pts_neck
    stock_type, keys = type(neck), list(neck.state_dict())
    levels = [tensor(1, c, s, s) for c, s in zip(neck.in_channels, (32, 16, 8), strict=True)]
    with torch.no_grad():
        (expected,) = neck(levels)
        expose_concats(demo_model)
        expose_concats(demo_model)
        assert isinstance(neck, stock_type)
        assert isinstance(neck.concat, Concat)
        seen: list[int] = []
        neck.concat.register_forward_hook(lambda _module, args, _result: seen.append(len(args[0])))
        (found,) = neck(levels)
    assert seen == [3]
    assert torch.equal(found, expected)
    assert list(neck.state_dict()) == keys
    hide_concats(demo_model)
    assert type(neck) is stock_type
    assert not hasattr(neck, "concat")
