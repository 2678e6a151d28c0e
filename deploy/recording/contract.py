"""What a recording holds, and what writes one: by the suffix of its file, for Rerun (`.rrd`) or for Foxglove (`.mcap`).

Every frame is on its way to the file when `write` returns, so that a run that ends early leaves what it had recorded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from base.lazy import require
from base.messages import shown, shown_file
from base.ownership import owned_file

__all__ = ["RecordedFrame", "Recorder", "RecordingFacts", "box_label", "names_of", "recording", "require_recordable"]

# Suffix -> packages that write such a file.
_PACKAGES = {
    ".rrd": ("rerun",),
    ".mcap": ("mcap.writer", "mcap_protobuf.schema", "foxglove_schemas_protobuf.PointCloud_pb2"),
}
_MAX_TIME_S = 9.0e9  # in nanoseconds it still is an int64


@dataclass(frozen=True)
class RecordingFacts:
    """What all frames of a recording share.

    Attributes:
        title: Name of the model.
        class_names: Of the labels.
        point_columns: Names of a point's columns, x, y, z first.
    """

    title: str
    class_names: tuple[str, ...]
    point_columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """One moment.

    Attributes:
        index: Its place in the sequence, from 0.
        name: Of its file or its sample.
        time_s: Seconds, since 1970 or since any other moment that all frames of a recording share.
        points: (N, C) float32, metres, `base_link`; columns as the facts say.
        found: What was found in it: label of a backend -> boxes.
        ground_truth: What there was; None where nobody knows.
    """

    index: int
    name: str
    time_s: float
    points: NDArray[np.float32]
    found: Mapping[str, Boxes3D]
    ground_truth: Boxes3D | None = None

    @property
    def time_ns(self) -> int:
        """The time in nanoseconds.

        Raises:
            DataError: it is before 0, or later than a recording can say.
        """
        if not 0.0 <= self.time_s < _MAX_TIME_S:
            raise DataError(
                f"Frame {shown(self.name)} has the time {self.time_s:g} s, which a recording cannot hold: it must lie "
                f"between 0 and {_MAX_TIME_S:g} seconds. Mend the timestamps of the info file."
            )
        return round(self.time_s * 1e9)


class Recorder(Protocol):
    """Writes frames to a file that a viewer opens."""

    def write(self, frame: RecordedFrame) -> None:
        """Adds a frame; it is in the file when this returns, or soon after.

        Raises:
            DataError: its time cannot be written.
            OSError: the file cannot be written.
        """

    def close(self) -> None:
        """Ends the file; a second call does nothing."""

    def __enter__(self) -> Recorder:
        """Returns itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the file, also after an error: what was written stays."""


def require_recordable(path: Path) -> Path:
    """Checks of a recording's file before any work: its suffix, its package, and that a file can be made there.

    Args:
        path: Where `--record` leads.

    Returns:
        The same.

    Raises:
        ConfigError: neither a `.rrd` nor a `.mcap` file, a file that exists (no recording is replaced), one that
            another run is writing, or no place for a file.
        MissingDependencyError: the package that writes it is not installed.
        OSError: its folder cannot be made or written.
    """
    suffix = path.suffix.lower()
    if suffix not in _PACKAGES:
        raise ConfigError(
            f"--record is {shown_file(path)}; what is recorded follows from the file's suffix: "
            f".rrd for Rerun, .mcap for Foxglove, not {shown(suffix) if suffix else 'none'}."
        )
    for package in _PACKAGES[suffix]:
        require(package, f"to record a {suffix} file")
    if os.path.lexists(path):
        raise ConfigError(
            f"--record is {shown_file(path)}, which exists; a recording replaces no file, which may be a drive's own. "
            "Remove it, or name another."
        )
    with owned_file(path, "--record"):
        pass  # what cannot be written there is told now, not after the model is read
    return path


@contextmanager
def recording(path: Path, facts: RecordingFacts) -> Iterator[Recorder]:
    """Opens a recording that is whole, and closed, when the body ends, with an error too.

    Args:
        path: The file, `.rrd` or `.mcap`; its folder is made.
        facts: What its frames share.

    Raises:
        ConfigError, MissingDependencyError: as for `require_recordable`.
        OSError: the file cannot be written.
    """
    require_recordable(path)
    with owned_file(path, "--record"), _open(path, facts) as recorder:
        yield recorder


def _open(path: Path, facts: RecordingFacts) -> Recorder:
    if path.suffix.lower() == ".rrd":
        from deploy.recording.rerun_writer import RerunRecorder

        return RerunRecorder(path, facts)
    from deploy.recording.mcap_writer import McapRecorder

    return McapRecorder(path, facts)


def names_of(labels: Sequence[str]) -> dict[str, str]:
    """Label of a backend -> name that both formats take in a path ("onnx int8 (cpu)": `onnx_int8_cpu`), each once."""
    names: dict[str, str] = {}
    for label in labels:
        name = re.sub(r"[^0-9A-Za-z]+", "_", label).strip("_") or "backend"
        number = 2
        while name in names.values():
            name, number = f"{name.rstrip('0123456789').rstrip('_')}_{number}", number + 1
        names[label] = name
    return names


def box_label(class_name: str, score: float | None) -> str:
    """What stands beside a box: "car 0.83", or the class alone where it is ground truth."""
    return class_name if score is None else f"{class_name} {score:.2f}"
