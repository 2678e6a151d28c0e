"""Amax of weights against an exhaustive search, and against torch's own fake quantization."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from base.errors import ConfigError, DataError
from quant.calibration.weights import weight_amax
from quant.quantizer.base import round_scale, scale_from_amax


def weight(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_max(axis: int | None) -> None:
    w = weight(0, 6, 5, 3, 3)
    others = [dim for dim in range(4) if dim != axis]
    expected = w.abs().amax(others) if axis is not None else w.abs().max()
    amax = weight_amax(w, axis, "max")
    assert amax.shape == expected.shape
    assert torch.equal(amax, expected.double())


@pytest.mark.parametrize("axis", [0, 1, None])
def test_mse_is_the_best_scale_there_is(axis: int | None) -> None:
    w = weight(1, 4, 5, 3, 3)
    amax = weight_amax(w, axis, "mse")
    rows = w.movedim(axis, 0).flatten(1) if axis is not None else w.reshape(1, -1)
    for row, found in zip(rows.double(), amax.reshape(-1), strict=True):
        top = row.abs().max().item() / 127
        fine = torch.linspace(0.3 * top, top, 20_000, dtype=torch.float64)
        grid = np.array(sorted({*round_scale(fine).tolist(), *round_scale(fine, up=True).tolist()}, reverse=True))
        errors = [float(((torch.round(row / s).clamp(-128, 127) * s - row) ** 2).sum()) for s in grid]
        assert found.item() == pytest.approx(grid[int(np.argmin(errors))] * 127, rel=1e-12)


def test_mse_is_never_worse_than_max_through_the_quantizer() -> None:
    w = weight(2, 32, 64, 3, 3)
    zero_points = torch.zeros(32, dtype=torch.int32)

    def errors(method: str) -> torch.Tensor:
        scale = scale_from_amax(weight_amax(w, 0, method), up=method == "max")
        quantized = torch.fake_quantize_per_channel_affine(w, scale, zero_points, 0, -128, 127)
        return (quantized - w).double().square().sum(dim=(1, 2, 3))

    assert bool((errors("mse") <= errors("max") * (1 + 1e-6)).all())
    assert errors("mse").sum() < 0.99 * errors("max").sum()


def test_outlier_is_clipped_as_far_as_the_rest_gains() -> None:
    """n values of step error s**2 / 12 against one outlier at 1: n a**2 / (12 * 127**2) + (1 - a)**2 is least at a."""
    n = 100_000
    rest = torch.randn(n, generator=torch.Generator().manual_seed(3)) * 0.05
    expected = 1 / (1 + n / (12 * 127**2))
    found = weight_amax(torch.cat([rest, torch.ones(1)]).reshape(1, -1), 0, "mse")
    assert found.item() == pytest.approx(expected, rel=0.03)


def test_a_channel_of_zeros() -> None:
    w = weight(4, 3, 8)
    w[1] = 0
    for method in ("max", "mse"):
        amax = weight_amax(w, 0, method)
        assert amax[1] == 0
        assert bool((amax[[0, 2]] > 0).all())


def test_bad_input() -> None:
    w = weight(5, 2, 3)
    with pytest.raises(ConfigError, match="weight_method is 'entropy'; it must be one of max, mse"):
        weight_amax(w, 0, "entropy")
    w[0, 0] = torch.nan
    with pytest.raises(DataError, match="'conv1' holds NaN or infinite weights"):
        weight_amax(w, 0, "mse", "conv1")


@pytest.mark.parametrize("size", [1, 7, 1152])
def test_the_quick_search_rules_out_no_best_scale(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every candidate in float64: the same scale to the bit, also where errors are equal or zero."""
    w = weight(6, 12, size)
    on_a_grid = torch.round(w * 40) / 127
    cases = [w, on_a_grid, w**5, w.half(), torch.full((2, size), 0.3), w.double() * 1e-250, w * 1e-30]
    quick = [weight_amax(case, 0) for case in cases]
    monkeypatch.setattr("quant.calibration.weights._near_best", lambda row, scales, largest: scales)
    for case, found in zip(cases, quick, strict=True):
        assert torch.equal(found, weight_amax(case, 0))
