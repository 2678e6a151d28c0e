"""Naming what a file is when it is not what it should be."""

from __future__ import annotations

__all__ = ["other_format"]

_FORMATS = (
    (b"\x1f\x8b", "compressed by gzip; unpack it with 'gunzip'"),
    (b"BZh", "compressed by bzip2; unpack it with 'bunzip2'"),
    (b"\xfd7zXZ\x00", "compressed by xz; unpack it with 'unxz'"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it with 'unzstd'"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "an array of numpy (.npy)"),
    (b"SQLite format 3", "an SQLite database"),
    (b"PAR1", "a Parquet table"),
    (b"\x7fELF", "a program"),
    (b"# .PCD", "a point cloud (.pcd)"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; fetch it with 'git lfs pull'"),
    (b"<!DOCTYPE", "a web page, such as a login in place of a download"),
    (b"<html", "a web page, such as a login in place of a download"),
)
_TAR = slice(257, 262)


def other_format(data: bytes) -> str | None:
    """What a file that starts with `data` is, with what to do about it, if that is known."""
    for start, name in _FORMATS:
        if data.startswith(start):
            return f"it is {name}"
    if data.startswith(b"PK\x03\x04"):
        return "it is a zip archive, such as a PyTorch checkpoint (.pth)"
    if data[_TAR] == b"ustar":
        return "it is a tar archive; unpack it"
    if data.lstrip()[:1] in (b"{", b"["):
        return "it looks like JSON"
    return None
