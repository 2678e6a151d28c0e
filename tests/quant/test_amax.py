"""Every method's amax against its definition, and against the calibrators of pytorch_quantization and ModelOpt."""

from __future__ import annotations

import contextlib
import math
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from base.errors import ConfigError, DataError
from quant.calibration.amax import (
    amax_entropy,
    amax_mse,
    amax_percentile,
    amax_sparse_mse,
    compute_amax,
    scale_candidates,
)
from quant.calibration.histogram import AbsHistogram
from quant.quantizer.base import round_scale
from quant.settings import ACTIVATION_METHODS
from tests.quant.first_batch import FirstBatchHistogram

PEERS = ("pytorch_quantization.calib.histogram", "modelopt.torch.quantization.calib.histogram")


def draw(kind: str, seed: int, count: int = 30_011) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator)
    if kind == "normal":
        return x
    if kind == "relu":
        return x.relu()
    if kind == "laplace":
        return x * torch.randn(count, generator=generator) * 3
    if kind == "lognormal":
        return x.exp()
    assert kind == "sparse"
    return torch.where(torch.rand(count, generator=generator) < 0.95, torch.zeros(()), x.exp())


KINDS = ("normal", "relu", "laplace", "lognormal", "sparse")


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest) -> ModuleType:
    with mock.patch("warnings.warn"):
        return pytest.importorskip(request.param)  # type: ignore[no-any-return]


def peer_amax(peer: ModuleType, batches: list[torch.Tensor], method: str, num_bins: int) -> float:
    calibrator: Any = peer.HistogramCalibrator(8, None, False, num_bins=num_bins)
    for x in batches:
        calibrator.collect(x.clone())
    # pytorch_quantization's "mse" moves its arrays to a GPU, whether there is one or not; same arithmetic.
    patches: list[Any] = [mock.patch.object(torch.Tensor, "cuda", lambda self: self)]
    if peer.__name__.startswith("modelopt"):
        # ModelOpt 0.47's "mse" hands the number of bits over in the place of another argument, and quantizes to 0 bits.
        quantize = peer.fake_tensor_quant

        def as_meant(x: Any, amax: Any, num_bits: int, unsigned: bool) -> Any:
            return quantize(x, amax, None, num_bits, unsigned)

        patches.append(mock.patch.object(peer, "fake_tensor_quant", as_meant))
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        return float(calibrator.compute_amax(method))


@pytest.mark.parametrize("kind", KINDS)
def test_mse_and_percentile_equal_the_peers(peer: ModuleType, kind: str) -> None:
    batches = [draw(kind, step) * (1 + 0.4 * step) for step in range(3)]
    ours = FirstBatchHistogram(num_bins=512)
    for x in batches:
        ours.observe(x)
    assert amax_mse(ours.counts, ours.edges) == peer_amax(peer, batches, "mse", 512)
    # No multiple of 10,000 values: where the share is reached exactly, their sum of shares may fall short of it.
    assert amax_percentile(ours.counts, ours.edges, 99.99) == peer_amax(peer, batches, "percentile", 512)


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_equals_the_peers(peer: ModuleType, kind: str) -> None:
    # Their loop takes minutes with thousands of bins; the definition does not depend on the number.
    batches = [x / x.max() * (1 + 0.2 * step) for step, x in enumerate((draw(kind, 100), draw(kind, 101)))]
    ours = FirstBatchHistogram(num_bins=320)
    for x in batches:
        ours.observe(x)
    before = ours.counts.copy()
    assert amax_entropy(ours.counts, ours.edges) == peer_amax(peer, batches, "entropy", 320)
    np.testing.assert_array_equal(ours.counts, before)


def test_entropy_of_few_filled_bins_takes_the_last_of_equal_candidates(peer: ModuleType) -> None:
    x = torch.tensor([0.001, 0.4, 0.4, 1.0]).repeat(100)
    ours = FirstBatchHistogram(num_bins=256)
    ours.observe(x)
    assert amax_entropy(ours.counts, ours.edges) == peer_amax(peer, [x], "entropy", 256)


@pytest.mark.parametrize("kind", KINDS)
def test_mse_by_its_definition(kind: str) -> None:
    """Every candidate evaluated bin by bin, in double precision."""
    histogram = AbsHistogram()
    histogram.observe(draw(kind, 7))
    counts, edges = histogram.used_counts(with_zeros=True), histogram.edges()
    centers = (edges[1:] + edges[:-1]) / 2
    errors = []
    for amax in centers[128:]:
        codes = np.minimum(np.rint(centers * 127 / amax), 127)
        errors.append(float((counts * (codes * amax / 127 - centers) ** 2).sum()))
    assert compute_amax(histogram, "mse") == centers[128 + int(np.argmin(errors))]


@pytest.mark.parametrize(
    ("percentile", "expected"), [(50.0, 1.0), (50.1, 2.0), (75.0, 2.0), (99.0, 3.0), (100.0, 3.0), (0.001, 0.0)]
)
def test_percentile_by_hand(percentile: float, expected: float) -> None:
    # 25 % in [0, 1), 25 % in [1, 2), 25 % in [2, 3), 25 % in [3, 4): half of the values end with the second bin.
    assert amax_percentile(np.full(4, 25), np.arange(5.0), percentile) == expected


def test_percentile_is_exact() -> None:
    # 0.7 of 10 values are 7, though 0.1 * 7 summed in floating point falls short of 0.7.
    assert amax_percentile(np.ones(10, np.int64), np.arange(11.0), 70) == 6.0


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.5])
def test_percentile_out_of_range(percentile: float) -> None:
    with pytest.raises(ConfigError, match=r"percentile is .*above 0 and be at most 100"):
        amax_percentile(np.ones(4, np.int64), np.arange(5.0), percentile)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_mse_is_the_best_scale_there_is(kind: str) -> None:
    histogram = AbsHistogram()
    histogram.observe(draw(kind, 8))
    counts, edges = histogram.used_counts(with_zeros=False), histogram.edges()
    centers = (edges[1:] + edges[:-1]) / 2
    top = histogram.max / 127
    # Every float that has eight significant bits, found by rounding a fine grid with the quantizers' own rule.
    fine = torch.linspace(0.3 * top, top, 20_000, dtype=torch.float64)
    grid = sorted({*round_scale(fine).tolist(), *round_scale(fine, up=True).tolist()} - {0.0}, reverse=True)
    grid = [scale for scale in grid if scale >= 0.3 * top]
    assert scale_candidates(histogram.max)[::-1].tolist() == grid
    errors = [float((counts * (np.minimum(np.rint(centers / s), 127) * s - centers) ** 2).sum()) for s in grid]
    best = grid[int(np.argmin(errors))]
    assert amax_sparse_mse(histogram) == best * 127
    assert round_scale(torch.tensor(amax_sparse_mse(histogram) / 127, dtype=torch.float64)).item() == best


def test_sparse_mse_counts_occupied_cells_only() -> None:
    """A constant in all empty cells drags "mse" to a grid that holds it; the occupied cells are not heard."""
    foreground = draw("lognormal", 9).clamp_max(20.0)
    background = torch.full((2_000_000,), 0.0731)
    everything, occupied = AbsHistogram(), AbsHistogram()
    everything.observe(torch.cat([foreground, background]))
    occupied.observe(foreground)

    def error(amax: float) -> float:
        scale = amax / 127
        return float((((foreground / scale).round().clamp_max(127) * scale - foreground) ** 2).mean())

    sparse = compute_amax(everything, "sparse_mse", occupied=occupied)
    assert error(sparse) < error(compute_amax(everything, "mse"))
    assert error(sparse) < error(compute_amax(everything, "sparse_mse"))
    # Nothing but zeros in occupied cells: all values count.
    empty = AbsHistogram()
    empty.observe(torch.zeros(10))
    assert compute_amax(everything, "sparse_mse", occupied=empty) == compute_amax(everything, "sparse_mse")


def test_entropy_collapses_where_squared_error_does_not() -> None:
    """Empty cells at one constant a channel, objects in one cell of a hundred: the published failure, in small."""
    generator = torch.Generator().manual_seed(0)
    empty = torch.rand(64, generator=generator).repeat(20_000)
    objects = torch.rand(13_000, generator=generator) * 20
    everything, occupied = AbsHistogram(), AbsHistogram()
    everything.observe(torch.cat([empty, objects]))
    occupied.observe(objects)
    assert compute_amax(everything, "entropy") < 0.2 * everything.max
    assert compute_amax(everything, "mse") > 0.7 * everything.max
    assert compute_amax(everything, "sparse_mse", occupied=occupied) > 0.9 * everything.max


@pytest.mark.parametrize("method", ACTIVATION_METHODS)
def test_a_constant_and_a_single_value(method: str) -> None:
    histogram = AbsHistogram()
    histogram.observe(torch.full((100,), 5.0))
    amax = compute_amax(histogram, method, percentile=100.0)
    assert math.isfinite(amax)
    # Entropy sees equal divergence everywhere and the others no error but rounding: never beyond one bin above.
    assert 0 < amax <= 5.0 * (1 + 1 / 128)


def test_max_is_the_largest_value() -> None:
    histogram = AbsHistogram()
    histogram.observe(torch.tensor([-7.25, 3.0, 0.0]))
    assert compute_amax(histogram, "max") == 7.25


def test_tiny_values_have_too_few_bins_to_search() -> None:
    histogram = AbsHistogram()
    histogram.observe(torch.tensor([1e-12, 5e-13]))
    assert histogram.num_used < 128
    assert compute_amax(histogram, "mse") == compute_amax(histogram, "entropy") == histogram.max


def test_bad_input() -> None:
    zeros = AbsHistogram()
    zeros.observe(torch.zeros(12))
    with pytest.raises(DataError, match=r"'neck' saw 12 values, all of them 0.*skip_layers"):
        compute_amax(zeros, "mse", name="neck")
    zeros.observe(torch.ones(1))
    with pytest.raises(DataError, match=r"'neck': 50 % .* first bin.*92\.3077% are 0.*sparse_mse"):
        compute_amax(zeros, "percentile", percentile=50.0, name="neck")
    with pytest.raises(ConfigError, match="amax_method is 'kl'; it must be one of max, percentile, mse, entropy"):
        compute_amax(zeros, "kl")


def test_entropy_of_nothing_is_the_last_limit() -> None:
    assert amax_entropy(np.zeros(256, np.int64), np.arange(257, dtype=np.float64)) == 256.0
