"""Point Cloud Data files (PCD 0.7, ROS and PCL): the wanted columns out of whatever fields they have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.checks import Finding, settle
from base.errors import DataError
from base.messages import printable, shown, shown_file
from datasets.lzf import decompress
from datasets.point_forms import MAX_POINT_FILE_BYTES
from models.known_checks import KNOWN_CHECKS
from models.point_columns import XYZ_INTENSITY

__all__ = ["parse_pcd", "points_of_header"]

# Column -> fields that hold it, the first of them that a file has.
_FIELDS = {"intensity": ("intensity", "i", "reflectivity"), "ring": ("ring", "channel")}
_MAX_HEADER_LINES, _MAX_HEADER_BYTES = 64, 1 << 16
_KINDS = {"F": "f", "I": "i", "U": "u"}
_SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}
# No sensor's points have as many bytes; VFH descriptors of PCL, 308 floats, are far below.
_MAX_RECORD_BYTES = 1 << 16
_MAX_POINTS = MAX_POINT_FILE_BYTES
# Two million points of 32 bytes; unpacked by Python, they take seconds.
_MAX_UNPACKED_BYTES = 1 << 26
# VIEWPOINT of a sensor at the origin: x, y, z, and a quaternion (w, x, y, z).
_ORIGIN = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
_STORAGES = ("ascii", "binary", "binary_compressed")
_ASCII_BLOCK = 1 << 22


@dataclass(frozen=True)
class _Header:
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    counts: tuple[int, ...]
    points: int
    storage: str
    offset: int
    viewpoint: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each field of a point."""
        return tuple(np.dtype(kind).itemsize * n for kind, n in zip(self.dtypes, self.counts, strict=True))

    @property
    def record(self) -> np.dtype[np.void]:
        """One point; fields are named by their place, since padding fields share a name."""
        fields = zip(self.dtypes, self.counts, strict=True)
        return np.dtype([(str(index), kind, (count,)) for index, (kind, count) in enumerate(fields)])


def parse_pcd(data: bytes, path: Path, wanted: Sequence[str] = XYZ_INTENSITY) -> NDArray[np.float32]:
    """The points in a file's bytes; points with NaN, of organized clouds, stay in.

    Memory is that of the file and of the points returned; compressed points may take 88 times their bytes, and 64 MiB
    at most.

    Args:
        data: Content of the file; its data are ascii, binary or binary_compressed.
        path: For messages.
        wanted: Names of columns (`models.point_columns`).

    Returns:
        (N, len(wanted)) float32, as stored.

    Raises:
        DataError: the header is none of a PCD file or absurd, a field is missing, or the data are cut off.
    """
    header = _parse_header(data, path)
    settle(_viewpoint(header, path))
    columns = [_column(header, name, wanted, path) for name in wanted]
    if header.storage == "ascii":
        return _ascii(data, header, columns, path)
    record = sum(header.sizes)
    size = record * header.points
    if header.storage == "binary_compressed":
        return _fields_one_after_another(_unpacked(data, header.offset, size, path), header, columns)
    body = len(data) - header.offset
    if body < size:
        raise DataError(
            f"PCD file {shown_file(path)} has {body} bytes of points; its header says {header.points} points of "
            f"{record} bytes, {size} in all. The file was cut off; copy it again."
        )
    table = np.frombuffer(data, header.record, header.points, header.offset)
    return _floats([table[str(column)][:, 0] for column in columns], header.points)


def _viewpoint(header: _Header, path: Path) -> Iterator[Finding]:
    """Where the sensor stood, if elsewhere than at the origin of its points."""
    words = header.viewpoint
    try:
        at = [float(word) for word in words]
    except ValueError:
        at = []
    # A quaternion and its negative are the same rotation.
    if not words or at in (_ORIGIN, [*_ORIGIN[:3], -1.0, *_ORIGIN[4:]]):
        return
    value = f"its VIEWPOINT is {printable(' '.join(words), 200)}, so that the sensor stood elsewhere than at the origin"
    remedy = (
        "Points are taken as they are stored, as PCL takes them. If they are in the sensor's frame, move them where "
        "the file is made, or give --lidar-height and --lidar-yaw; if they are in the vehicle's, write 0 0 0 1 0 0 0."
    )
    yield Finding(KNOWN_CHECKS["cloud-viewpoint"], f"PCD file {shown_file(path)}", value, remedy=remedy)


def points_of_header(data: bytes) -> int:
    """Points that a file has, as its header says; 0 where the header is broken, which `parse_pcd` says.

    Args:
        data: The first bytes of the file.
    """
    try:
        return _parse_header(data, Path()).points
    except DataError:
        return 0


def _parse_header(data: bytes, path: Path) -> _Header:
    entries: dict[str, list[str]] = {}
    offset = 0
    head = data[:_MAX_HEADER_BYTES]
    for _ in range(_MAX_HEADER_LINES):
        end = head.find(b"\n", offset)
        if end < 0:
            break
        words = head[offset:end].decode("ascii", errors="replace").split()
        offset = end + 1
        if words and not words[0].startswith("#"):
            entries[words[0].upper()] = words[1:]
        if "DATA" in entries:
            break
    lacking = [key for key in ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA") if not entries.get(key)]
    if lacking:
        raise DataError(f"{shown_file(path)} is no PCD file: its header lacks {', '.join(lacking)}.")
    try:
        return _header(entries, offset)
    except ValueError as error:
        raise DataError(f"The header of PCD file {shown_file(path)} is malformed: {error}.") from error


def _header(entries: dict[str, list[str]], offset: int) -> _Header:
    names, kinds, storage = tuple(entries["FIELDS"]), entries["TYPE"], entries["DATA"][0].lower()
    sizes = [_number("SIZE", word, 8) for word in entries["SIZE"]]
    counts = [_number("COUNT", word, _MAX_RECORD_BYTES) for word in entries.get("COUNT", ["1"] * len(names))]
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise ValueError(
            f"FIELDS, SIZE, TYPE and COUNT have {len(names)}, {len(sizes)}, {len(kinds)}, {len(counts)} entries"
        )
    wrong = [f"{kind}{size}" for kind, size in zip(kinds, sizes, strict=True) if size not in _SIZES.get(kind, ())]
    if wrong:
        raise ValueError(f"types {shown(wrong)} are unknown")
    record = sum(size * count for size, count in zip(sizes, counts, strict=True))
    if min(counts) < 1 or record > _MAX_RECORD_BYTES:
        raise ValueError(f"a point of COUNT {shown(counts)} has {record} bytes; 1 to {_MAX_RECORD_BYTES} are read")
    points = _number("POINTS", entries["POINTS"][0], _MAX_POINTS)
    if entries.get("WIDTH") and entries.get("HEIGHT"):
        width, height = (_number(key, entries[key][0], _MAX_POINTS) for key in ("WIDTH", "HEIGHT"))
        if width * height != points:
            raise ValueError(f"WIDTH {width} and HEIGHT {height} make {width * height} points, POINTS is {points}")
    if storage not in _STORAGES:
        raise ValueError(f"DATA is {shown(storage)}, not ascii, binary or binary_compressed")
    dtypes = tuple(f"<{_KINDS[kind]}{size}" for kind, size in zip(kinds, sizes, strict=True))
    return _Header(names, dtypes, tuple(counts), points, storage, offset, tuple(entries.get("VIEWPOINT", ())))


def _number(key: str, word: str, most: int) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 10 and int(word) <= most):
        raise ValueError(f"{key} is {shown(word)}; it must be a whole number up to {most}")
    return int(word)


def _column(header: _Header, name: str, wanted: Sequence[str], path: Path) -> int:
    fields = [field.lower() for field in header.names]
    for field in _FIELDS.get(name, (name,)):
        if field in fields:
            return fields.index(field)
    raise DataError(
        f"PCD file {shown_file(path)} has no field '{name}', only {printable(', '.join(header.names))}; "
        f"{', '.join(wanted)} are needed."
    )


def _ascii(data: bytes, header: _Header, columns: list[int], path: Path) -> NDArray[np.float32]:
    starts = np.concatenate([[0], np.cumsum(header.counts)])
    width = int(starts[-1])
    parts: list[NDArray[np.float32]] = [np.empty((0, len(columns)), np.float32)]
    left: NDArray[np.float64] = np.empty(0)
    found = 0
    for block in _blocks(data, header.offset, path):
        values = np.concatenate([left, _numbers(block, path)])
        whole = len(values) // width * width
        parts.append(_float32(values[:whole].reshape(-1, width)[:, starts[columns]]))
        left, found = values[whole:], found + whole
    if found + len(left) != header.points * width:
        raise DataError(
            f"PCD file {shown_file(path)} has {found + len(left)} numbers; its header says {header.points} points of "
            f"{width}. The file was cut off; copy it again."
        )
    return np.concatenate(parts)


def _blocks(data: bytes, offset: int, path: Path) -> Iterator[bytes]:
    """Pieces of a few megabytes that end between two numbers."""
    while offset < len(data):
        end = min(offset + _ASCII_BLOCK, len(data))
        if end < len(data):
            end = max(data.rfind(space, offset, end) for space in (b" ", b"\n", b"\t", b"\r")) + 1
        if not end:
            raise _no_numbers(path)
        yield data[offset:end]
        offset = end


def _numbers(block: bytes, path: Path) -> NDArray[np.float64]:
    text = block.strip()
    if not text:  # of which numpy would make a number
        return np.empty(0)
    with warnings.catch_warnings():
        # What numpy does today where it stops reading.
        warnings.simplefilter("error", DeprecationWarning)
        try:
            values: NDArray[np.float64] = np.fromstring(text.decode("ascii"), np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            raise _no_numbers(path) from None
    return values


def _no_numbers(path: Path) -> DataError:
    return DataError(f"PCD file {shown_file(path)}: its DATA should be numbers, separated by spaces and line ends.")


def _fields_one_after_another(data: bytes, header: _Header, columns: list[int]) -> NDArray[np.float32]:
    """Compressed files hold all of the first field, then all of the second, and so on."""
    offsets = np.concatenate([[0], np.cumsum(header.sizes)]) * header.points
    found = []
    for column in columns:
        count = header.counts[column]
        values = np.frombuffer(data, header.dtypes[column], header.points * count, int(offsets[column]))
        found.append(values.reshape(header.points, count)[:, 0])
    return _floats(found, header.points)


def _unpacked(data: bytes, offset: int, size: int, path: Path) -> bytes:
    if len(data) < offset + 8:
        raise DataError(f"PCD file {shown_file(path)} ends before its compressed points. Copy it again.")
    packed, unpacked = (int(n) for n in np.frombuffer(data, "<u4", 2, offset))
    body = data[offset + 8 : offset + 8 + packed]
    if len(body) < packed or unpacked != size:
        raise DataError(
            f"PCD file {shown_file(path)} has {len(body)} of {packed} compressed bytes for {unpacked} bytes of points; "
            f"its header implies {size}. The file was cut off; copy it again."
        )
    if size > _MAX_UNPACKED_BYTES:
        raise DataError(
            f"PCD file {shown_file(path)} has {size} bytes of points; at most {_MAX_UNPACKED_BYTES} are unpacked. "
            "Store it with DATA binary."
        )
    out = decompress(body, size)
    if out is None and packed == unpacked:
        return body  # some writers store what does not get smaller as it is
    if out is None:
        raise DataError(f"PCD file {shown_file(path)}: its compressed points are corrupt. Copy it again.")
    return out


def _floats(fields: list[NDArray[np.generic]], points: int) -> NDArray[np.float32]:
    """(N, len(fields)); numbers beyond single precision become infinities, which readers leave out."""
    out = np.empty((points, len(fields)), np.float32)
    for index, values in enumerate(fields):
        out[:, index] = _float32(values)
    return out


def _float32(values: NDArray[np.generic]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)
