"""What the bytes of a headerless point file are: float32 records of the length that a reader takes them for, or not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIKELY_COLUMNS", "MIN_WORDS", "LayoutVerdict", "container_of", "judge_layout"]

LIKELY_COLUMNS: Final = range(3, 9)
"""Numbers a point that a file is tried with."""
MIN_WORDS: Final = 240
"""Numbers below which a file is not judged."""

# What begins with these bytes is no list of numbers, whatever its name: (bytes, what it is, what to do).
_SIGNATURES: Final = (
    (b"\x93NUMPY", "a NumPy file (.npy)", "Store its array alone: np.load(FILE).astype('<f4').tofile('scan.bin')"),
    (b"PK\x03\x04", "a ZIP archive (.npz or .zip)", "Unpack it and store the array: array.astype('<f4').tofile(…)"),
    (b"\x1f\x8b\x08", "compressed by gzip", "Unpack it (gunzip)"),
    (b"BZh", "compressed by bzip2", "Unpack it (bunzip2)"),
    (b"\xfd7zXZ\x00", "compressed by xz", "Unpack it (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", "Unpack it (unzstd)"),
    (b"\x04\x22\x4d\x18", "compressed by LZ4", "Unpack it (unlz4)"),
    (b"# .PCD", "a PCD file", "Store its points as float32 records, or give predict a name in .pcd"),
    (b"VERSION .7", "a PCD file", "Store its points as float32 records, or give predict a name in .pcd"),
    (b"VERSION 0.7", "a PCD file", "Store its points as float32 records, or give predict a name in .pcd"),
    (b"ply\n", "a PLY file", "Store x, y, z, intensity as float32 records"),
    (b"ply\r\n", "a PLY file", "Store x, y, z, intensity as float32 records"),
    (b"LASF", "a LAS or LAZ file", "Store x, y, z, intensity as float32 records"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Store its array alone: array.astype('<f4').tofile('scan.bin')"),
    (b"#ROSBAG", "a ROS bag", "Store the clouds in it as PCD files"),
    (b"\x89MCAP", "a ROS 2 bag (MCAP)", "Store the clouds in it as PCD files"),
    (b"SQLite format 3\x00", "a ROS 2 bag or another SQLite database", "Store the clouds in it as PCD files"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Fetch it (git lfs pull)"),
    (b"\x89PNG", "a picture (PNG)", "Give the point file"),
    (b"\xff\xd8\xff", "a picture (JPEG)", "Give the point file"),
)
_TEXT_HEAD = 256
_PRINTABLE = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D}

# Sixteen-bit integers last: any bytes are some.
_OTHER_TYPES: Final = (
    ("<f8", "float64"),
    (">f4", "big-endian float32"),
    (">f8", "big-endian float64"),
    ("<f2", "float16"),
    ("<i4", "int32"),
    (">f2", "big-endian float16"),
    ("<i2", "int16"),
)
# Multiples of this are whole records of every likely length, in eight-byte numbers too.
_WHOLE_BYTES: Final = 6720
_BLOCKS, _BLOCK_BYTES = 4, 2 * _WHOLE_BYTES
# Below the first share of values that a sensor can make, a file is something else; above the second, it is what it is
# tried as.
_SOUND_SHARE, _FIT_SHARE = 0.9, 0.95
# Bits that a value's place in its record tells about it. Real scans: 0.5 to 2.3 with the right length, below 0.01 with
# one that shares no factor with it. The right length is the shortest that tells nearly all; much less is a wrong one.
_MIN_BITS, _NEARLY_ALL, _MUCH_LESS = 0.15, 0.93, 0.85
# Exponents of the values that are told apart: 2^-8 to 2^10, beyond them the ends.
_LOW_EXPONENT, _EXPONENTS = 127 - 8, 19
_ZERO_BIN = 4 * _EXPONENTS
_BINS = _ZERO_BIN + 1
_PADDING = 16

Array = NDArray[np.float32]


@dataclass(frozen=True)
class LayoutVerdict:
    """What speaks against reading a file as float32 records of so many columns; nothing where all fields are empty.

    Attributes:
        kind: Type of numbers that the file holds instead ("float64"); empty for float32.
        dtype: The same as numpy names it.
        columns: Numbers a point that fit instead; None where none is known.
        sound_share: Share of coordinates, read as asked, that a sensor can make.
        refuted: Whether to read it as asked would give values without meaning.
        confirmed: Whether the values themselves show that the record length is the right one.
    """

    kind: str = ""
    dtype: str = "<f4"
    columns: int | None = None
    sound_share: float = 1.0
    refuted: bool = False
    confirmed: bool = False


def container_of(data: bytes) -> tuple[str, str] | None:
    """What a file is whose first bytes say it, and what to do; None for numbers."""
    for signature, what, remedy in _SIGNATURES:
        if data.startswith(signature):
            return what, remedy
    head = data[:_TEXT_HEAD]
    if len(head) >= 16 and all(byte in _PRINTABLE for byte in head):
        if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
            return "a web page", "Fetch the file again: what came was a message of the server"
        return "text", "Store its numbers as float32: np.loadtxt(FILE).astype('<f4').tofile('scan.bin')"
    return None


def judge_layout(data: bytes, columns: int) -> LayoutVerdict:
    """Holds a file's values against what a sensor makes, read as asked and in other ways.

    Two tests, neither of which depends on the order of the points. Values that no sensor makes: coordinates of less
    than a micrometre or more than 100 km say that the numbers are of another type; the types that instruments and
    numpy write are tried. And columns differ (x and y are spread widely, z is not, intensities and rings are no
    fractions): the place of a value in a record of the right length tells much about its sign, its magnitude and
    whether it is whole, in a record of a wrong length little or nothing. Rows of zeros, with which files are padded,
    say nothing and are left out.

    Args:
        data: Content of the file, or its beginning.
        columns: float32 numbers a point, as its reader takes it.
    """
    sample = _sample(data)
    words = np.frombuffer(sample, "<f4", len(sample) // 4)
    if len(words) < MIN_WORDS:
        return LayoutVerdict()
    share = _sound_share(words[: len(words) // columns * columns].reshape(-1, columns)[:, :3])
    # A float64 of few digits ends in zeros, which any sensor can make.
    for dtype, kind in _OTHER_TYPES[:1] if share >= _SOUND_SHARE else _OTHER_TYPES:
        fits = _record_of(sample, dtype, len(data))
        if fits is not None:
            return LayoutVerdict(kind, dtype, fits, share, refuted=True)
    if share < _SOUND_SHARE:
        return LayoutVerdict(sound_share=share, refuted=True)
    return _judge_columns(words, columns, share)


def _judge_columns(words: Array, columns: int, share: float) -> LayoutVerdict:
    told = _told_bits(words, sorted({columns, *LIKELY_COLUMNS}))
    best = _shortest(told)
    if best is None:
        return LayoutVerdict(sound_share=share)
    several_points = columns % best == 0 and columns != best
    refuted = several_points or bool(told[columns] < _MUCH_LESS * told[best])
    return LayoutVerdict(columns=best, sound_share=share, refuted=refuted, confirmed=best == columns)


def _sample(data: bytes) -> bytes:
    """Blocks spread over the file, each of whole records of any likely length."""
    whole = len(data) // _WHOLE_BYTES
    if len(data) <= _BLOCKS * _BLOCK_BYTES:
        return data
    starts = [part * (whole - _BLOCK_BYTES // _WHOLE_BYTES) // (_BLOCKS - 1) * _WHOLE_BYTES for part in range(_BLOCKS)]
    return b"".join(data[start : start + _BLOCK_BYTES] for start in starts)


def _sound_share(values: Array) -> float:
    """Share of values that a sensor can make, of those that are numbers or no numbers at all (written NaN)."""
    bits = values.view("<u4") & 0x7FFFFFFF
    written_nan = bits == 0x7FC00000
    # Of floats that are not negative, the bits have the order of the values.
    low, high = np.array([1e-6, 1e5], "<f4").view("<u4")
    sound = ((bits >= low) & (bits <= high)) | (bits == 0)
    judged = values.size - int(written_nan.sum())
    return float(sound.sum()) / judged if judged else 1.0


def _record_of(sample: bytes, dtype: str, size: int) -> int | None:
    """Numbers a point that a file has if its numbers are of a type; None if they are not."""
    item = np.dtype(dtype).itemsize
    numbers = np.frombuffer(sample, dtype, len(sample) // item)
    is_whole = numbers.dtype.kind == "i"
    with np.errstate(over="ignore", invalid="ignore"):
        size_of = np.abs(numbers.astype(np.float64))
        values = numbers.astype(np.float32)
    # Millimetres where they are whole.
    sound = size_of <= (2e6 if is_whole else 1e4)
    if not is_whole:
        sound &= (size_of >= 1e-4) | (size_of == 0) | ~np.isfinite(size_of)
    if float(sound.mean()) < _FIT_SHARE:
        return None
    best = _shortest(_told_bits(values, list(LIKELY_COLUMNS)))
    return best if best is not None and size % (item * best) == 0 else None


def _told_bits(values: Array, lengths: list[int]) -> dict[int, float]:
    """Record length -> mutual information of a value and its place in the record, bits."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    exponent = np.clip(((bits >> 23) & 255).astype(np.int64), _LOW_EXPONENT, _LOW_EXPONENT + _EXPONENTS - 1)
    with np.errstate(invalid="ignore"):
        whole = values == np.rint(values)
    bins = ((exponent - _LOW_EXPONENT) * 2 + (bits >> 31)) * 2 + whole
    zero = (bits << 1) == 0
    bins[zero] = _ZERO_BIN
    keep = ~(_in_long_runs(zero) | ~np.isfinite(values))
    return {length: _mutual_information(bins, keep, length) for length in lengths}


def _in_long_runs(zero: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a run of zeros is longer than any record."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], zero, [False]]).astype(np.int8)))
    out = np.zeros(len(zero), bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start >= _PADDING:
            out[start:end] = True
    return out


def _mutual_information(bins: NDArray[np.int64], keep: NDArray[np.bool_], length: int) -> float:
    place = np.arange(len(bins)) % length
    counts = np.bincount((place * _BINS + bins)[keep], minlength=length * _BINS).reshape(length, _BINS).astype(float)
    total = counts.sum()
    if total < MIN_WORDS:
        return 0.0
    share = counts / total
    by_place, by_bin = share.sum(axis=1, keepdims=True), share.sum(axis=0, keepdims=True)
    held = share > 0
    information = float((share[held] * np.log2(share[held] / (by_place * by_bin)[held])).sum())
    # Few values seem to tell more than they do (Miller and Madow).
    excess = int(held.sum()) - int((by_bin > 0).sum()) - int((by_place > 0).sum()) + 1
    return information - excess / (2 * float(total) * math.log(2))


def _shortest(told: dict[int, float]) -> int | None:
    """The shortest length that tells nearly as much as any; None where none tells enough."""
    most = max(told.values())
    return None if most < _MIN_BITS else min(n for n, bits in told.items() if bits >= _NEARLY_ALL * most)
