"""Files and folders that are being written, under names that tell what they will be: a killed run leaves them behind.

Whoever writes one keeps it locked. One that is not locked was left by a process that is gone, and is removed by the
next run that writes the same thing or owns the folder around it.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from base.errors import ConfigError
from base.locks import Lock, holder, try_lock

__all__ = ["SUFFIX", "claim", "entries_below", "flush", "remove", "sweep", "unfinished_name"]

SUFFIX = ".centerpoint.part"
_MAX_NAME_BYTES = 200
# What a command makes lies no deeper below the folder that it is given.
_MAX_DEPTH = 4
_TRIES = 100

_logger = logging.getLogger(__name__)


def unfinished_name(target: Path, suffix: str = SUFFIX) -> Path:
    """Where `target` is written before it gets its name: beside it, so that renaming takes no copy."""
    # The name may be as long as names can be; a hash would tell a user less.
    name = os.fsdecode(os.fsencode(target.name)[:_MAX_NAME_BYTES])
    return target.with_name(f".{name}{suffix}")


def claim(target: Path, *, folder: bool) -> Lock:
    """An empty file or folder to write `target` in, locked; a killed run's is removed first.

    Raises:
        ConfigError: another process is writing the same target.
        OSError: it cannot be made.
    """
    path = unfinished_name(target)
    for _ in range(_TRIES):
        try:
            if folder:
                path.mkdir()
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            if not remove(path):
                raise ConfigError(
                    f"Another run{holder(path)} is writing '{target}'. Wait for it, or write to another place."
                ) from None
            continue
        try:
            lock = try_lock(path)
        except FileNotFoundError:
            continue
        # Before it was locked, another run may have taken it for a leftover.
        if lock is not None and lock.names(path):
            return lock
        if lock is not None:
            lock.release()
    raise ConfigError(f"Other runs keep writing '{target}'. Wait for them, or write to another place.")


def remove(path: Path) -> bool:
    """Removes what a killed run left at `path`; False where a process is still writing it."""
    try:
        lock = None if path.is_symlink() else try_lock(path)
    except FileNotFoundError:
        return True
    if lock is None and not path.is_symlink():
        return False
    try:
        _logger.info("removing '%s', which a killed run left unfinished", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    finally:
        if lock is not None:
            lock.release()
    return True


def flush(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk.

    Raises:
        OSError: they cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do it for a folder.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes what killed runs left unfinished in `folder` and below it, as far as this user may."""
    for path in entries_below(folder):
        if path.name.startswith(".") and path.name.endswith(SUFFIX):
            try:
                remove(path)
            except PermissionError as error:
                _logger.warning("'%s' is a leftover of a killed run that cannot be removed: %s", path, error.strerror)


def entries_below(folder: Path) -> Iterator[Path]:
    """Files and folders as deep in a folder as commands write, on its file system.

    Other programs may be at work there: what has gone by the time it is looked at, or may not be read, is passed over.
    """
    device = folder.stat().st_dev
    waiting = [(folder, 1)]
    while waiting:
        inside, depth = waiting.pop()
        try:
            with os.scandir(inside) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            deeper = [entry for entry in found if entry.is_dir(follow_symlinks=False)]
            same_disk = [entry for entry in deeper if entry.stat(follow_symlinks=False).st_dev == device]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        yield from (Path(entry.path) for entry in found)
        if depth < _MAX_DEPTH:
            waiting += [(Path(entry.path), depth + 1) for entry in reversed(same_disk)]
