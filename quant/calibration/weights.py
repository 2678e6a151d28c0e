"""Amax of weights: exact values, one for each output channel, no data needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.errors import DataError
from base.int8 import INT8_MAX, INT8_MIN, amax_of_scale
from quant.calibration.amax import check_method, scale_candidates
from quant.settings import WEIGHT_METHODS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["weight_amax"]

# Elements of the (candidates, weights) table evaluated at a time: 2 MB of float64.
_TABLE = 1 << 18
# The same of the search in float32: 256 KB, which stay in a core's cache.
_QUICK_TABLE = 1 << 16
# What float32 may be wrong by in a difference where the largest weight is 1: three roundings of 2**-24, and where
# a weight lies so near the middle of two steps that its quotient goes to the other one, 2 * 3e-5 of a step of 1 / 127.
_SLACK = 1e-6
# Magnitudes below, or above its inverse, are searched in float64 alone.
_SMALLEST = 1e-30


def weight_amax(weight: Tensor, axis: int | None, method: str = "mse", name: str = "weight") -> Tensor:
    """The amax of each channel.

    Args:
        weight: Any shape.
        axis: Its channel dimension (0; 1 of a transposed convolution); None: one amax for all.
        method: "max", or "mse": 127 times the scale of eight significant bits, between 0.3 and 1 of the largest value,
            at which s * clamp(round(w / s), -128, 127) has the least squared error; of equal errors the larger scale.
            The largest value is among the candidates, rounded up, so that "mse" is never worse than "max".
        name: For the error.

    Returns:
        float64 on the CPU, shape () or (channels,); 0 for a channel of zeros.

    Raises:
        ConfigError: unknown method.
        DataError: a weight is NaN or infinite.
    """
    import torch

    check_method(method, WEIGHT_METHODS, "weight_method")
    values = weight.detach().cpu().to(torch.float64)
    rows: NDArray[np.float64] = (
        values.reshape(1, -1) if axis is None else values.movedim(axis, 0).reshape(values.shape[axis], -1)
    ).numpy()
    if not np.isfinite(rows).all():
        raise DataError(f"'{name}' holds NaN or infinite weights; no scale can be chosen. Check the checkpoint.")
    largest = np.abs(rows).max(axis=1)
    amax = largest.copy()
    if method == "mse":
        for channel in np.flatnonzero(largest > 0):
            amax[channel] = amax_of_scale(_best_scale(rows[channel], float(largest[channel])))
    return torch.from_numpy(amax).reshape(() if axis is None else (-1,))


def _best_scale(row: NDArray[np.float64], largest: float) -> float:
    scales = _near_best(row, scale_candidates(largest)[::-1], largest)
    errors = np.empty(len(scales))
    step = max(_TABLE // len(row), 1)
    for start in range(0, len(scales), step):
        s = scales[start : start + step, None]
        quantized = np.clip(np.rint(row / s), INT8_MIN, INT8_MAX)
        errors[start : start + step] = np.square(quantized * s - row).sum(axis=1)
    return float(scales[int(np.argmin(errors))])


def _near_best(row: NDArray[np.float64], scales: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """The scales, in their order, that a search in float32 cannot rule out: a few of two hundred, the best among them.

    Weights are taken relative to the largest. The root of a sum of squares is a norm, so that an error of at most
    `_SLACK` in each of n differences moves it by at most sqrt(n) * `_SLACK`; adding squares in float32 moves it
    by at most n / 2**24 of itself.
    """
    if not _SMALLEST < largest < 1 / _SMALLEST:
        return scales  # Squares of such weights leave float64's range, and scales float32's.
    values = (row / largest).astype(np.float32)
    steps = (scales / largest).astype(np.float32)
    norms = np.empty(len(scales))
    rows = max(_QUICK_TABLE // len(row), 1)
    for start in range(0, len(scales), rows):
        s = steps[start : start + rows, None]
        table = values / s
        np.rint(table, out=table)
        np.clip(table, INT8_MIN, INT8_MAX, out=table)
        table *= s
        table -= values
        norms[start : start + rows] = np.sqrt(np.einsum("ij,ij->i", table, table, dtype=np.float32))
    summing, rounding = len(row) * 2.0**-24, np.sqrt(len(row)) * _SLACK
    possible = norms * (1 - summing) - rounding <= norms.min() * (1 + summing) + rounding
    near: NDArray[np.float64] = scales[possible]
    return near
