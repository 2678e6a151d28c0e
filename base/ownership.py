"""What a command writes belongs to it while it runs: one at a time, and no litter of runs that were killed.

    with owned_folder(out, "--out"):
        ...
    with owned_file(path, "--output", args):
        ...

Nothing is left in a folder or beside a file to mark it: the lock is the operating system's, on the folder itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from base.errors import ConfigError
from base.keeping import require_no_input, require_ours
from base.leftovers import entries_below, remove, sweep, unfinished_name
from base.locks import Lock, holder, try_lock

__all__ = ["owned_file", "owned_folder", "owned_name"]

_LOCK = ".centerpoint.lock"
_TRIES = 100
_MAX_NAMED = 6


@contextmanager
def owned_folder(
    folder: str | os.PathLike[str],
    option: str,
    records: Sequence[str] = (),
    marks: Mapping[str, bytes | str] = MappingProxyType({}),
) -> Iterator[Path]:
    """Makes a folder, with its parents, and keeps it for this run.

    What killed runs left unfinished in it is removed, and so are an earlier run's records: a run that is killed leaves
    none that could be taken for its own. Other files stay. A folder that was made here and is still empty when
    something fails is removed again.

    Args:
        folder: The folder.
        option: Of the command line that names it, for messages.
        records: Names of files in it that say what a whole run came to.
        marks: Name of a file that is going to be written -> what is found in every one that was written here
            (`base.keeping.require_ours`). Somebody else's file of that name is not replaced.

    Raises:
        ConfigError: another run is using it, it is no folder that can be written, or it holds a file that must not be
            replaced.
        OSError: it cannot be made.
    """
    path = Path(folder)
    made = _make(path, option)
    began = _file_system_now_ns(path)
    lock = _lock_folder(path, option)
    try:
        require_ours(path, marks, option)
        sweep(path)
        for record in records:
            (path / record).unlink(missing_ok=True)
        yield path
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            error.add_note(_what_is_kept(path, began))
        sweep(path)
        _remove_empty(made)
        raise
    finally:
        lock.release()


@contextmanager
def owned_file(
    file: str | os.PathLike[str], option: str, arguments: argparse.Namespace | None = None
) -> Iterator[Path]:
    """Keeps a file that is going to be written for this run; its folder is made.

    Args:
        file: The file.
        option: Of the command line that names it, for messages.
        arguments: The whole command line: a file that it names otherwise is not replaced.

    Raises:
        ConfigError: another run is writing it, it is no place for a file, or the command reads it.
        OSError: its folder cannot be made.
    """
    path = Path(file)
    if os.path.isdir(path):
        raise ConfigError(f"{option} is '{path}', which is a folder; name the file to write.")
    if arguments is not None:
        require_no_input(path, option, arguments)
    with owned_name(path, option):
        remove(unfinished_name(path))
        yield path


@contextmanager
def owned_name(path: str | os.PathLike[str], option: str) -> Iterator[Path]:
    """Keeps the name of a file or folder that is going to be made as a whole (`base.files`); its parent is made.

    Args:
        path: The name.
        option: Of the command line that has it, for messages.

    Raises:
        ConfigError: another run is making it.
        OSError: its parent cannot be made.
    """
    target = Path(os.path.abspath(path))
    made = _make(target.parent, option)
    lock = _lock_beside(target, option)
    try:
        yield target
    finally:
        lock.path.unlink(missing_ok=True)
        lock.release()
        _remove_empty(made)


def _make(folder: Path, option: str) -> list[Path]:
    """Makes a folder and its parents; those that were made, the innermost first."""
    try:
        absent = [item for item in (folder, *folder.parents) if not item.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{option}: '{folder}' is no folder. Choose another path.") from error
    except OSError as error:
        error.add_note(f"{option} names that path.")
        raise
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{option}: '{folder}' cannot be written by this user. Choose another, or change its permissions."
        )
    return absent


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it holds something
            folder.rmdir()


def _lock_folder(path: Path, option: str) -> Lock:
    if path.is_symlink():
        raise ConfigError(
            f"{option} is '{path}', a symbolic link to '{os.readlink(path)}'. Give the folder itself, so that two runs "
            "cannot meet in it by two names."
        )
    for _ in range(_TRIES):
        lock = try_lock(path)
        if lock is None:
            break
        # Another run may have replaced the folder before it was locked.
        if lock.names(path):
            return lock
        lock.release()
    raise ConfigError(
        f"Another run is using '{path}'{holder(path)}. Wait for it, or choose another folder with {option}."
    )


def _lock_beside(path: Path, option: str) -> Lock:
    name = unfinished_name(path, _LOCK)
    for tries in range(_TRIES):
        try:
            name.touch()
            lock = try_lock(name)
        except FileNotFoundError as error:
            if tries < _TRIES - 1:
                continue
            # Nobody removes it so often: no file can be made there, as below /proc.
            error.filename = str(path)
            error.add_note(f"{option} names that path.")
            raise
        if lock is None:
            break
        # The run that had it may have removed the file before it was locked.
        if lock.names(name):
            return lock
        lock.release()
    raise ConfigError(
        f"Another run is writing '{path}'{holder(name)}. Wait for it, or choose another place with {option}."
    )


def _file_system_now_ns(folder: Path) -> int:
    """The time that a file made in a folder now would get, nanoseconds.

    Not `time.time()`: the kernel stamps files with a clock that lags behind by a tick, a file server with its own.
    """
    with contextlib.suppress(PermissionError):  # some file systems let nobody set times; an earlier one does as well
        os.utime(folder)
    return folder.stat().st_mtime_ns


def _what_is_kept(folder: Path, since_ns: int) -> str:
    """A line that names what a run that was stopped has finished."""
    finished = []
    for path in entries_below(folder):
        with contextlib.suppress(FileNotFoundError):  # somebody else's, and gone
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and not path.name.startswith(".") and facts.st_mtime_ns >= since_ns:
                finished.append(str(path.relative_to(folder)))
    finished.sort()
    more = f" and {len(finished) - _MAX_NAMED} more" if len(finished) > _MAX_NAMED else ""
    return f"'{folder}' has of this run: {', '.join(finished[:_MAX_NAMED]) or 'nothing'}{more}."
