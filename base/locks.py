"""Who is using a file or folder: the operating system's locks, which end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

__all__ = ["Lock", "holder", "try_lock"]

_HELD = {errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN}
_TABLE = Path("/proc/locks")
# In folders that cannot be locked themselves, as those of NFS.
_LOCK_FILE = ".centerpoint.lock"

_logger = logging.getLogger(__name__)


class Lock:
    """A file or folder that this process has locked.

    Attributes:
        path: It.
        descriptor: Of the open file or folder.
    """

    def __init__(self, path: Path, descriptor: int, stand_in: Path | None = None) -> None:
        """Args:
        path: What is locked.
        descriptor: Of `path`, or of the file that stands in for it.
        stand_in: That file.
        """
        self.path, self.descriptor = path, descriptor
        self._stand_in = stand_in

    def names(self, path: Path) -> bool:
        """Whether `path` is still what was locked: another process may have replaced or removed it."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.lstat(self._stand_in or path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Unlocks it; a second call does nothing."""
        if self.descriptor < 0:
            return
        if self._stand_in is not None:
            self._stand_in.unlink(missing_ok=True)
        os.close(self.descriptor)
        self.descriptor = -1


def try_lock(path: Path) -> Lock | None:
    """Locks a file or folder that exists; None where another process has locked it.

    A file system without locks is said in the log, and counts as free: a lock guards against mistakes, not attacks.

    Raises:
        OSError: it does not exist, is a symbolic link, or may not be opened.
    """
    is_folder = path.is_dir() and not path.is_symlink()
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR)
    descriptor = os.open(path, flags)
    found = _flock(descriptor)
    if found is None and is_folder:
        os.close(descriptor)
        stand_in = path / _LOCK_FILE
        descriptor = os.open(stand_in, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        found = _flock(descriptor)
        lock = Lock(path, descriptor, stand_in)
    else:
        lock = Lock(path, descriptor)
    if found is None:
        _logger.warning("'%s' cannot be locked: nothing keeps a second run away", path)
    elif not found:
        os.close(descriptor)
        return None
    return lock


def holder(path: Path) -> str:
    """The process that has locked a file or folder, as " (process 123)"; empty where the system does not say."""
    try:
        node = path.stat()
        table = _TABLE.read_text(encoding="ascii")
    except OSError:
        return ""
    place = f"{os.major(node.st_dev):02x}:{os.minor(node.st_dev):02x}:{node.st_ino}"
    for line in table.splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == place:
            return f" (process {fields[4]})"
    return ""


def _flock(descriptor: int) -> bool | None:
    """Whether it is locked now; False: another process has locked it; None: this file system has no locks for it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True
