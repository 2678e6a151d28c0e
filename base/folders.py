"""Folders that are made as a whole, and that never replace what somebody else made.

A folder that was made here has a record beside it, `.<name>.centerpoint.made`: its files, their sizes and times. It may
be replaced while it holds nothing else, and nothing that was changed since.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from base import documents
from base.errors import ConfigError
from base.leftovers import claim, flush, unfinished_name
from base.locks import Lock, holder, try_lock
from base.signals import held

__all__ = ["atomic_dir", "require_replaceable"]

_RECORD, _ASIDE = ".centerpoint.made", ".centerpoint.old"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

# Path within the folder -> size and time of change in nanoseconds.
Listing = dict[str, list[int]]

_logger = logging.getLogger(__name__)


@contextmanager
def atomic_dir(path: str | os.PathLike[str], sources: Iterable[str | os.PathLike[str]] = ()) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it takes `path`'s place as a whole.

    Whenever the process is killed, `path` is what it was before or whole and new; where the system cannot exchange two
    folders in one step it may be absent, and the next call puts the former one back.

    Args:
        path: The folder. What is there is replaced if it is an empty folder, or one that this function made and
            nobody has touched since.
        sources: Files and folders that are read meanwhile, which must not lie in a folder that is replaced.

    Raises:
        ConfigError: something at `path` must not be replaced, or another process is writing it; nothing was changed.
        DataError: the record beside it is broken.
        OSError: of the system.
    """
    target, read = Path(os.path.abspath(path)), list(sources)
    require_replaceable(target, read)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = claim(target, folder=True)
    locks, temporary = [lock], lock.path
    try:
        _recover(target)
        require_replaceable(target, read)
        yield temporary
        _flush_tree(temporary)
        if target.exists():
            locks.append(_locked(target))
        # Once more: somebody may have put something there meanwhile.
        require_replaceable(target, read)
        made = _listing(temporary)
        # Whichever of the two is there when the process ends, the record knows it.
        _write_record(target, [made, *([_listing(target)] if target.exists() else [])])
        with held():
            _put(temporary, target)
        flush(target.parent)
        _write_record(target, [made])
    finally:
        # A signal must not end it half-way: a former folder takes a while to remove.
        with held():
            # By now that name may be another run's.
            if any(lock.names(temporary) for lock in locks):
                shutil.rmtree(temporary)
            for lock in locks:
                lock.release()


def require_replaceable(path: str | os.PathLike[str], sources: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Checks that nothing of the user's is lost when a folder is replaced.

    Args:
        path: The folder; absent is fine.
        sources: Files and folders that must not lie in it.

    Raises:
        ConfigError: says what stands in the way.
    """
    target = Path(os.path.abspath(path))
    reason = _what_stands_in_the_way(target, sources)
    if reason:
        raise ConfigError(
            f"'{target}' is not replaced: {reason}. Choose another folder, or move it away if nobody needs it."
        )


def _what_stands_in_the_way(target: Path, sources: Iterable[str | os.PathLike[str]]) -> str:
    if target.is_symlink():
        return f"it is a symbolic link to '{os.readlink(target)}'"
    if not target.exists():
        return ""
    if not target.is_dir():
        return "it is no folder"
    if os.path.ismount(target):
        return "a file system is mounted there"
    place = Path(os.path.realpath(target))
    for folder, what in (*_used_folders(), *((source, f"'{source}', which is read,") for source in sources)):
        inner = Path(os.path.realpath(folder))
        if place == inner or place in inner.parents:
            return f"{what} {'is there' if place == inner else 'lies in it'}"
    return _foreign(target)


def _used_folders() -> Iterator[tuple[str, str]]:
    with contextlib.suppress(FileNotFoundError):
        yield os.getcwd(), "the current folder"
    if "BUILD_WORKING_DIRECTORY" in os.environ:
        yield os.environ["BUILD_WORKING_DIRECTORY"], "the current folder"
    yield os.path.expanduser("~"), "your home"


def _foreign(target: Path) -> str:
    """What in a folder was not made here, or was changed since; empty where nothing was."""
    with os.scandir(target) as entries:
        first = next(entries, None)
    if first is None:
        return ""
    record = unfinished_name(target, _RECORD)
    if not record.is_file():
        return f"no command of this project made it as a whole (it holds '{first.name}')"
    # The record of a killed run has two: of what it was about to make, and of what it was about to replace.
    made = documents.read_json(record, list[dict[str, list[int]]])
    found = _listing(target)
    surplus = [{name for name, facts in found.items() if listing.get(name) != facts} for listing in made]
    fewest = min(surplus, key=len, default=set(found))
    if not fewest:
        return ""
    name = min(fewest)
    return f"'{name}' in it was {'changed' if any(name in listing for listing in made) else 'added'} since it was made"


def _locked(target: Path) -> Lock:
    lock = try_lock(target)
    if lock is None:
        raise ConfigError(f"Another run{holder(target)} is using '{target}'. Wait for it, or choose another folder.")
    return lock


def _listing(folder: Path) -> Listing:
    """Everything in a folder but folders that hold something."""
    found: Listing = {}
    for root, folders, files in os.walk(folder):
        for name in (*files, *(item for item in folders if os.path.islink(os.path.join(root, item)))):
            path = os.path.join(root, name)
            facts = os.lstat(path)
            found[os.path.relpath(path, folder)] = [facts.st_size, facts.st_mtime_ns]
        if root != str(folder) and not files and not folders:
            found[os.path.relpath(root, folder) + os.sep] = [0, 0]
    return found


def _write_record(target: Path, made: list[Listing]) -> None:
    # Not with `atomic_path`, which would make a circle of imports; a broken record only vouches for nothing.
    record = unfinished_name(target, _RECORD)
    lock = claim(record, folder=False)
    try:
        lock.path.write_text(json.dumps(made, sort_keys=True), encoding="utf-8")
        flush(lock.path)
        lock.path.replace(record)
    finally:
        lock.path.unlink(missing_ok=True)
        lock.release()


def _flush_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            flush(Path(root, name))
        flush(Path(root))


def _put(temporary: Path, target: Path) -> None:
    """Gives a folder its name; what had it before is gone from there, and lies where the folder was."""
    if not target.exists() or not any(target.iterdir()):
        temporary.replace(target)
    elif not _exchange(temporary, target):
        aside = unfinished_name(target, _ASIDE)
        target.replace(aside)
        temporary.replace(target)
        aside.replace(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; False where the system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _recover(target: Path) -> None:
    """Puts back what a run that was killed between two renames had moved aside."""
    aside = unfinished_name(target, _ASIDE)
    if not aside.is_dir():
        return
    if target.exists():
        shutil.rmtree(aside)
    else:
        _logger.info("putting '%s' back, which a killed run had moved aside", target)
        aside.replace(target)
