"""The directory of a zip archive as `torch.save` writes it: uncompressed records, one behind the other.

Nothing is ever decompressed, so no record can be larger than its file; records may not overlap, and lie where both the
directory and their own header say.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from base.messages import printable
from base.untrusted.limits import MAX_RECORDS
from base.untrusted.refusal import Refused

__all__ = ["Record", "read_directory", "read_record"]

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF
_ENCRYPTED = 0x1
_CUT = "it is cut off or damaged: "


@dataclass(frozen=True)
class Record:
    """One record: `size` bytes from `start` of the file; `crc` is 0 where none was computed."""

    name: str
    start: int
    size: int
    crc: int


def read_directory(file: BinaryIO, file_size: int) -> dict[str, Record]:
    """The records of an archive, by name.

    Raises:
        Refused: the directory is missing, broken, or contradicts the file; a record is compressed or encrypted, or two
            overlap.
    """
    start, size, count = _find(file, file_size)
    if size > file_size or start + size > file_size:
        raise Refused(f"{_CUT}its directory is said to lie at bytes {start} to {start + size}")
    file.seek(start)
    directory = file.read(size)
    records: dict[str, Record] = {}
    pos = 0
    while pos < len(directory):
        record, pos = _entry(directory, pos, file, start)
        if len(records) >= MAX_RECORDS:
            raise Refused(f"it has more than {MAX_RECORDS} records")
        if record.name in records:
            raise Refused(f"it has two records named '{printable(record.name)}'")
        records[record.name] = record
    if len(records) != count:
        raise Refused(f"{_CUT}{len(records)} records are in its directory, which says {count}")
    end = 0
    for record in sorted(records.values(), key=lambda record: record.start):
        if record.start < end:
            raise Refused(f"its record '{printable(record.name)}' overlaps another one")
        end = record.start + record.size
    return records


def read_record(file: BinaryIO, record: Record, into: memoryview) -> None:
    """Reads a record into memory of its size.

    Raises:
        Refused: it is shorter, or its checksum does not fit.
    """
    file.seek(record.start)
    if file.readinto(into) != record.size:  # type: ignore[attr-defined]
        raise Refused(f"{_CUT}its record '{printable(record.name)}' has no {record.size} bytes")
    # torch.serialization.set_crc32_options(False) writes 0 for all.
    if record.crc and record.crc != zlib.crc32(into):
        raise Refused(f"its record '{printable(record.name)}' is damaged: the checksum does not fit")


def _find(file: BinaryIO, file_size: int) -> tuple[int, int, int]:
    """Start, size and number of entries of the directory."""
    tail_start = max(0, file_size - _END.size - _LONGEST_COMMENT)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise Refused(f"{_CUT}a zip archive ends with a directory, and it has none")
    _, disk, first_disk, _, count, size, start, comment = _END.unpack_from(tail, at)
    if len(tail) - at - _END.size != comment or disk or first_disk:
        raise Refused(f"{_CUT}the end of its zip directory is not the end of the file")
    end = tail_start + at
    if count == 0xFFFF or size == _IN_EXTRA or start == _IN_EXTRA:
        end -= _END64_LOCATOR.size
        signature, _, end64, _ = _END64_LOCATOR.unpack(_at(file, end, _END64_LOCATOR.size))
        if signature != b"PK\x06\x07" or end64 > end:
            raise Refused(f"{_CUT}its zip directory has no end for large files")
        signature, _, _, _, _, _, _, count, size, start = _END64.unpack(_at(file, end64, _END64.size))
        end = end64
        if signature != b"PK\x06\x06":
            raise Refused(f"{_CUT}its zip directory has no end for large files")
    if start + size > end:
        raise Refused(f"{_CUT}its directory is said to lie at bytes {start} to {start + size}")
    return start, size, count


def _at(file: BinaryIO, start: int, size: int) -> bytes:
    if start < 0:
        raise Refused(f"{_CUT}its zip directory is said to begin before the file")
    file.seek(start)
    found = file.read(size)
    if len(found) != size:
        raise Refused(f"{_CUT}its zip directory is incomplete")
    return found


def _entry(directory: bytes, pos: int, file: BinaryIO, directory_start: int) -> tuple[Record, int]:
    if len(directory) - pos < _ENTRY.size:
        raise Refused(f"{_CUT}its zip directory is incomplete")
    signature, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size, _, _, _, header = (
        _ENTRY.unpack_from(directory, pos)
    )
    end = pos + _ENTRY.size + name_size + extra_size + comment_size
    if signature != b"PK\x01\x02" or end > len(directory):
        raise Refused(f"{_CUT}its zip directory is broken")
    raw_name = directory[pos + _ENTRY.size : pos + _ENTRY.size + name_size]
    extra = directory[pos + _ENTRY.size + name_size : end - comment_size]
    try:
        name = raw_name.decode()
    except UnicodeDecodeError as error:
        raise Refused(f"{_CUT}the name of a record is no text") from error
    size, packed, header = _large(extra, size, packed, header)
    if flags & _ENCRYPTED:
        raise Refused(f"its record '{printable(name)}' is encrypted")
    if method or packed != size:
        raise Refused(
            f"its record '{printable(name)}' is compressed, and torch.save compresses nothing: a small file could fill "
            "the memory. If you trust it, load it with torch.load and save it again"
        )
    signature, *_, name_size, extra_size = _HEADER.unpack(_at(file, header, _HEADER.size))
    start = header + _HEADER.size + name_size + extra_size
    if signature != b"PK\x03\x04" or name_size != len(raw_name) or start + size > directory_start:
        raise Refused(f"{_CUT}its record '{printable(name)}' is not where its directory says")
    return Record(name, start, size, crc), end


def _large(extra: bytes, *values: int) -> list[int]:
    """Sizes and place of a record; those of 4 GiB and more are in its extra field."""
    found = list(values)
    pos = 0
    while pos + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, pos)
        field = extra[pos + 4 : pos + 4 + length]
        pos += 4 + length
        if kind != 1:
            continue
        at = 0
        for index, value in enumerate(found):
            if value == _IN_EXTRA:
                if at + 8 > len(field):
                    raise Refused(f"{_CUT}its zip directory is broken")
                (found[index],) = struct.unpack_from("<Q", field, at)
                at += 8
    return found
