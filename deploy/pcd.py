"""Point Cloud Data files (PCD 0.7, ROS and PCL): x, y, z and intensity out of whatever fields they have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError

__all__ = ["parse_pcd"]

_INTENSITY = ("intensity", "i", "reflectivity")
_MAX_HEADER_LINES = 64
_KINDS = {"F": "f", "I": "i", "U": "u"}
_SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}


@dataclass(frozen=True)
class _Header:
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    counts: tuple[int, ...]
    points: int
    storage: str
    offset: int

    @property
    def record(self) -> np.dtype[np.void]:
        """One point; fields are named by their place, since padding fields share a name."""
        fields = zip(self.dtypes, self.counts, strict=True)
        return np.dtype([(str(index), kind, (count,)) for index, (kind, count) in enumerate(fields)])


def parse_pcd(data: bytes, path: Path) -> NDArray[np.float32]:
    """The points in a file's bytes; points with NaN, of organized clouds, stay in.

    Args:
        data: Content of the file; its data are ascii, binary or binary_compressed.
        path: For messages.

    Returns:
        (N, 4) float32: x, y, z, intensity as stored.

    Raises:
        DataError: the header is none of a PCD file, a field is missing, or the data are cut off.
    """
    header = _parse_header(data, path)
    columns = [_column(header, ("x",), path), _column(header, ("y",), path), _column(header, ("z",), path)]
    columns.append(_column(header, _INTENSITY, path))
    body = data[header.offset :]
    if header.storage == "ascii":
        return _ascii(body, header, columns, path)
    size = header.record.itemsize * header.points
    if header.storage == "binary_compressed":
        return _fields_one_after_another(_decompress(body, size, path), header, columns)
    if len(body) < size:
        raise DataError(
            f"PCD file '{path}' has {len(body)} bytes of points; its header says {header.points} points of "
            f"{header.record.itemsize} bytes, {size} in all. The file was cut off; copy it again."
        )
    table = np.frombuffer(body, header.record, header.points)
    return np.stack([table[str(column)][:, 0].astype(np.float32) for column in columns], axis=1)


def _parse_header(data: bytes, path: Path) -> _Header:
    entries: dict[str, list[str]] = {}
    offset = 0
    for _ in range(_MAX_HEADER_LINES):
        end = data.find(b"\n", offset)
        if end < 0:
            break
        words = data[offset:end].decode("ascii", errors="replace").split()
        offset = end + 1
        if words and not words[0].startswith("#"):
            entries[words[0].upper()] = words[1:]
        if "DATA" in entries:
            break
    lacking = [key for key in ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA") if not entries.get(key)]
    if lacking:
        raise DataError(f"'{path}' is no PCD file: its header lacks {', '.join(lacking)}.")
    try:
        return _header(entries, offset)
    except ValueError as error:
        raise DataError(f"The header of PCD file '{path}' is malformed: {error}.") from error


def _header(entries: dict[str, list[str]], offset: int) -> _Header:
    names, storage = tuple(entries["FIELDS"]), entries["DATA"][0].lower()
    sizes, counts = ([int(word) for word in entries.get(key, ["1"] * len(names))] for key in ("SIZE", "COUNT"))
    kinds, points = entries["TYPE"], int(entries["POINTS"][0])
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise ValueError(
            f"FIELDS, SIZE, TYPE and COUNT have {len(names)}, {len(sizes)}, {len(kinds)}, {len(counts)} entries"
        )
    wrong = [f"{kind}{size}" for kind, size in zip(kinds, sizes, strict=True) if size not in _SIZES.get(kind, ())]
    if wrong or min(counts) < 1 or points < 0:
        raise ValueError(f"types {wrong} are unknown" if wrong else f"COUNT {counts}, POINTS {points}")
    if storage not in ("ascii", "binary", "binary_compressed"):
        raise ValueError(f"DATA is '{storage}', not ascii, binary or binary_compressed")
    dtypes = tuple(f"<{_KINDS[kind]}{size}" for kind, size in zip(kinds, sizes, strict=True))
    return _Header(names, dtypes, tuple(counts), points, storage, offset)


def _column(header: _Header, names: tuple[str, ...], path: Path) -> int:
    for index, name in enumerate(header.names):
        if name.lower() in names:
            return index
    raise DataError(
        f"PCD file '{path}' has no field '{names[0]}', only {', '.join(header.names)}; x, y, z and intensity are "
        "needed."
    )


def _ascii(body: bytes, header: _Header, columns: list[int], path: Path) -> NDArray[np.float32]:
    starts = np.concatenate([[0], np.cumsum(header.counts)])
    try:
        values = np.array(body.split(), np.float64)
    except ValueError as error:
        raise DataError(f"PCD file '{path}': {error}; its DATA should be numbers.") from error
    if len(values) != header.points * starts[-1]:
        raise DataError(
            f"PCD file '{path}' has {len(values)} numbers; its header says {header.points} points of {starts[-1]}. "
            "The file was cut off; copy it again."
        )
    return values.reshape(header.points, starts[-1])[:, starts[columns]].astype(np.float32)


def _fields_one_after_another(data: bytes, header: _Header, columns: list[int]) -> NDArray[np.float32]:
    """Compressed files hold all of the first field, then all of the second, and so on."""
    found: dict[int, NDArray[np.float32]] = {}
    offset = 0
    for index, (kind, count) in enumerate(zip(header.dtypes, header.counts, strict=True)):
        if index in columns:
            values = np.frombuffer(data, kind, header.points * count, offset)
            found[index] = values.reshape(header.points, count)[:, 0].astype(np.float32)
        offset += np.dtype(kind).itemsize * count * header.points
    return np.stack([found[column] for column in columns], axis=1)


def _decompress(body: bytes, size: int, path: Path) -> bytes:
    """LZF: a control byte below 32 is a run of literals; any other repeats earlier output."""
    if len(body) < 8:
        raise DataError(f"PCD file '{path}' ends before its compressed points. Copy it again.")
    packed, unpacked = (int(n) for n in np.frombuffer(body, "<u4", 2))
    data, position = body[8 : 8 + packed], 0
    if len(data) < packed or unpacked != size:
        raise DataError(
            f"PCD file '{path}' has {len(data)} of {packed} compressed bytes for {unpacked} bytes of points; its "
            f"header implies {size}. The file was cut off; copy it again."
        )
    out = bytearray()
    try:
        while position < packed and len(out) <= size:
            control = data[position]
            position += 1
            if control < 32:
                out += data[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            start = len(out) - ((control & 31) << 8) - data[position] - 1
            position += 1
            if start < 0:
                raise IndexError
            for index in range(start, start + length + 2):
                out.append(out[index])  # may read what it has just written
    except IndexError:
        out.clear()
    if len(out) != size:
        raise DataError(f"PCD file '{path}': its compressed points are corrupt. Copy it again.")
    return bytes(out)
