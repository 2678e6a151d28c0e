from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from base.errors import DataError
from datasets.points import parse_points, read_points


def test_round_trip(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(17, 5)).astype("<f4")
    points.tofile(tmp_path / "a.bin")
    read = read_points(tmp_path / "a.bin")
    np.testing.assert_array_equal(read, points)
    assert read.dtype == np.float32
    read[0, 0] = 1.0  # a pipeline may write into it


def test_truncated_file_says_how_many_bytes(tmp_path: Path) -> None:
    (tmp_path / "cut.bin").write_bytes(b"\0" * 107)
    message = (
        r"cut\.bin' has 107 bytes, which is no multiple of 20 \(5 float32 a point\): 5 points and 7 bytes of another"
    )
    with pytest.raises(DataError, match=message):
        read_points(tmp_path / "cut.bin")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Point file '.*gone\.bin' does not exist\. Check data_root"):
        read_points(tmp_path / "gone.bin")


def test_empty_cloud_is_a_cloud(tmp_path: Path) -> None:
    (tmp_path / "empty.bin").write_bytes(b"")
    assert read_points(tmp_path / "empty.bin", 4).shape == (0, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_points_are_dropped_and_counted(bad: float, caplog: pytest.LogCaptureFixture) -> None:
    points = np.arange(20, dtype="<f4").reshape(4, 5)
    points[1, 2] = points[3, 4] = bad
    with caplog.at_level(logging.WARNING):
        kept = parse_points(points.tobytes(), 5, "noisy.bin")
    np.testing.assert_array_equal(kept, points[[0, 2]])
    assert "'noisy.bin': dropped 2 of 4 points with NaN or infinite values" in caplog.text
