"""Files that are either whole or absent: atomic writes, stable JSON, checksums, the user's own paths."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from base import documents
from base.errors import ConfigError, UserError
from base.folders import atomic_dir
from base.leftovers import claim, flush
from base.messages import shown_file
from base.signals import held

__all__ = ["atomic_dir", "atomic_path", "read_json", "sha256_file", "user_path", "write_json"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    On any exception, and when the process is killed, `path` keeps its former content (or its absence). The temporary
    name starts with a dot, so that no later run takes it for an artifact. A symbolic link is replaced, and what it
    leads to stays.

    Raises:
        ConfigError: another process is writing the same file.
        UserError: `path` is a device, a pipe or a socket, which a file must not replace.
        OSError: of the system, which names `path`.
    """
    target = Path(path)
    _require_place_for_file(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = claim(target, folder=False)
    temporary = lock.path
    try:
        yield temporary
        flush(temporary)
        temporary.replace(target)
        flush(target.parent)
    except OSError as error:
        if error.filename is None or os.fspath(error.filename) == str(temporary):
            error.filename, error.filename2 = str(target), None
        raise
    finally:
        with held():
            temporary.unlink(missing_ok=True)
            lock.release()


def _require_place_for_file(target: Path) -> None:
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not stat.S_ISREG(mode):
        raise UserError(f"'{target}' is no regular file but a device, a pipe or a socket. Give the path of a file.")


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
    """A path as the user meant it: relative ones start where the command was typed, also under `bazel run`.

    Raises:
        ConfigError: it is no path: empty, with a NUL character, not UTF-8, or in the home of a user that there is not.
    """
    text = os.fspath(path)
    if not text:
        raise ConfigError("A path is empty. Give the path of a file or folder; '.' is the current folder.")
    if "\0" in text:
        raise ConfigError(f"{text!r} is no path: it holds a NUL character. Give the path of a file or folder.")
    try:
        text.encode()
        expanded = Path(path).expanduser()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{text!a} is no path that can be written down: it is not UTF-8. Rename it.") from error
    except RuntimeError as error:
        raise ConfigError(f"{shown_file(text)} is in the home of a user that this machine does not know.") from error
    if expanded.is_absolute():
        return expanded
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY") or os.getcwd()) / expanded
