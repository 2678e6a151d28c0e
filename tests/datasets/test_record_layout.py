"""What a headerless file's bytes are: held against files that other writers make, and against clouds of formulas."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from base.checks import checking
from base.errors import DataError
from datasets.point_bytes import ColumnsAdvice, check_bytes
from datasets.points import parse_points
from datasets.record_layout import container_of, judge_layout
from tests.datasets.street import street

Cloud = NDArray[np.float32]


def shuffled(points: Cloud) -> Cloud:
    return np.random.default_rng(1).permutation(points)


def padded(points: Cloud) -> Cloud:
    return np.concatenate([points, np.zeros_like(points)])


def holed(points: Cloud) -> Cloud:
    out = points.copy()
    out[np.random.default_rng(2).random(len(out)) < 0.5] = 0
    return out


def in_rows_of_nan(points: Cloud) -> Cloud:
    out = points.copy()
    out[::3] = np.nan
    return out


@pytest.mark.parametrize("order", [np.asarray, shuffled, padded, holed, in_rows_of_nan])
@pytest.mark.parametrize("true", range(3, 9))
def test_the_number_of_columns_shows_in_the_values(true: int, order: Callable[[Cloud], Cloud]) -> None:
    data = order(street(true)).tobytes()
    for said in range(3, 9):
        verdict = judge_layout(data, said)
        assert (verdict.kind, verdict.columns) == ("", true), said
        assert verdict.refuted == (said != true), said
        assert verdict.confirmed == (said == true), said


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    yaw=st.floats(-3.2, 3.2),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(-3, 3)),
    seed=st.integers(0, 1000),
    columns=st.integers(3, 6),
)
def test_no_pose_of_the_sensor_hides_it(
    scale: float, yaw: float, shift: tuple[float, float, float], seed: int, columns: int
) -> None:
    points = street(columns, steps=150, seed=seed)
    turned = points.copy()
    turned[:, 0] = np.cos(yaw) * points[:, 0] - np.sin(yaw) * points[:, 1] + shift[0]
    turned[:, 1] = np.sin(yaw) * points[:, 0] + np.cos(yaw) * points[:, 1] + shift[1]
    turned[:, 2] += shift[2]
    if columns > 3:
        turned[:, 3] *= np.float32(scale)
    verdict = judge_layout(shuffled(turned).tobytes(), columns)
    assert not verdict.refuted
    assert verdict.columns in (columns, None)


@pytest.mark.parametrize(
    ("dtype", "scale", "kind"),
    [
        ("<f8", 1, "float64"),
        (">f8", 1, "big-endian float64"),
        (">f4", 1, "big-endian float32"),
        ("<f2", 1, "float16"),
        (">f2", 1, "big-endian float16"),
        ("<i4", 1000, "int32"),
        ("<i2", 100, "int16"),
    ],
)
@pytest.mark.parametrize("columns", [4, 5])
def test_numbers_of_another_type(dtype: str, scale: int, kind: str, columns: int) -> None:
    data = (street(columns).astype("<f8") * scale).astype(dtype).tobytes()
    for said in range(3, 9):
        verdict = judge_layout(data, said)
        assert (verdict.refuted, verdict.kind, verdict.columns) == (True, kind, columns), said


def test_float64_whose_lower_halves_are_zero() -> None:
    # Corners of a grid of quarter metres: every second word of four bytes is 0, which a sensor makes too.
    points = np.rint(street(4).astype("<f8") * 4) / 4
    verdict = judge_layout(points.tobytes(), 4)
    assert (verdict.refuted, verdict.kind, verdict.columns) == (True, "float64", 4)


def test_bytes_that_are_no_numbers() -> None:
    verdict = judge_layout(np.random.default_rng(0).bytes(80_000), 5)
    assert (verdict.refuted, verdict.kind, verdict.columns) == (True, "", None)


def test_columns_that_are_all_alike_tell_nothing() -> None:
    verdict = judge_layout(np.random.default_rng(0).normal(size=(4000, 5)).astype("<f4").tobytes(), 5)
    assert not verdict.refuted
    assert not verdict.confirmed
    assert verdict.columns is None


@pytest.mark.parametrize("points", [np.zeros((0, 5)), np.ones((3, 5)), np.full((2000, 5), np.nan), np.zeros((2000, 5))])
def test_a_few_points_and_none_are_not_judged(points: Cloud) -> None:
    verdict = judge_layout(points.astype("<f4").tobytes(), 5)
    assert not verdict.refuted
    assert not verdict.confirmed


def numpy_file(points: Cloud) -> bytes:
    stream = io.BytesIO()
    np.save(stream, points)
    return stream.getvalue()


def numpy_archive(points: Cloud) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, points=points)
    return stream.getvalue()


def text(points: Cloud) -> bytes:
    stream = io.BytesIO()
    np.savetxt(stream, points, "%.3f")
    return stream.getvalue()


def bag(points: Cloud, tmp_path: Path) -> bytes:
    connection = sqlite3.connect(tmp_path / "bag.db3")
    connection.execute("create table messages (data blob)")
    connection.commit()
    connection.close()
    return (tmp_path / "bag.db3").read_bytes()


def test_other_files_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    points = street(5, steps=60)
    raw = points.tobytes()
    head = b"FIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 9\nHEIGHT 1\nPOINTS 9\nDATA binary\n"
    files = {
        numpy_file(points): "a NumPy file",
        numpy_archive(points): "a ZIP archive",
        gzip.compress(raw): "compressed by gzip",
        bz2.compress(raw): "compressed by bzip2",
        lzma.compress(raw): "compressed by xz",
        text(points): "text",
        bag(points, tmp_path): "a ROS 2 bag or another SQLite database",
        b"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n" + head + raw: "a PCD file",
        b"VERSION .7\n" + head + raw: "a PCD file",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "a pointer of Git LFS",
        b"<!DOCTYPE html>\n<html><body>404</body></html>": "a web page",
    }
    for data, what in files.items():
        found = container_of(data)
        assert found is not None, what
        assert found[0].startswith(what)
        # A PCD file is read as what it is, and lacks the ring here.
        refused = f"Point file 'a.bin': it is {what}.*, not float32 records"
        with pytest.raises(DataError, match="no field 'ring'" if what == "a PCD file" else refused):
            parse_points(data, 5, "a.bin")
    assert container_of(raw) is None


def advice(columns: int) -> str | None:
    return f"give --columns={columns}" if columns > 3 else None


@pytest.mark.parametrize(
    ("points", "said", "message"),
    [
        (street(4), 5, r"look like 4 a point\. Give --columns=4\."),
        (street(3), 4, r"look like 3 a point\. Points of 3 numbers cannot be read"),
        (street(4)[:-1].ravel()[:-1], 3, r"ends with 12 bytes of a point of 4: it was cut off"),
        (
            street(4).astype("<f8"),
            8,
            r"'<f8'\)\.astype\('<f4'\)\.tofile\('new\.bin'\), and read that: give --columns=4",
        ),
        (street(4).astype("<f8"), 4, r"holds float64, 4 a point"),
    ],
)
def test_advice_is_what_the_same_test_passes(points: Cloud, said: int, message: str) -> None:
    data = points.tobytes()
    with pytest.raises(DataError, match=message) as error:
        check_bytes(data, said, "a.bin", ColumnsAdvice(advice))
    if "--columns=" in str(error.value):
        columns = int(str(error.value).split("--columns=")[1][0])
        as_advised = np.frombuffer(data, points.dtype).astype("<f4").tobytes()
        check_bytes(as_advised, columns, "a.bin", ColumnsAdvice(advice))


def test_who_knows_better_goes_on() -> None:
    data = street(4).tobytes()
    with checking(["point-file-columns"]) as record:
        check_bytes(data, 5, "a.bin", ColumnsAdvice(advice))
    assert [(item.check, item.outcome) for item in record.results()] == [("point-file-columns", "accepted")]


def test_what_cannot_be_told_is_said_where_it_is_asked_for() -> None:
    data = np.random.default_rng(0).normal(size=(4000, 5)).astype("<f4").tobytes()
    with checking() as record:
        check_bytes(data, 5, "a.bin", ColumnsAdvice(advice))
    assert not record.results()
    with checking() as record:
        check_bytes(data, 5, "a.bin", ColumnsAdvice(advice, confirm=True))
    (result,) = record.results()
    assert (result.check, result.outcome) == ("point-file-columns-unclear", "warning")
    assert "its size would fit 4 or 8 too" in result.messages[0]
