"""Configurations that are Python and are run: what goes wrong in one is an error that names file, line and cause."""

from __future__ import annotations

import ast
import logging
import os
import traceback
from pathlib import Path
from typing import Any

from base.errors import ConfigError
from base.lazy import require
from base.messages import printable, shown_file
from base.reading import read_bounded

__all__ = ["run_config"]

_MAX_BYTES = 1 << 20
# Behind links: a build lays out links to the repository's files in folders of its own.
_REPOSITORY = Path(os.path.realpath(__file__)).parents[1]
# Functions of mmengine that read one file each, of a config or of a base; their local `filename` says which.
_READERS = ("_file2dict", "_parse_lazy_import", "fromfile")

_logger = logging.getLogger(__name__)


def run_config(path: str | os.PathLike[str], what: str, *, failed: str = "cannot be read", missing: str = "") -> Any:
    """Runs an mmengine config with its bases. It is a program and may do anything: run those that you trust.

    Args:
        path: A Python file.
        what: What it is, for messages: "Model config".
        failed: How messages say that it was of no use.
        missing: What to do where there is no such file.

    Returns:
        The `mmengine.Config`; packages that it names in `custom_imports` are not imported.

    Raises:
        ConfigError: it is missing, no regular file, no Python, or raises: whatever, SystemExit included.
        MissingDependencyError: mmengine is not installed.
    """
    file = Path(path)
    name = f"{what} {shown_file(path)}"
    data = read_bounded(file, _MAX_BYTES, what, error=ConfigError, remedy="" if os.path.lexists(file) else missing)
    if file.suffix != ".py":
        raise ConfigError(f"{name} {failed}: its name does not end in .py.")
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} {failed}: it is no text in UTF-8 ({error}).") from None
    _check_bases(file, (), f"{name} {failed}")
    mmengine = require("mmengine.config", f"to read a {what.lower()}")
    if not Path(os.path.realpath(file)).is_relative_to(_REPOSITORY):
        _logger.info("%s is Python from outside the repository and runs with your rights", name)
    try:
        return mmengine.Config.fromfile(str(file), import_custom_modules=False)
    # The file is a program: it can raise everything. Signals are neither of these and go on.
    except (Exception, SystemExit) as error:
        cause = printable(traceback.format_exception_only(error)[-1].strip())
        hint = ""
        if isinstance(error, FileNotFoundError):
            hint = " Configs name their _base_ files relative to themselves; keep the folders that they came in."
        elif isinstance(error, RecursionError):
            hint = " Does a value hold itself?"
        raise ConfigError(f"{name} {failed}: {cause} ({_place(error, file)}).{hint}") from error


def _check_bases(file: Path, children: tuple[Path, ...], failed: str) -> None:
    """Refuses a config that is its own base, which mmengine follows for ten seconds before it gives up."""
    file = Path(os.path.abspath(file))
    if file in children:
        chain = " → ".join(item.name for item in (*children[children.index(file) :], file))
        raise ConfigError(f"{failed}: its _base_ leads back to itself: {chain}. Remove one of them.")
    for base in _bases(file):
        if base.is_file():
            _check_bases(base, (*children, file), failed)


def _bases(file: Path) -> list[Path]:
    """The files that `_base_` names, where it is written down plainly; what is wrong otherwise shows when it runs."""
    try:
        tree = ast.parse(file.read_bytes())
        values = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_base_"
        ]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, OSError):
        return []
    names = [name for value in values for name in (value if isinstance(value, list | tuple) else [value])]
    return [file.parent / name for name in names if isinstance(name, str) and "\0" not in name]


def _place(error: BaseException, path: Path) -> str:
    """The last line of a config that was running; else the config that was being read."""
    reading, files = str(path), set()
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        source = frame.f_code.co_filename
        if frame.f_code.co_name in _READERS and isinstance(frame.f_locals.get("filename"), str):
            reading = frame.f_locals["filename"]
            files.add(reading)
        elif source in files:
            place = f"{printable(source)}, line {line}"
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{printable(reading)}, line {error.lineno}"
    return place or printable(reading)
