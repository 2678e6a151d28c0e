"""Boxes3D: shapes are checked, selection keeps the columns together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D


def _boxes(n: int) -> Boxes3D:
    values: NDArray[Any] = np.arange(9 * n, dtype=np.float64).reshape(n, 9)  # of another type than a column has
    return Boxes3D(values, np.linspace(0, 1, n), np.arange(n), np.arange(n) * 10)


def test_columns_get_their_types() -> None:
    boxes = _boxes(3)
    assert boxes.boxes.dtype == np.float32
    assert boxes.scores.dtype == np.float32
    assert boxes.labels.dtype == np.int64
    assert boxes.num_points is not None
    assert boxes.num_points.dtype == np.int64


def test_select_keeps_rows_together() -> None:
    picked = _boxes(4).select(np.array([False, True, False, True]))
    assert picked.labels.tolist() == [1, 3]
    assert picked.num_points is not None
    assert picked.num_points.tolist() == [10, 30]
    assert picked.boxes[:, 0].tolist() == [9.0, 27.0]
    reordered = _boxes(4).select(np.array([3, 0]))
    assert reordered.labels.tolist() == [3, 0]


def test_distance_is_in_the_ground_plane() -> None:
    boxes = Boxes3D(
        np.array([[3.0, 4.0, 100.0, 1, 1, 1, 0, 0, 0]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
    )
    assert boxes.distances_m().tolist() == [5.0]


def test_empty_has_all_columns() -> None:
    empty = Boxes3D.empty()
    assert len(empty) == 0
    assert empty.boxes.shape == (0, 9)


@pytest.mark.parametrize("shape", [(3,), (3, 7), (2, 3, 9)])
def test_wrong_box_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"boxes must be \(N, 9\)"):
        Boxes3D(np.zeros(shape, np.float32), np.zeros(3, np.float32), np.zeros(3, np.int64))


def test_wrong_column_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores must have shape \(2,\)"):
        Boxes3D(np.zeros((2, 9), np.float32), np.zeros(3, np.float32), np.zeros(2, np.int64))
