"""From a histogram of |x| to amax, the magnitude that becomes code 127.

`max`           the largest value: nothing is clipped.
`percentile`    the lower limit of the bin where the share of values reaches the percentile.
`mse`           the bin centre that minimizes the squared error of the quantized histogram.
`entropy`       the bin limit that minimizes the Kullback-Leibler divergence between the clipped histogram and its
                128-level version.
`sparse_mse`    squared error over the non-zero values of occupied cells (`quant.calibration.occupancy`), minimized over
                every scale that a quantizer can hold between `SMALLEST_SHARE` of their largest value and that value.

`percentile`, `mse` and `entropy` are the definitions of pytorch_quantization and ModelOpt, whose amax they equal on the
same histogram. They are computed from prefix sums: each candidate costs its 128 levels instead of a pass over the
histogram.

Why entropy collapses on a bird's-eye-view canvas: cells without a pillar are zeros, most of the histogram's mass lies
in its lowest bins, and the divergence weighs a bin by its mass. A small amax renders those low bins finely; the tail
that it cuts off (the strong features of the few cells that hold an object) is moved into one bin and costs almost
nothing, because it has almost no mass. `percentile` fails in the same way, and returns 0 when the share of zeros
exceeds it. Squared error weighs the tail by its size squared.

Exact zeros are no matter for squared error: any scale holds them. But behind the first layer the empty cells are not
zero any more; bias makes them constants, which are most of the values. `sparse_mse` leaves the empty cells out by their
place, not by their value, and bounds how much of the range may be given up: LiDAR-PTQ (Zhou et al., ICLR 2024) starts
from the maximum and searches below it, for the same reason.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ConfigError, DataError
from base.int8 import INT8_MAX
from quant.settings import ACTIVATION_METHODS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quant.calibration.histogram import AbsHistogram

__all__ = [
    "amax_entropy",
    "amax_mse",
    "amax_percentile",
    "amax_sparse_mse",
    "check_method",
    "compute_amax",
    "scale_candidates",
]

_LEVELS = INT8_MAX + 1  # magnitudes 0 to 127
_START_BIN = 128
SMALLEST_SHARE = 0.3
# Divergences closer than this are one: the sums' rounding differs between processors, the choice must not.
_TIE = 1e-12
_STEPS_PER_OCTAVE = 128  # eight significant bits, as in quant.quantizer.base


def check_method(method: str, allowed: tuple[str, ...], key: str) -> None:
    """Raises the ConfigError that lists what `key` may be."""
    if method not in allowed:
        raise ConfigError(f"{key} is '{method}'; it must be one of {', '.join(allowed)}.")


def compute_amax(
    histogram: AbsHistogram,
    method: str,
    *,
    occupied: AbsHistogram | None = None,
    percentile: float = 99.99,
    name: str = "tensor",
) -> float:
    """The amax of one tensor.

    Args:
        method: One of `ACTIVATION_METHODS`.
        occupied: For "sparse_mse": the values in occupied cells alone; without it, those of `histogram`.
        percentile: For that method; in (0, 100].
        name: Of the tensor, for errors.

    Raises:
        ConfigError: unknown method, or a percentile out of range.
        DataError: nothing but zeros was seen, or the percentile lies among the zeros.
    """
    check_method(method, ACTIVATION_METHODS, "amax_method")
    if histogram.exponent is None:
        raise DataError(
            f"Quantizer '{name}' saw {histogram.zeros} values, all of them 0: no scale follows from them. Check that "
            "the calibration frames hold points and that the layer before is not dead; or leave the layer out with "
            "skip_layers."
        )
    if method == "max":
        return histogram.max
    if method == "sparse_mse":
        # Occupied cells may be all zero (a dead channel group, a tiny canvas): then every value counts.
        return amax_sparse_mse(histogram if occupied is None or occupied.exponent is None else occupied)
    counts, edges = histogram.used_counts(with_zeros=True), histogram.edges()
    if method == "percentile":
        amax = amax_percentile(counts, edges, percentile)
        if amax == 0.0:
            raise DataError(
                f"Quantizer '{name}': {percentile:g} % of its values lie in the histogram's first bin, below "
                f"{histogram.width:g} ({histogram.zeros / histogram.total:.4%} are 0; the largest is "
                f"{histogram.max:g}), so that the percentile is 0. Use amax_method 'sparse_mse' or 'mse', or a higher "
                "percentile."
            )
        return amax
    # Both search from bin 128 on: a shorter histogram is rendered exactly by the largest value.
    if len(counts) <= _START_BIN:
        return histogram.max
    return amax_mse(counts, edges) if method == "mse" else amax_entropy(counts, edges)


def amax_percentile(counts: NDArray[np.int64], edges: NDArray[np.floating], percentile: float) -> float:
    """Lower limit of the first bin up to whose end at least `percentile` per cent of the values lie; exact in integers.

    The peers add up rounded shares; where the percentile is reached exactly, their sum may fall short of it
    and give a later bin.

    Args:
        counts: (n,) integers.
        edges: (n + 1,) limits of the bins.
    """
    if not 0 < percentile <= 100:
        raise ConfigError(f"percentile is {percentile}; it must lie above 0 and be at most 100, such as 99.99.")
    cumulative = np.cumsum(counts, dtype=np.int64)
    share = Fraction(str(percentile)) / 100
    # The smallest whole number of values that is at least the share of all.
    wanted = -(-int(cumulative[-1]) * share.numerator // share.denominator)
    return float(edges[int(np.searchsorted(cumulative, wanted))])


def amax_mse(counts: NDArray[np.int64], edges: NDArray[np.floating], start_bin: int = _START_BIN) -> float:
    """The bin centre, from `start_bin` on, at which quantizing all bin centres has the least squared error.

    Args:
        counts: (n,) integers, n > start_bin.
        edges: (n + 1,) limits of the bins; centres are computed in float32, as the peers do.
    """
    limits = edges.astype(np.float32)
    centers = (limits[1:] + limits[:-1]) / np.float32(2)
    candidates = centers[start_bin:]
    errors = _squared_errors(counts, centers.astype(np.float64), candidates.astype(np.float64) / INT8_MAX)
    return float(candidates[int(np.argmin(errors))])


def amax_sparse_mse(histogram: AbsHistogram, smallest_share: float = SMALLEST_SHARE) -> float:
    """127 times the scale with the least squared error over the non-zero values, among all scales a quantizer can hold.

    Zeros are exact at any scale and take no part. The grid needs no refinement: it holds each scale of eight
    significant bits whose amax lies between `smallest_share` of the largest value and the first that clips nothing; of
    equal errors the larger scale, which clips less.
    """
    counts, edges = histogram.used_counts(with_zeros=False), histogram.edges()
    scales = scale_candidates(histogram.max, smallest_share)[::-1]
    errors = _squared_errors(counts, (edges[1:] + edges[:-1]) / 2, scales)
    return float(scales[int(np.argmin(errors))] * INT8_MAX)


def scale_candidates(largest: float, smallest_share: float = SMALLEST_SHARE) -> NDArray[np.float64]:
    """Ascending scales of eight significant bits, from `smallest_share * largest / 127` to one that clips nothing."""
    top = largest / INT8_MAX
    exponent = int(np.frexp(top)[1])
    # top = m * 2**exponent with m in [1/2, 1): its octave has the steps 128 to 255 of 2**(exponent - 8).
    steps = np.arange(_STEPS_PER_OCTAVE, 2 * _STEPS_PER_OCTAVE)
    octaves = int(np.ceil(np.log2(1 / smallest_share))) + 1
    grid = np.concatenate(
        [np.ldexp(steps, exponent - 8 - k) for k in range(octaves, -1, -1)] + [[np.ldexp(1.0, exponent)]]
    )
    first = int(np.searchsorted(grid, smallest_share * top))
    last = int(np.searchsorted(grid, top))
    return grid[first : last + 1].astype(np.float64)


def amax_entropy(counts: NDArray[np.int64], edges: NDArray[np.floating], start_bin: int = _START_BIN) -> float:
    """The bin limit with the least divergence of the 128-level histogram from the clipped one; the last of equal ones.

    As the peers do: the first bin gets the count of the second, what lies above a candidate is added to its last bin,
    and a level's count is spread evenly over those of its bins that are not empty.

    Args:
        counts: (n,) integers, n >= start_bin; left as they are.
        edges: (n + 1,) limits of the bins.
    """
    bins = counts.astype(np.int64)
    bins[0] = bins[1]
    total = float(bins.sum())
    if total == 0.0:
        return float(edges[-1])
    weighted = np.where(bins > 0, bins * np.log(np.maximum(bins, 1)), 0.0)
    sum_before = np.concatenate([[0], np.cumsum(bins)])
    filled_before = np.concatenate([[0], np.cumsum(bins > 0)])
    weighted_before = np.concatenate([[0.0], np.cumsum(weighted)])
    # Candidate i keeps i bins; level k of it begins with the first bin j for which j * 128 // i == k.
    stops = np.arange(start_bin, len(bins) + 1)[:, None]
    starts = -(-np.arange(_LEVELS + 1) * stops // _LEVELS)
    level_sum = np.diff(sum_before[starts], axis=1)
    level_filled = np.diff(filled_before[starts], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        level_log = np.where(level_sum > 0, np.log(level_sum / level_filled), 0.0)
    last = bins[stops[:, 0] - 1]
    kept = sum_before[stops[:, 0]].astype(np.float64)
    tail = total - kept
    last_full = last + tail
    # sum of p log p of the clipped histogram, then its cross term with the levels; both in counts, divided by the total
    # below.
    own = weighted_before[stops[:, 0] - 1] + np.where(last_full > 0, last_full * np.log(np.maximum(last_full, 1)), 0.0)
    cross = (level_sum * level_log).sum(axis=1) + tail * level_log[:, -1]
    with np.errstate(divide="ignore"):
        divergences = (own - cross) / total - np.log(total) + np.log(kept)
    # Mass added to an empty bin has no counterpart in the levels: infinitely divergent.
    divergences[(last == 0) & (tail > 0)] = np.inf
    divergences[kept == 0] = np.inf
    near = np.flatnonzero(divergences <= divergences.min() + _TIE)
    return float(edges[start_bin + int(near[-1])])


def _squared_errors(
    counts: NDArray[np.int64], centers: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum over bins of count * (center - quantized center)**2, for each scale.

    With prefix sums of count, count * x and count * x**2, level q of a scale s adds S2 - 2 q s S1 + (q s)**2 S0 over
    its bins: those between (q - 1/2) s and (q + 1/2) s, the last level up to the end. At exactly half a step both
    neighbours have the same error.
    """
    sums = [np.concatenate([[0.0], np.cumsum(counts * centers**power)]) for power in range(3)]
    levels = np.arange(_LEVELS)
    errors = np.empty(len(scales))
    for start in range(0, len(scales), _LEVELS):
        s = scales[start : start + _LEVELS, None]
        bounds = np.searchsorted(centers, (levels[1:] - 0.5) * s)
        first = np.zeros((len(s), 1), np.int64)
        limits = np.concatenate([first, bounds, np.full_like(first, len(centers))], axis=1)
        s0, s1, s2 = (np.diff(total[limits], axis=1) for total in sums)
        value = levels * s
        errors[start : start + _LEVELS] = (s2 - 2 * value * s1 + value**2 * s0).sum(axis=1)
    return errors
