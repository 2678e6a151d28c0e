"""What is different about a weight, in words: a sign, two channels exchanged, a factor, single elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WeightDifference", "describe_weight_difference"]

_MAX_LISTED = 3


@dataclass(frozen=True)
class WeightDifference:
    """A weight of a node that diverges.

    Attributes:
        name: Of the initializer.
        description: How it differs from the reference's; empty where the reference's values are not known.
    """

    name: str
    description: str


def describe_weight_difference(
    reference: NDArray[np.floating], test: NDArray[np.floating], relative: float = 1e-5
) -> str:
    """How a weight differs from the reference's; empty if it does not.

    Args:
        reference: Taken as right.
        test: Judged; any float type.
        relative: Differences up to this share of the reference's largest magnitude are rounding.
    """
    if reference.shape != test.shape:
        return f"shape {list(test.shape)} instead of {list(reference.shape)}"
    a, b = reference.astype(np.float64), test.astype(np.float64)
    limit = relative * max(float(np.abs(a).max(initial=0.0)), 1e-12)
    # Negated, so that NaN counts as different.
    wrong = ~(np.abs(b - a) <= limit)
    count = int(wrong.sum())
    if count == 0:
        return ""
    return (
        _exchanged(a, b, wrong, limit)
        or _scaled(a, b, wrong, limit)
        or f"{count} of {wrong.size} elements differ: {_elements(a, b, wrong, limit)}"
    )


def _elements(a: NDArray[np.float64], b: NDArray[np.float64], wrong: NDArray[np.bool_], limit: float) -> str:
    places = np.argwhere(wrong)
    size = np.nan_to_num(np.abs(b - a)[wrong], nan=np.inf)
    listed = []
    for place in places[np.argsort(-size, kind="stable")[:_MAX_LISTED]]:
        at = tuple(int(index) for index in place)
        turned = ", the sign is turned" if abs(b[at] + a[at]) <= limit else ""
        listed.append(f"{list(at)} is {b[at]:.6g} instead of {a[at]:.6g}{turned}")
    return "; ".join(listed) + ("; ..." if len(places) > _MAX_LISTED else "")


def _exchanged(a: NDArray[np.float64], b: NDArray[np.float64], wrong: NDArray[np.bool_], limit: float) -> str:
    for axis in range(min(a.ndim, 2)):
        others = tuple(index for index in range(a.ndim) if index != axis)
        rows = np.flatnonzero(wrong.any(axis=others)) if others else np.flatnonzero(wrong)
        if len(rows) != 2:
            continue
        first, second = (np.take(a, row, axis=axis) for row in rows)
        swapped = np.abs(np.take(b, rows[0], axis=axis) - second).max() <= limit
        swapped &= np.abs(np.take(b, rows[1], axis=axis) - first).max() <= limit
        if swapped:
            return f"channels {rows[0]} and {rows[1]} of axis {axis} are exchanged"
    return ""


def _scaled(a: NDArray[np.float64], b: NDArray[np.float64], wrong: NDArray[np.bool_], limit: float) -> str:
    if not np.isfinite(b).all():
        return ""
    for axis in (None, *range(min(a.ndim, 2))):
        if axis is None:
            x, y, where = a, b, "all elements"
        else:
            others = tuple(index for index in range(a.ndim) if index != axis)
            rows = np.flatnonzero(wrong.any(axis=others)) if others else np.flatnonzero(wrong)
            if len(rows) != 1 or a.ndim == 1:
                continue
            x, y = np.take(a, rows[0], axis=axis), np.take(b, rows[0], axis=axis)
            where = f"channel {rows[0]} of axis {axis}"
        square = float((x * x).sum())
        factor = float((x * y).sum()) / square if square else 1.0
        if abs(factor - 1.0) > 1e-4 and np.abs(y - factor * x).max() <= limit * max(abs(factor), 1.0):
            return f"{where}: {factor:.4g} times the reference's"
    return ""
