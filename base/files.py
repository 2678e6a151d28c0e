"""Files that are either whole or absent: atomic writes, stable JSON, checksums, the user's own paths."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from base import documents

__all__ = ["atomic_dir", "atomic_path", "read_json", "sha256_file", "user_path", "write_json"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    On any exception, and when the process is killed, `path` keeps its former content (or its absence). The temporary
    name starts with a dot, so that no later run takes it for an artifact.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; an artifact gets the permissions of an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it takes `path`'s place as a whole."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` atomically with sorted keys and a final newline: equal values give equal bytes.

    Raises:
        ValueError: the value holds NaN or an infinity, which JSON has no word for.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """`base.documents.read_json` without a type.

    Raises:
        DataError: the file is missing, no regular file, or not JSON; the message gives line and column.
    """
    return documents.read_json(path)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as the user meant it: relative ones start where the command was typed, also under `bazel run`."""
    expanded = Path(path).expanduser()
    if expanded.is_absolute():
        return expanded
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", os.getcwd())) / expanded
