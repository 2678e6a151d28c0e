"""Bytes of files that a user names: regular files only, never more than a limit."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO

from base.errors import DataError, UserError
from base.messages import shown_file

__all__ = ["open_regular", "read_bounded"]

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
    name = f"{what} {shown_file(path)}"
    remedy = f" {remedy}" if remedy else ""
    try:
        # Opening a pipe waits for its other end unless told not to.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as failure:
        raise error(f"{name} does not exist.{remedy}") from failure
    except OSError as failure:
        raise error(f"{name} cannot be read: {failure.strerror}.{remedy}") from failure
    except ValueError as failure:  # a NUL or a lone surrogate in the name
        raise error(f"{name} cannot be read: no file can have that name.{remedy}") from failure
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = next((word for test, word in _KINDS if test(mode)), "something else")
            raise error(f"{name} is {kind}, not a file.{remedy}")
        return io.open(descriptor, "rb")  # noqa: UP020 - the caller closes it
    except BaseException:
        os.close(descriptor)
        raise


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
    name = f"{what} {shown_file(path)}"
    remedy_text = f" {remedy}" if remedy else ""
    with open_regular(path, what, error=error, remedy=remedy) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise error(f"{name} has {size} bytes; at most {limit} are read.{remedy_text}")
        try:
            # The size is a hint only: files of /proc say 0, others grow meanwhile.
            data = stream.read(size + 1)
            while len(data) > size and len(data) <= limit and (more := stream.read(_CHUNK)):
                data += more
        except OSError as failure:
            raise error(f"{name} cannot be read: {failure.strerror}.{remedy_text}") from failure
    if len(data) > limit:
        raise error(f"{name} has more than {limit} bytes; at most that many are read.{remedy_text}")
    return data
