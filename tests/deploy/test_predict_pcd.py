"""PCD files, written here by the format's description."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from base.errors import DataError
from deploy.pcd import parse_pcd

PATH = Path("cloud.pcd")


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    """(7, 4) x, y, z, intensity; whole intensities, so that a byte can hold them."""
    points = np.random.default_rng(4).uniform(-50, 50, (7, 4)).astype(np.float32)
    points[:, 3] = [0, 3, 9, 27, 81, 243, 255]
    return points


def header(
    storage: str, points: int, fields="x y z intensity", size="4 4 4 4", kind="F F F F", count="1 1 1 1"
) -> bytes:
    return (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {fields}\nSIZE {size}\nTYPE {kind}\nCOUNT {count}\n"
        f"WIDTH {points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {storage}\n"
    ).encode()


def test_binary(cloud):
    np.testing.assert_array_equal(parse_pcd(header("binary", 7) + cloud.tobytes(), PATH), cloud)


def test_ascii(cloud):
    rows = "\n".join(" ".join(repr(float(value)) for value in row) for row in cloud)
    np.testing.assert_array_equal(parse_pcd(header("ascii", 7) + rows.encode(), PATH), cloud)


def autoware_records(cloud: np.ndarray) -> bytes:
    """x, y, z float; intensity, return type byte; channel short, four bytes of padding, a stamp as double."""
    return b"".join(struct.pack("<fffBBH4xd", x, y, z, int(i), 1, 7, 0.5) for x, y, z, i in cloud)


def test_fields_of_other_types_orders_and_padding(cloud):
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


def test_compressed_fields_stand_one_after_another(cloud):
    data = np.ascontiguousarray(cloud.T).tobytes()
    np.testing.assert_array_equal(
        parse_pcd(header("binary_compressed", 7) + packed(literals(data), len(data)), PATH), cloud
    )


def test_compressed_repetitions():
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


def test_a_repetition_from_further_back():
    # Two points whose x, y, z and intensity each are 1.0 twice: 8 bytes, then 8 bytes from 8 back, three times.
    one = struct.pack("<ff", 1.0, 2.0)
    stream = bytes([7]) + one + bytes([(8 - 2) << 5, 7]) * 3
    points = parse_pcd(header("binary_compressed", 2) + packed(stream, 32), PATH)
    np.testing.assert_array_equal(points, [[1.0] * 4, [2.0] * 4])


def test_bad_files(cloud):
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
