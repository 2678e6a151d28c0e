"""PCD files, written here by the format's description."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from base.checks import checking
from base.errors import DataError
from datasets.lzf import decompress
from datasets.pcd import parse_pcd

PATH = Path("cloud.pcd")


@pytest.fixture(scope="module")
def cloud() -> NDArray[np.float32]:
    """(7, 4) x, y, z, intensity; whole intensities, so that a byte can hold them."""
    points = np.random.default_rng(4).uniform(-50, 50, (7, 4)).astype(np.float32)
    points[:, 3] = [0, 3, 9, 27, 81, 243, 255]
    return points


def header(
    storage: str,
    points: int,
    fields: str = "x y z intensity",
    size: str = "4 4 4 4",
    kind: str = "F F F F",
    count: str = "1 1 1 1",
) -> bytes:
    return (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {fields}\nSIZE {size}\nTYPE {kind}\nCOUNT {count}\n"
        f"WIDTH {points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {storage}\n"
    ).encode()


def test_binary(cloud: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(parse_pcd(header("binary", 7) + cloud.tobytes(), PATH), cloud)


def test_ascii(cloud: NDArray[np.float32]) -> None:
    rows = "\n".join(" ".join(repr(float(value)) for value in row) for row in cloud)
    np.testing.assert_array_equal(parse_pcd(header("ascii", 7) + rows.encode(), PATH), cloud)


def autoware_records(cloud: NDArray[np.float32]) -> bytes:
    """x, y, z float; intensity, return type byte; channel short, four bytes of padding, a stamp as double."""
    return b"".join(struct.pack("<fffBBH4xd", x, y, z, int(i), 1, 7, 0.5) for x, y, z, i in cloud)


def test_fields_of_other_types_orders_and_padding(cloud: NDArray[np.float32]) -> None:
    head = header(
        "binary",
        7,
        fields="x y z intensity return_type channel _ time_stamp",
        size="4 4 4 1 1 2 1 8",
        kind="F F F U U U U F",
        count="1 1 1 1 1 1 4 1",
    )
    np.testing.assert_array_equal(parse_pcd(head + autoware_records(cloud), PATH), cloud)
    swapped = np.ascontiguousarray(cloud[:, [3, 2, 1, 0]]).astype("<f8")
    head = header("binary", 7, fields="I z y x", size="8 8 8 8")
    np.testing.assert_array_equal(parse_pcd(head + swapped.tobytes(), PATH), cloud)


def literals(data: bytes) -> bytes:
    """LZF without any repetition: runs of at most 32 bytes, each after its length - 1."""
    runs = [data[start : start + 32] for start in range(0, len(data), 32)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def packed(stream: bytes, size: int) -> bytes:
    return struct.pack("<II", len(stream), size) + stream


def test_compressed_fields_stand_one_after_another(cloud: NDArray[np.float32]) -> None:
    data = np.ascontiguousarray(cloud.T).tobytes()
    np.testing.assert_array_equal(
        parse_pcd(header("binary_compressed", 7) + packed(literals(data), len(data)), PATH), cloud
    )


def test_compressed_repetitions() -> None:
    # 300 points that are all (0, 0, 0, 0): one literal zero, then repetitions of the byte before, which overlap
    # with themselves. A repetition has 3 to 8 bytes in the short form, 9 to 264 in the long one.
    size = 300 * 16
    stream = bytes([0, 0])
    left = size - 1
    while left:
        length = min(left, 264) if left >= 9 else left
        if 0 < left - length < 3:
            length -= 3
        stream += bytes([7 << 5, length - 9, 0]) if length >= 9 else bytes([(length - 2) << 5, 0])
        left -= length
    points = parse_pcd(header("binary_compressed", 300) + packed(stream, size), PATH)
    assert points.shape == (300, 4)
    assert not points.any()


def test_a_repetition_from_further_back() -> None:
    # Two points whose x, y, z and intensity each are 1.0 twice: 8 bytes, then 8 bytes from 8 back, three times.
    one = struct.pack("<ff", 1.0, 2.0)
    stream = bytes([7]) + one + bytes([(8 - 2) << 5, 7]) * 3
    points = parse_pcd(header("binary_compressed", 2) + packed(stream, 32), PATH)
    np.testing.assert_array_equal(points, [[1.0] * 4, [2.0] * 4])


def test_points_that_do_not_get_smaller_are_stored_as_they_are(cloud: NDArray[np.float32]) -> None:
    data = np.ascontiguousarray(cloud.T).tobytes()
    np.testing.assert_array_equal(parse_pcd(header("binary_compressed", 7) + packed(data, len(data)), PATH), cloud)


def test_a_compressed_size_that_nothing_can_have(cloud: NDArray[np.float32]) -> None:
    # 3 GB out of 20 bytes: refused before anything is made.
    points = 200_000_000
    head = header("binary_compressed", points)
    with pytest.raises(DataError, match="at most 67108864 are unpacked"):
        parse_pcd(head + packed(b"\xff" * 20, 16 * points), PATH)


def test_numbers_beyond_single_precision_are_infinite() -> None:
    points = parse_pcd(header("ascii", 2) + b"1e300 2 3 4\n1e999 nan -inf 5", PATH)
    np.testing.assert_array_equal(points, [[np.inf, 2, 3, 4], [np.inf, np.nan, -np.inf, 5]])


@pytest.mark.parametrize("text", [b"", b"  \n ", b"\n\n"])
def test_no_points(text: bytes) -> None:
    assert parse_pcd(header("ascii", 0) + text, PATH).shape == (0, 4)
    assert parse_pcd(header("binary", 0), PATH).shape == (0, 4)
    assert parse_pcd(header("binary_compressed", 0) + packed(b"", 0), PATH).shape == (0, 4)


def test_ascii_in_pieces(cloud: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "\n".join(" ".join(repr(float(value)) for value in row) for row in cloud)
    for size in (33, 50, 200):
        monkeypatch.setattr("datasets.pcd._ASCII_BLOCK", size)
        np.testing.assert_array_equal(parse_pcd(header("ascii", 7) + rows.encode(), PATH), cloud)
    monkeypatch.setattr("datasets.pcd._ASCII_BLOCK", 4)
    with pytest.raises(DataError, match="should be numbers"):
        parse_pcd(header("ascii", 7) + rows.encode(), PATH)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_repetitions_are_those_of_a_byte_by_byte_reader(stream: bytes, size: int) -> None:
    def one_by_one() -> bytes | None:
        out: list[int] = []
        position = 0
        try:
            while position < len(stream):
                control = stream[position]
                position += 1
                if control < 32:
                    for _ in range(control + 1):
                        out.append(stream[position])
                        position += 1
                    continue
                length = control >> 5
                if length == 7:
                    length += stream[position]
                    position += 1
                start = len(out) - ((control & 31) << 8) - stream[position] - 1
                position += 1
                if start < 0:
                    return None
                for index in range(start, start + length + 2):
                    out.append(out[index])
        except IndexError:
            return None
        return bytes(out)

    expected = one_by_one()
    if expected is not None and len(stream) > len(expected) + len(expected) // 32 + 1:
        expected = None  # larger than any writer makes it
    assert decompress(stream, size) == (expected if expected is not None and len(expected) == size else None)
    if expected is not None:
        assert decompress(stream, len(expected)) == expected


@given(st.data())
def test_damaged_files_are_points_or_an_error(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    points = rng.uniform(-50, 50, (5, 4)).astype(np.float32)
    raw = np.ascontiguousarray(points.T).tobytes()
    content = bytearray(
        data.draw(
            st.sampled_from(
                [
                    header("binary", 5) + points.tobytes(),
                    header("ascii", 5) + str(points.ravel().tolist()).replace(",", "").strip("[]").encode(),
                    header("binary_compressed", 5) + packed(literals(raw), len(raw)),
                ]
            )
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        read = parse_pcd(bytes(content), PATH)
    except DataError:
        return
    assert read.dtype == np.float32
    assert read.shape[1] == 4


def test_bad_files(cloud: NDArray[np.float32]) -> None:
    data = cloud.tobytes()
    compressed = packed(literals(data), len(data))
    cases = [
        (b"", "no PCD file: its header lacks FIELDS"),
        (data, "no PCD file"),
        (header("binary", 7) + data[:-1], "111 bytes of points; its header says 7 points of 16 bytes"),
        (header("ascii", 7) + b"1 2 3 4", "has 4 numbers; its header says 7 points of 4"),
        (header("ascii", 1) + b"1 2 3 four", "its DATA should be numbers"),
        (header("brotli", 7) + data, "DATA is 'brotli'"),
        (header("binary", 7, fields="x y z rgb") + data, "no field 'intensity', only x, y, z, rgb"),
        (header("binary", 7, size="4 4 4") + data, "have 4, 3, 4, 4 entries"),
        (header("binary", 7, kind="F F F Q") + data, "types ['Q4'] are unknown"),
        (header("binary", 7).replace(b"POINTS 7", b"POINTS many") + data, "is malformed"),
        (header("binary", 7).replace(b"POINTS 7", b"POINTS -7") + data, "POINTS is '-7'; it must be a whole number"),
        (header("binary", 7).replace(b"POINTS 7", b"POINTS " + b"9" * 5000) + data, "(5000 characters); it must be"),
        (header("binary", 7).replace(b"WIDTH 7", b"WIDTH 6") + data, "WIDTH 6 and HEIGHT 1 make 6 points, POINTS is 7"),
        (header("binary", 10**8) + data, "112 bytes of points; its header says 100000000 points of 16 bytes"),
        (header("ascii", 10**8) + b"1 2 3 4", "has 4 numbers; its header says 100000000 points of 4"),
        (
            header("binary", 7, count="1 1 1 1000000000") + data,
            "COUNT is '1000000000'; it must be a whole number up to",
        ),
        (header("binary", 7, count="1 1 1 65000") + data, "has 260012 bytes; 1 to 65536 are read"),
        (header("binary", 7, count="1 1 1 0") + data, "a point of COUNT [1, 1, 1, 0] has"),
        (header("binary", 7, size="4 4 4 3") + data, "types ['F3'] are unknown"),
        (header("ascii", 1) + b"1 2 3 4 5", "has 5 numbers; its header says 1 points of 4"),
        (header("ascii", 1) + b"1 2 3 0x4", "its DATA should be numbers"),
        (header("ascii", 1) + b"1 2 3 \xff", "its DATA should be numbers"),
        (header("ascii", 1) + b"1 2 \0 4", "its DATA should be numbers"),
        (b"\x1b[31m" * 20 + b"\n" + header("\x1b[31m", 7), r"DATA is '\x1b[31m'"),
        (header("binary_compressed", 7) + compressed[:-1], "115 of 116 compressed bytes"),
        (header("binary_compressed", 8) + compressed, "its header implies 128"),
        (header("binary_compressed", 7) + packed(b"\xff" * 20, 112), "compressed points are corrupt"),
        (header("binary_compressed", 7) + packed(literals(data[:-1]), 112), "compressed points are corrupt"),
        (header("binary_compressed", 7) + b"\0\0", "ends before its compressed points"),
    ]
    for content, message in cases:
        with pytest.raises(DataError) as error:
            parse_pcd(content, PATH)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("viewpoint", "told"),
    [
        ("0 0 0 1 0 0 0", False),
        ("0.0 0 -0.0 -1 0 0 0", False),
        ("0 0 1.8 1 0 0 0", True),
        ("0 0 0 0.707 0 0 0.707", True),
        ("0 0 0 1", True),
        ("somewhere", True),
    ],
)
@pytest.mark.parametrize("storage", ["binary", "ascii"])
def test_a_viewpoint_elsewhere_is_told_and_points_stay(
    cloud: NDArray[np.float32], viewpoint: str, told: bool, storage: str
) -> None:
    head = header(storage, len(cloud)).replace(b"0 0 0 1 0 0 0", viewpoint.encode())
    body = (
        cloud.tobytes()
        if storage == "binary"
        else "\n".join(" ".join(map(repr, row)) for row in cloud.tolist()).encode()
    )
    with checking() as record:
        np.testing.assert_array_equal(parse_pcd(head + body, PATH), cloud)
    assert [item.check for item in record.results()] == (["cloud-viewpoint"] if told else [])
    assert not told or viewpoint in record.results()[0].messages[0]
