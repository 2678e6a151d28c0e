"""Bytes of files that a user names: regular files only, never more than a limit."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from base.errors import DataError, UserError
from base.messages import shown_file

__all__ = ["open_regular", "read_bounded", "regular_size"]

_CHUNK = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(
    path: str | os.PathLike[str], what: str = "file", *, error: type[UserError] = DataError, remedy: str = ""
) -> BinaryIO:
    """Opens a regular file for reading; a folder, a pipe or a device is refused and nothing is read from it.

    Args:
        path: The file.
        what: What it is to be, for messages: "Info file".
        error: Kind of the error raised.
        remedy: Sentence added to the message.

    Raises:
        UserError: of the kind `error`: the file is missing, not readable, or not a regular one.
    """
    # Opening a pipe waits for its other end unless told not to.
    with _refusing(path, what, error, remedy):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_kind(os.fstat(descriptor).st_mode, path, what, error, remedy)
        return io.open(descriptor, "rb")  # noqa: UP020 - the caller closes it
    except BaseException:
        os.close(descriptor)
        raise


def regular_size(
    path: str | os.PathLike[str], what: str = "file", *, error: type[UserError] = DataError, remedy: str = ""
) -> int:
    """Bytes of a regular file, which is not opened; otherwise as `open_regular`."""
    with _refusing(path, what, error, remedy):
        status = os.stat(path)
    _check_kind(status.st_mode, path, what, error, remedy)
    return status.st_size


def read_bounded(
    path: str | os.PathLike[str],
    limit: int,
    what: str = "file",
    *,
    error: type[UserError] = DataError,
    remedy: str = "",
) -> bytes:
    """The bytes of a regular file that has at most `limit` of them; no more than that is ever read.

    Args:
        path: The file.
        limit: Most bytes that such a file can sensibly have.
        what: What it is to be, for messages.
        error: Kind of the error raised.
        remedy: Sentence added to the message.

    Raises:
        UserError: of the kind `error`: the file is missing, not readable, not a regular one, or larger.
    """

    def too_large(size: str) -> UserError:
        return error(f"{what} {shown_file(path)} has {size} bytes; at most {limit} are read. {remedy}".rstrip())

    with open_regular(path, what, error=error, remedy=remedy) as stream, _refusing(path, what, error, remedy):
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise too_large(str(size))
        # The size is a hint only: files of /proc say 0, others grow meanwhile.
        data = stream.read(size + 1)
        while len(data) > size and len(data) <= limit and (more := stream.read(_CHUNK)):
            data += more
    if len(data) > limit:
        raise too_large(f"more than {limit}")
    return data


@contextmanager
def _refusing(path: str | os.PathLike[str], what: str, error: type[UserError], remedy: str) -> Iterator[None]:
    """The operating system's refusals as an `error`."""
    name = f"{what} {shown_file(path)}"
    try:
        yield
    except FileNotFoundError as failure:
        raise error(f"{name} does not exist. {remedy}".rstrip()) from failure
    except OSError as failure:
        raise error(f"{name} cannot be read: {failure.strerror or failure}. {remedy}".rstrip()) from failure
    except ValueError as failure:  # a NUL or a lone surrogate in the name
        raise error(f"{name} cannot be read: no file can have that name. {remedy}".rstrip()) from failure


def _check_kind(mode: int, path: str | os.PathLike[str], what: str, error: type[UserError], remedy: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((word for test, word in _KINDS if test(mode)), "something else")
        raise error(f"{what} {shown_file(path)} is {kind}, not a file. {remedy}".rstrip())
