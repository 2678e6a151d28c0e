"""Files that belong together, such as a model's components: a folder never passes for whole while it holds a mixture.

Each file is written whole (`base.files`), but a process may end between two of them. While files of an earlier set are
there, the folder is marked from the first new one to the last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from base.errors import ConfigError
from base.leftovers import flush

__all__ = ["MANIFEST", "MARKS", "replacing", "require_whole"]

MANIFEST = "manifest.json"
"""What says, beside files that belong together, which bytes they have."""
MARKS = {MANIFEST: b'"schema_version"'}
"""What stands in every manifest of ours (`base.ownership.owned_folder`)."""

_MARK = ".centerpoint.unfinished"
_being_replaced: set[Path] = set()


@contextmanager
def replacing(folder: str | os.PathLike[str], names: Sequence[str]) -> Iterator[Path]:
    """Within, files of a folder that belong together are written; the folder is made.

    Blocks may be nested: the outermost one ends when everything is there.

    Args:
        folder: Where they lie.
        names: Their names, a manifest's included.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(os.path.abspath(folder))
    if path in _being_replaced:
        yield path
        return
    path.mkdir(parents=True, exist_ok=True)
    mark = path / _MARK
    before = _state(path, names)
    was_whole = not mark.exists()
    # Without an earlier set there is no mixture: a set that is not whole lacks a file.
    if was_whole and before:
        mark.touch()
        flush(path)
    _being_replaced.add(path)
    try:
        yield path
        mark.unlink(missing_ok=True)
        flush(path)
    except BaseException:
        if was_whole and _state(path, names) == before:
            mark.unlink(missing_ok=True)
        raise
    finally:
        _being_replaced.remove(path)


def require_whole(folder: str | os.PathLike[str], remedy: str) -> None:
    """Checks that no run was stopped, and none is busy, between two files of a folder.

    Raises:
        ConfigError: what it holds may be of two runs.
    """
    path = Path(os.path.abspath(folder))
    if path not in _being_replaced and (path / _MARK).exists():
        raise ConfigError(
            f"'{path}' may hold files of two runs: one was stopped, or is busy, between the first file and the last. "
            f"{remedy}"
        )


def _state(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    found = {}
    for name in names:
        path = folder / name
        if path.is_file():
            facts = path.stat()
            found[name] = (facts.st_ino, facts.st_mtime_ns)
    return found
