"""What a command must not replace: files that somebody else made, and those that it reads."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from base.errors import ConfigError
from base.files import user_path
from base.reading import open_regular

__all__ = ["key_of_checkpoint", "require_no_input", "require_ours"]

_MAX_READ = 1 << 28


def require_ours(folder: str | os.PathLike[str], marks: Mapping[str, bytes | str], option: str) -> None:
    """Checks that files which are going to be replaced were written by this project.

    Args:
        folder: Where they lie.
        marks: Name of a file -> pattern (`re`, of bytes) that is found in every one that was written here; or the name
            of a file beside it that is there before it is written. Of an empty file or document nothing is lost.
        option: Of the command line that names the folder, or the file beside which they lie, for messages.

    Raises:
        ConfigError: one of them is somebody else's.
    """
    for name, mark in marks.items():
        path = Path(folder) / name
        if not os.path.lexists(path):
            continue
        with open_regular(path, error=ConfigError, remedy=f"Choose another place with {option}.") as stream:
            content = stream.read(_MAX_READ)
        ours = (Path(folder) / mark).exists() if isinstance(mark, str) else re.search(mark, content) is not None
        if not ours and content.strip() not in (b"", b"{}"):
            raise ConfigError(
                f"'{path}' is not of this project, and a run would replace it. Choose another place with {option}, or "
                "move the file away."
            )


def key_of_checkpoint(key: str) -> bytes:
    """The mark of files of torch with a key: a text in a pickle of protocol 2, its length before it."""
    text = key.encode()
    return re.escape(b"X" + len(text).to_bytes(4, "little") + text)


def require_no_input(path: str | os.PathLike[str], option: str, arguments: argparse.Namespace) -> None:
    """Checks that a file which is going to be written is none that the same command line names otherwise.

    Args:
        path: The file; absent is fine.
        option: Of the command line that names it.
        arguments: The whole command line, paths as the user gave them.

    Raises:
        ConfigError: another argument names it too, so that what is read would be replaced.
    """
    if not os.path.isfile(path):
        return
    for name, value in vars(arguments).items():
        argument = f"--{name.replace('_', '-')}"
        if argument != option and any(_is_same(path, text) for text in _texts(value)):
            raise ConfigError(
                f"{option} is '{path}', which is also given as {argument}: it would be replaced. Choose another name."
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str | os.PathLike):
        yield os.fspath(value)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _is_same(path: str | os.PathLike[str], text: str) -> bool:
    if not text or "\0" in text:
        return False
    other = user_path(text)
    return other.is_file() and other.samefile(path)
