"""The folder a run writes: owned by one run at a time, free of an earlier run's statements."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from base.errors import UserError
from base.ownership import owned_folder

__all__ = ["RECORDS", "log_to_file", "owned_work_dir"]

RECORDS = ("results.json", "report.html", "manifest.json")


@contextlib.contextmanager
def owned_work_dir(work_dir: Path) -> Iterator[Path]:
    """Makes the folder and holds it for this run.

    An earlier run's records go away first, so that a run that is killed leaves none that could be taken for its own;
    so do files that a killed run left unfinished. ONNX files and engines stay until new ones take their place.

    Raises:
        ConfigError: another run is using the folder, or it cannot be written.
    """
    with owned_folder(work_dir, "--work-dir", RECORDS):
        yield work_dir


@contextlib.contextmanager
def log_to_file(work_dir: Path, name: str | None) -> Iterator[None]:
    """Copies the log of the run to a file in the work folder; None or "" for no file."""
    if not name:
        yield
        return
    try:
        handler = logging.FileHandler(work_dir / name, mode="w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write the log '{work_dir / name}': {error.strerror or error}.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
