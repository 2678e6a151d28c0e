"""What `deploy.predict` runs on: scans in files, or the frames of an info file; each is read when it is its turn."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import DataError
from base.files import sha256_file
from base.messages import shown, shown_file
from base.natural_order import natural_order
from datasets.plausibility import PointsExpected
from datasets.scan import ScanFormat, read_scan

if TYPE_CHECKING:
    from datasets.frames import FrameSource
    from models.spec import ModelSpec

__all__ = ["DEFAULT_RATE_HZ", "FileScans", "FrameScans", "InputScan", "InputScans", "scan_files"]

DEFAULT_RATE_HZ = 10.0
_SUFFIXES = (".bin", ".pcd")
_MAX_FILES = 1_000_000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class InputScan:
    """One scan as a model takes it.

    Attributes:
        index: Its place in the sequence, from 0.
        name: Of its file or its sample.
        place: What messages call it.
        time_s: Seconds; of files: its place over the rate.
        points: (N, C) float32 in `base_link`, columns as the model's.
        num_in_file, num_invalid, num_zeros: Points of the file; of those, with NaN or infinities, and at (0, 0, 0).
        sha256: Of its file; empty for a frame of an info file, which may be made of several.
        ground_truth: Annotated boxes; None where there are none to have.
    """

    index: int
    name: str
    place: str
    time_s: float
    points: NDArray[np.float32]
    num_in_file: int
    num_invalid: int
    num_zeros: int
    sha256: str = ""
    ground_truth: Boxes3D | None = None

    @property
    def token(self) -> str:
        """As a frame to verify on (`eval.frames.FrameLike`)."""
        return self.name


class InputScans(Protocol):
    """Scans by index."""

    def __len__(self) -> int:
        """How many there are, at least one."""

    def __getitem__(self, index: int, /) -> InputScan:
        """Reads a scan.

        Raises:
            DataError: it cannot be read, or cannot be what a sensor saw.
        """


@dataclass(frozen=True)
class FileScans:
    """Point files in their order.

    Attributes:
        files: At least one.
        form: How they are stored.
        spec: The model.
        expected: What it was trained on.
        rate_hz: Scans a second.
    """

    files: tuple[Path, ...]
    form: ScanFormat
    spec: ModelSpec
    expected: PointsExpected
    rate_hz: float

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> InputScan:
        path = self.files[index]
        scan = read_scan(path, self.form, self.spec, self.expected)
        return InputScan(
            index,
            path.name,
            f"Point file {shown_file(path)}",
            index / self.rate_hz,
            scan.points,
            scan.num_in_file,
            scan.num_invalid,
            scan.num_zeros,
            sha256_file(path),
        )


class FrameScans:
    """Frames of a dataset, with their ground truth."""

    def __init__(self, frames: FrameSource) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int, /) -> InputScan:
        frame = self._frames[index]
        counts: dict[str, Any] = {"num_invalid": frame.invalid_points, "num_zeros": frame.zero_points}
        return InputScan(
            index,
            frame.token,
            f"Sample {shown(frame.token)}",
            frame.timestamp_s,
            frame.points,
            num_in_file=len(frame.points) + frame.invalid_points + frame.zero_points,
            ground_truth=frame.ground_truth,
            **counts,
        )


def scan_files(given: Sequence[Path]) -> tuple[Path, ...]:
    """The files that `--points` names: files as they are, of folders their `.bin` or `.pcd` files as names count.

    Raises:
        DataError: a file or folder does not exist, a folder has no such file, or has both kinds.
    """
    files: list[Path] = []
    for path in given:
        if not path.is_dir():
            if len(given) > 1 and not path.exists():
                raise DataError(f"Point file {shown_file(path)} does not exist. Give its path with --points.")
            files.append(path)
        else:
            files += _files_of(path)
    return tuple(files)


def _files_of(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for _, entry in zip(range(_MAX_FILES), entries, strict=False) if entry.is_file()]
    names.sort(key=natural_order)  # 2.bin before 10.bin: the order is the drive's
    scans = [name for name in names if name.lower().endswith(_SUFFIXES) and not name.startswith(".")]
    kinds = Counter(Path(name).suffix.lower() for name in scans)
    place = f"Folder {shown_file(folder)}"
    if not scans:
        what = f"{len(names)} other file{'s' * (len(names) != 1)}" if names else "no file"
        raise DataError(f"{place} has no scan (.bin or .pcd): {what}. Give the folder of the scans with --points.")
    if len(kinds) > 1:
        has = " and ".join(f"{number} {suffix} files" for suffix, number in sorted(kinds.items()))
        raise DataError(
            f"{place} has {has}: which of them are the sequence is unknown. Name those that are, as in "
            f"--points {shown_file(folder).strip(chr(39))}/*{min(kinds)}, or move the others."
        )
    if len(scans) < len(names):
        _logger.info("%s: %d scans; %d other files are passed over", place, len(scans), len(names) - len(scans))
    return [folder / name for name in scans]
