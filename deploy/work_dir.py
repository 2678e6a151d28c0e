"""The folder a run writes: owned by one run at a time, free of an earlier run's statements."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from base.errors import BackendUnavailable, UserError
from base.keeping import require_ours
from base.ownership import owned_folder
from base.wholeness import MARKS

__all__ = ["DETECTIONS_MARK", "RECORDS", "log_to_file", "marks_of", "owned_work_dir"]

RECORDS = ("results.json", "report.html", "manifest.json")
DETECTIONS_MARK = rb'\A\{"(token":"|backends": \[)'
"""How lines of detections begin: of an evaluation, or of a sequence of scans."""
# What is found in the files that commands write under names of their own (`base.keeping.require_ours`).
_MARKS: Mapping[str, bytes | str] = {
    "results.json": b'"schema_version"',
    "report.html": b": deployment report</title>",
    "detections.json": b'"checkpoint_sha256"',
    "detections.jsonl": DETECTIONS_MARK,
    "detections.png": "detections.json",
    **MARKS,
}
_LOG_LINE = rb"\A\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ "

_logger = logging.getLogger(__name__)


def marks_of(*names: str) -> dict[str, bytes | str]:
    """What `base.ownership.owned_folder` knows a command's files by."""
    return {name: _MARKS[name] for name in names}


@contextlib.contextmanager
def owned_work_dir(work_dir: Path, marks: Mapping[str, bytes | str] = MappingProxyType({})) -> Iterator[Path]:
    """Makes the folder and holds it for this run.

    An earlier run's records go away first, so that a run that is killed leaves none that could be taken for its own;
    so do files that a killed run left unfinished. ONNX files and engines stay until new ones take their place.

    Args:
        work_dir: The folder.
        marks: Of the files beside the records that this run writes.

    Raises:
        ConfigError: another run is using the folder, it cannot be written, or a file in it has the name of one that is
            going to be written and is somebody else's.
    """
    with owned_folder(work_dir, "--work-dir", RECORDS, {**marks_of(*RECORDS), **marks}):
        yield work_dir


@contextlib.contextmanager
def log_to_file(work_dir: Path, name: str | None) -> Iterator[None]:
    """Copies the log of the run to a file in the work folder; None or "" for no file.

    Raises:
        ConfigError: what has its name is no log of such a run.
        UserError: it cannot be written.
    """
    if not name:
        yield
        return
    require_ours(work_dir, {name: _LOG_LINE}, "--work-dir")
    try:
        handler = _LogFile(work_dir / name, mode="w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write the log '{work_dir / name}': {error.strerror or error}.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except Exception as error:
        if not isinstance(error, (UserError, BackendUnavailable)):
            # What the user is shown at the end goes to the terminal; whoever mends the fault may have the file alone.
            handler.handle(_logger.makeRecord(_logger.name, logging.ERROR, "", 0, "bug", (), sys.exc_info()))
        raise
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk, which was said when it filled up
            handler.close()


class _LogFile(logging.FileHandler):
    """A log file that gives up where it cannot be written: the run's results matter more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of the base class
        error = sys.exc_info()[1]
        logging.getLogger().removeHandler(self)
        _logger.warning("the log '%s' ends here: %s", self.baseFilename, error)
