"""The streaming histogram against numpy's, in any order and split; the peers' bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import DataError
from quant.calibration.histogram import NUM_BINS, AbsHistogram
from tests.quant.first_batch import FirstBatchHistogram


def values(seed: int, count: int = 20_000, spread: float = 1.0) -> torch.Tensor:
    """Both signs, a third of them exactly zero, with a long tail."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator) * torch.randn(count, generator=generator).exp() * spread
    return torch.where(torch.rand(count, generator=generator) < 1 / 3, torch.zeros(()), x)


def histogram_of(*parts: torch.Tensor) -> AbsHistogram:
    histogram = AbsHistogram()
    for part in parts:
        histogram.observe(part)
    return histogram


def content(histogram: AbsHistogram) -> tuple[bytes, int | None, int, float]:
    return histogram.counts.tobytes(), histogram.exponent, histogram.zeros, histogram.max


@pytest.mark.parametrize("spread", [1e-6, 1.0, 3e4])
def test_counts_are_numpys(spread: float) -> None:
    x = values(0, spread=spread)
    histogram = histogram_of(x)
    magnitudes = np.abs(x.numpy().astype(np.float64))
    nonzero = magnitudes[magnitudes != 0]
    # All but the last of numpy's bins are half open, as ours; the largest value is below the last limit.
    expected, _ = np.histogram(nonzero, bins=NUM_BINS, range=(0, NUM_BINS * histogram.width))
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.zeros == len(magnitudes) - len(nonzero)
    assert histogram.total == len(magnitudes)
    assert histogram.max == magnitudes.max()
    # The smallest power of two that holds the largest value.
    assert NUM_BINS * histogram.width > histogram.max >= NUM_BINS * histogram.width / 2
    assert histogram.edges()[-1] > histogram.max >= histogram.edges()[-2]
    np.testing.assert_array_equal(histogram.used_counts(with_zeros=False), expected[: histogram.num_used])
    with_zeros = histogram.used_counts(with_zeros=True)
    assert with_zeros.sum() == len(magnitudes)
    assert with_zeros[0] == expected[0] + histogram.zeros


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_order_and_split_do_not_matter(spreads: list[float], random: object) -> None:
    parts = [values(seed, 500, spread) for seed, spread in enumerate(spreads)]
    once = histogram_of(torch.cat(parts))
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert content(histogram_of(*shuffled)) == content(once)
    half = len(parts) // 2
    first, second = histogram_of(*parts[:half]), histogram_of(*parts[half:])
    untouched = content(second)
    first.merge(second)
    assert content(first) == content(once)
    assert content(second) == untouched


def test_a_value_on_a_limit_belongs_to_the_bin_above() -> None:
    histogram = histogram_of(torch.tensor([4.0, 2.0, 2.0 - 2**-23]))
    # 4 does not fit 4096 bins of 2**-10, so the bins have 2**-9.
    assert histogram.exponent == -9
    assert np.flatnonzero(histogram.counts).tolist() == [1023, 1024, 2048]


def test_zeros_only_then_values() -> None:
    histogram = histogram_of(torch.zeros(7))
    assert (histogram.exponent, histogram.zeros, histogram.total, histogram.num_used) == (None, 7, 7, 0)
    assert histogram.edges().tolist() == [0.0]
    histogram.observe(torch.tensor([-3.0]))
    assert (histogram.max, histogram.total, histogram.zeros) == (3.0, 8, 7)
    empty = AbsHistogram()
    empty.merge(histogram)
    assert content(empty) == content(histogram)
    histogram.observe(torch.zeros(0, 5))
    assert content(empty) == content(histogram)


@pytest.mark.parametrize("value", [1e-38, 1e-45, 3.4e38])
def test_extreme_magnitudes(value: float) -> None:
    x = torch.tensor([value, 0.0, -value])
    histogram = histogram_of(x)
    assert histogram.max == x[0].item()
    assert histogram.counts.sum() == 2
    histogram.observe(torch.tensor([1.0]))
    assert histogram.total == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types(dtype: torch.dtype) -> None:
    x = values(1, 1000).to(dtype)
    assert content(histogram_of(x)) == content(histogram_of(x.float()))


def test_shape_and_strides_do_not_matter() -> None:
    x = values(2, 4 * 6 * 10).reshape(4, 6, 10)
    assert content(histogram_of(x.transpose(0, 2)[::1])) == content(histogram_of(x))


def test_more_values_than_a_chunk() -> None:
    x = values(3, 700_000)
    assert content(histogram_of(x)) == content(histogram_of(*torch.split(x, 1000)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("histogram", [AbsHistogram(), FirstBatchHistogram()])
def test_not_finite(bad: float, histogram: AbsHistogram | FirstBatchHistogram) -> None:
    x = torch.ones(2, 50)
    x[1, 3] = bad
    with pytest.raises(DataError, match=r"'block\.0' holds 1 NaN or infinite values of 100 .*position 53.*'token-7'"):
        histogram.observe(x, "block.0", "token-7")
    assert int(histogram.counts.sum()) == 0


def test_share_above() -> None:
    histogram = histogram_of(torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0]))
    assert histogram.share_above(0.5) == 3 / 5
    assert histogram.share_above(2.0) == 2 / 5
    assert histogram.share_above(3.5) == 0.0
    assert AbsHistogram().share_above(1.0) == 0.0


@pytest.mark.parametrize("growth", [0.5, 1.7, 9.0])
@pytest.mark.parametrize("package", ["pytorch_quantization", "modelopt.torch.quantization"])
@pytest.mark.filterwarnings("ignore")
def test_bins_of_the_peers(package: str, growth: float) -> None:
    peer = pytest.importorskip(f"{package}.calib").HistogramCalibrator(8, None, False)
    histogram = FirstBatchHistogram()
    assert histogram.edges.size == 0
    for seed in range(4):
        x = values(seed, 5000) * growth**seed
        peer.collect(x.clone())
        histogram.observe(x)
        np.testing.assert_array_equal(histogram.edges, peer._calib_bin_edges.numpy())
        np.testing.assert_array_equal(histogram.counts, peer._calib_hist.numpy().astype(np.int64))
