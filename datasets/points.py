"""Point files: float32 records without a header."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from base.messages import shown_file, shown_place
from base.parsing import RelativePath, parse
from base.reading import read_bounded, regular_size
from datasets.point_bytes import ColumnsAdvice, check_bytes
from datasets.point_forms import MAX_POINT_FILE_BYTES, is_pcd
from models.point_columns import record_columns

if TYPE_CHECKING:
    from datasets.plausibility import CloudWatch

__all__ = ["MAX_POINT_FILE_BYTES", "StoredPoints", "inside", "parse_points", "point_file", "read_points"]

_logger = logging.getLogger(__name__)

_ADVICE = ColumnsAdvice(lambda columns: f"set load_dim={columns} where the model config loads points")


@dataclass(frozen=True)
class StoredPoints:
    """How a dataset's files hold points, where a model takes them otherwise.

    Attributes:
        columns: Names of the numbers of a point in files of records: they are put in their places, and what the files
            lack must be unused. None: as many as are asked for, in that order.
        intensity_scale: Factor that brings intensities to the model's scale.
        height_m: What is added to z.
    """

    columns: tuple[str, ...] | None = None
    intensity_scale: float = 1.0
    height_m: float = 0.0

    def brought(self, points: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
        """Points (N, len(names)) with scale and height applied, in place."""
        with np.errstate(over="ignore"):
            points[:, names.index("z")] += np.float32(self.height_m)
            if "intensity" in names:
                points[:, names.index("intensity")] *= np.float32(self.intensity_scale)
        return points


def inside(folder: Path, relative: object, file: str | os.PathLike[str], at: Sequence[str | int]) -> Path:
    """A path that a file names, below its dataset's folder; nothing is opened.

    Links inside the folder may lead elsewhere: they are the work of whoever keeps the data, not of the file that names
    them. What they lead to must be a regular file when it is read.

    Args:
        folder: The dataset's folder.
        relative: The value in the file.
        file: The file that names it, for messages.
        at: Place in that file.

    Raises:
        DataError: it is no relative path, or leaves the folder.
    """
    return folder / parse(RelativePath, relative, file=file, at=at, remedy="Point files lie inside their dataset.")


def point_file(folder: Path, relative: object, file: str | os.PathLike[str], at: Sequence[str | int]) -> Path:
    """`inside`, and it is a regular file of a plausible size.

    Raises:
        DataError: it is not.
    """
    path = inside(folder, relative, file, at)
    remedy = f"{shown_file(file)} names it at {shown_place(at)}."
    size = regular_size(path, "Point file", remedy=remedy)
    if size > MAX_POINT_FILE_BYTES:
        raise DataError(
            f"Point file {shown_file(path)} has {size} bytes; at most {MAX_POINT_FILE_BYTES} are read. {remedy}"
        )
    return path


def read_points(
    path: str | Path,
    num_features: int = 5,
    watch: CloudWatch | None = None,
    unused: Collection[str] = (),
    stored: StoredPoints | None = None,
) -> NDArray[np.float32]:
    """Reads a point cloud.

    Args:
        path: A regular file of little-endian float32 records or a PCD file, as its first bytes say; 256 MiB at most.
        num_features: Numbers per point; for T4 five: x, y, z (metres), intensity (0 to 255), ring.
        watch: Judges the cloud.
        unused: Names of columns that nobody looks at, which a PCD file need not have; they are 0 then.
        stored: How the file holds them, where that is not how they are taken.

    Returns:
        (N, num_features) float32, writable. A file of zero bytes is an empty cloud, not an error: a covered or failed
        sensor delivers those. Points with NaN or an infinity are dropped, and their number is logged as a warning.

    Raises:
        DataError: the file cannot be read, is no regular one, too large, its bytes are not such records
            (`datasets.point_bytes`), or its size is no multiple of one.
    """
    remedy = "Check data_root and the paths in the info file."
    data = read_bounded(path, MAX_POINT_FILE_BYTES, "Point file", remedy=remedy)
    return parse_points(data, num_features, str(path), watch, unused, stored)


def parse_points(
    data: bytes,
    num_features: int,
    name: str,
    watch: CloudWatch | None = None,
    unused: Collection[str] = (),
    stored: StoredPoints | None = None,
) -> NDArray[np.float32]:
    """The points in a file's bytes; `name` stands for the file in messages. See `read_points`."""
    if is_pcd(data, name):
        points = _pcd(data, num_features, name, unused)
    elif stored is None or stored.columns is None:
        points = _records(data, num_features, name)
    else:
        table = _records(data, len(stored.columns), name)
        points = _by_name(table, stored.columns, record_columns(num_features), name, unused)
    if stored is not None:
        points = stored.brought(points, record_columns(num_features))
    if watch is not None:
        watch.look(name, f"Point file {shown_file(name)}", points)
    finite = np.isfinite(points).all(axis=1)
    dropped = len(points) - int(finite.sum())
    if dropped:
        _logger.warning(
            "%s: dropped %d of %d points with NaN or infinite values", shown_file(name), dropped, len(points)
        )
        points = points[finite]
    return points


def _pcd(data: bytes, num_features: int, name: str, unused: Collection[str]) -> NDArray[np.float32]:
    names = record_columns(num_features)
    wanted = [column for column in names if column not in unused]
    from datasets.pcd import parse_pcd

    found = parse_pcd(data, Path(name), wanted)
    points = np.zeros((len(found), num_features), np.float32)
    points[:, [names.index(column) for column in wanted]] = found
    return points


def _by_name(
    table: NDArray[np.float32], stored: Sequence[str], names: Sequence[str], file: str, unused: Collection[str]
) -> NDArray[np.float32]:
    """(N, len(names)): the columns of a file in other places."""
    lacking = [name for name in names if name not in stored and name not in unused]
    if lacking:
        raise DataError(
            f"Point file {shown_file(file)} holds {', '.join(stored)}, as its info file says; the model also takes "
            f"{', '.join(lacking)}. Write files that have it, or take a model that does without."
        )
    points = np.zeros((len(table), len(names)), np.float32)
    for index, column in enumerate(names):
        if column in stored:
            points[:, index] = table[:, stored.index(column)]
    return points


def _records(data: bytes, num_features: int, name: str) -> NDArray[np.float32]:
    check_bytes(data, num_features, name, _ADVICE)
    record = 4 * num_features
    if len(data) % record:
        raise DataError(
            f"Point file {shown_file(name)} has {len(data)} bytes, which is no multiple of {record} ({num_features} "
            f"float32 a point): {len(data) // record} points and {len(data) % record} bytes of another. The file was "
            "cut off, or its points have another number of features (load_dim in the model config)."
        )
    points: NDArray[np.float32] = np.frombuffer(data, dtype="<f4").reshape(-1, num_features).astype(np.float32)
    return points
