"""What a point file is: a PCD file or records without a header, as its name, its table and its first bytes say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from base.checks import Finding, settle
from base.messages import shown, shown_file
from models.known_checks import KNOWN_CHECKS

__all__ = ["HEAD_BYTES", "MAX_POINT_FILE_BYTES", "begins_as_pcd", "check_stated_form", "is_pcd"]

MAX_POINT_FILE_BYTES = 1 << 28
"""256 MiB: 13 million points of five numbers, forty times a revolution of the densest sensors."""
HEAD_BYTES = 512
"""So many first bytes of a file say whether it is a PCD file."""

# A pointer of Git LFS begins with "version", too, but with no number after it.
_FIRST_LINE = re.compile(rb"\s*(VERSION\s+[0-9.]+\s*\Z|FIELDS\s|COLUMNS\s)", re.IGNORECASE)
_PRINTABLE = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D}
_RECORDS, _PCD = "float32 records without a header", "a PCD file"
# `fileformat` of a T4 dataset's sample_data.json, in lower case and without a first dot.
_FORMATS = {"pcd": True, "pcd.bin": False, "bin": False}


def begins_as_pcd(data: bytes) -> bool:
    """Whether a file's first bytes are a PCD header's: comments, then VERSION or FIELDS. No float32 number is so."""
    for line in data[:HEAD_BYTES].split(b"\n"):
        if not _PRINTABLE.issuperset(line):
            return False
        if line.strip() and not line.startswith(b"#"):
            return _FIRST_LINE.match(line) is not None
        if line.upper().startswith(b"# .PCD"):
            return True
    return False


def is_pcd(data: bytes, name: str) -> bool:
    """Whether a file is to be read as a PCD file: its first bytes decide, and a name that says otherwise is told.

    Args:
        data: The file's bytes.
        name: The file.

    Raises:
        DataError: it is called `.pcd` and does not begin like one.
    """
    found = begins_as_pcd(data)
    settle(_name_against_bytes(name, data, found))
    return found


def check_stated_form(path: Path, stated: str | None, head: bytes, place: str) -> None:
    """Holds what a table says of a point file against its name and its first bytes.

    Args:
        path: The file.
        stated: `fileformat` of the table; None or empty where it says nothing.
        head: The first bytes of the file; nothing is known of an empty one.
        place: Where `fileformat` stands, for messages.

    Raises:
        DataError: nothing says what the file is.
    """
    found = begins_as_pcd(head)
    kind = (stated or "").lower().removeprefix(".")
    findings = list(_name_against_bytes(str(path), head, found))
    if kind and kind not in _FORMATS:
        remedy = f"Point files are 'pcd.bin' or 'pcd'; this one begins like {_PCD if found else _RECORDS}."
        findings.append(Finding(KNOWN_CHECKS["file-form"], place, f"it is {shown(stated)}", remedy=remedy))
    elif kind and head and _FORMATS[kind] != found and not findings:
        findings.append(
            Finding(
                KNOWN_CHECKS["file-name"],
                place,
                shown(stated),
                f"the beginning of {shown_file(path)}",
                _PCD if found else _RECORDS,
                "It is read as what it is.",
            )
        )
    settle(findings)


def _name_against_bytes(name: str, data: bytes, found: bool) -> Iterator[Finding]:
    is_named_pcd = Path(name).suffix.lower() == ".pcd"
    if not data or is_named_pcd == found:
        return
    place = f"The name of point file {shown_file(name)}"
    if found:
        remedy = "It is read as a PCD file; rename it to .pcd, or write records."
        yield Finding(KNOWN_CHECKS["file-name"], place, _RECORDS, "its beginning", _PCD, remedy)
    else:
        remedy = "If it holds float32 records, rename it to .pcd.bin; else copy it again."
        begins = f"something else ({data[:8].hex(' ')})"
        yield Finding(KNOWN_CHECKS["file-form"], place, _PCD, "its beginning", begins, remedy)
