"""Where a relative path of a configuration leads."""

from __future__ import annotations

import os
from pathlib import Path

from base.files import user_path

__all__ = ["input_path", "repository_root"]


def repository_root() -> Path:
    """Folder that holds `deploy/`: the checkout, or the runfiles tree under Bazel.

    Not resolved through symbolic links: a runfiles tree is made of them, and what a target declares as data lies there.
    """
    return Path(os.path.abspath(__file__)).parents[2]


def input_path(path: str | os.PathLike[str]) -> Path:
    """A file or folder to read: relative to where the command was typed or, failing that, to the repository.

    What exists neither here nor there is returned as the user meant it, for the error message.
    """
    typed = user_path(path)
    if typed.exists() or Path(path).expanduser().is_absolute():
        return typed
    shipped = repository_root() / path
    return shipped if shipped.exists() else typed
