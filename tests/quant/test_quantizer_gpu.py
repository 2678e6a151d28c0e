"""Quantizers on a GPU: the CPU's numbers, mixed precision, and no wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from quant.quantizer.base import QuantizerSpec
from quant.replace import quant_conv_module

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Operations that wait for the device raise."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("axis", [None, 1])
def test_cpu_and_gpu_are_equal(axis: int | None) -> None:
    from quant.quantizer import new_quantizer

    x = torch.randn(4, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(0.013) if axis is None else torch.linspace(0.002, 0.04, 6)
    quantizer = new_quantizer(QuantizerSpec(axis=axis), channels=None if axis is None else 6)
    quantizer.set_scale(scale)
    expected = quantizer(x)
    assert torch.equal(quantizer.cuda()(x.cuda()).cpu(), expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_training_step_does_not_wait(autocast: bool) -> None:
    layer = quant_conv_module(nn.Conv2d(8, 16, 3)).cuda()
    layer.input_quantizer.set_scale(torch.tensor(0.03))
    layer.weight_quantizer.set_scale(torch.full((16,), 0.002))
    x = torch.randn(2, 8, 32, 32, device="cuda", requires_grad=True)

    def step() -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.float16, enabled=autocast):
            result: torch.Tensor = layer(x)
        torch.autograd.backward(result.float().square().mean())
        return result

    step()  # the libraries load
    with no_waiting():
        result = step()
    assert result.dtype == (torch.float16 if autocast else torch.float32)
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert layer.weight.grad is not None
    assert float(layer.weight.grad.abs().max()) > 0
