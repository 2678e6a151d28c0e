"""One LiDAR scan from a file to the points that a model takes: columns, intensity, sensor pose, time."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.arguments import whole_number
from base.checks import Finding, settle
from base.errors import ConfigError, DataError
from base.messages import shown, shown_file
from base.reading import read_bounded
from datasets.cloud_facts import measure_cloud
from datasets.pcd import parse_pcd
from datasets.plausibility import CloudRemedies, PointsExpected, judge_cloud
from datasets.point_bytes import ColumnsAdvice, check_bytes
from datasets.point_forms import MAX_POINT_FILE_BYTES, is_pcd
from models.known_checks import KNOWN_CHECKS
from models.point_columns import SQUASHED, T4_RECORD, XYZ_INTENSITY, is_column, listed, record_columns

if TYPE_CHECKING:
    from models.spec import ModelSpec

__all__ = ["FORMATS", "MAX_COLUMNS", "Scan", "ScanFormat", "check_names", "columns_option", "read_scan"]

_logger = logging.getLogger(__name__)

MIN_COLUMNS, MAX_COLUMNS = 4, 16
_MAX_SCALE = 1e6
_MAX_LAG_S = 10.0


@dataclass(frozen=True)
class ScanFormat:
    """How a scan is stored, and how its sensor stands on the vehicle.

    Attributes:
        columns: float32 numbers a point, or their names (`models.point_columns`) in the order of the file.
        known: Names of the first columns where `columns` is their number; of others nobody knows what they are.
        intensity_scale: Factor that brings intensity to 0..255.
        height_m: Height of the sensor's origin above the ground.
        yaw_deg: Turn from the sensor's frame to x forward, y left; counter-clockwise.
    """

    columns: int | tuple[str, ...]
    intensity_scale: float = 1.0
    height_m: float = 0.0
    yaw_deg: float = 0.0
    known: tuple[str, ...] = T4_RECORD

    def __post_init__(self) -> None:
        if isinstance(self.columns, int):
            if not MIN_COLUMNS <= self.columns <= MAX_COLUMNS:
                raise ConfigError(
                    f"--columns is {self.columns}; a point has {MIN_COLUMNS} to {MAX_COLUMNS} numbers, the first four "
                    "of them x, y, z and intensity. Where they are others, name them: --columns=x,y,z."
                )
        else:
            check_names(self.columns)
        if not 0 < self.intensity_scale <= _MAX_SCALE:
            raise ConfigError(
                f"--intensity-scale is {self.intensity_scale:g}; it must be above 0, and at most {_MAX_SCALE:g}."
            )
        for option, value, most in (("--lidar-height", self.height_m, 100.0), ("--lidar-yaw", self.yaw_deg, 360.0)):
            if not abs(value) <= most:
                raise ConfigError(f"{option} is {value:g}; it must be {-most:g} to {most:g}.")

    @property
    def names(self) -> tuple[str, ...]:
        """What the numbers of a point are, in the order of the file."""
        return record_columns(self.columns, self.known) if isinstance(self.columns, int) else self.columns


def columns_option(text: str) -> int | tuple[str, ...]:
    """A type for argparse: a number of columns, or their names; `ScanFormat` judges both."""
    if "," in text or text.strip()[:1].isalpha():
        return tuple(name.strip().lower() for name in text.split(","))
    return whole_number(0, 64)(text)


def check_names(names: tuple[str, ...]) -> None:
    """That names of columns are known ones, each once, x, y, z among them.

    Raises:
        ConfigError: they are not.
    """
    given = f"--columns is {shown(','.join(names))}"
    if len(names) > MAX_COLUMNS:
        raise ConfigError(f"{given}: {len(names)} names; a point has at most {MAX_COLUMNS} numbers.")
    for index, name in enumerate(names):
        if not is_column(name):
            raise ConfigError(f"{given}; {shown(name)} is no name of a column. Names are {listed()}.")
        if name.startswith("column") and name != f"column{index}":
            raise ConfigError(f"{given}; number {index} of a point (from 0) is called 'column{index}', not '{name}'.")
    if len(set(names)) != len(names) or not {"x", "y", "z"} <= set(names):
        raise ConfigError(f"{given}; each name must stand there once, and x, y, z among them.")


FORMATS = {
    # x, y, z, intensity 0..255, ring; base_link already.
    "t4": ScanFormat(5),
    # The same columns in the sensor's frame, whose x points right and y forward, 1.84 m above the ground.
    "nuscenes": ScanFormat(5, height_m=1.84, yaw_deg=-90.0),
    # x forward, y left, z, reflectance 0..1, 1.73 m above the ground.
    "kitti": ScanFormat(4, intensity_scale=255.0, height_m=1.73, known=XYZ_INTENSITY),
}
"""Public datasets' scans and the project's own."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan as a model takes it.

    Attributes:
        path: The file.
        points: (N, C) float32 in `base_link` (x forward, y left, z up from the ground, metres), columns as the model's
            `point_columns`. A time lag that the file does not have is 0: the scan is the key frame.
        num_in_file: Points in the file.
        num_invalid: Of those, points with a NaN or an infinity, left out.
        num_zeros: Of those, points at exactly (0, 0, 0), which are no echoes, left out.
        ground_z_m: Height of the ground around the vehicle; None where none is seen.
    """

    path: Path
    points: NDArray[np.float32]
    num_in_file: int
    num_invalid: int
    num_zeros: int
    ground_z_m: float | None


def read_scan(path: Path, form: ScanFormat, spec: ModelSpec, expected: PointsExpected | None = None) -> Scan:
    """Reads a scan and moves it into `base_link`; warns of what looks like a wrong option.

    Args:
        path: A PCD file (`datasets.pcd`), as its first bytes say; else little-endian float32 records without a header.
        form: What the records are, and where the sensor stands.
        spec: The model.
        expected: What it was trained on; None: a T4 dataset's points.

    Raises:
        DataError: the file cannot be read, is empty or cut off, its records have another length, it lacks a column that
            the model takes, or no point is valid and in the model's range.
    """
    expected = expected or PointsExpected(range_m=spec.point_cloud_range)
    needed = tuple(dict.fromkeys(name.removeprefix(SQUASHED) for name in spec.point_columns))
    data = read_bounded(path, MAX_POINT_FILE_BYTES, "Point file", remedy="Give its path with --points.")
    if not data:
        raise DataError(f"Point file {shown_file(path)} is empty (0 bytes). Record or copy it again.")
    if is_pcd(data, str(path)):
        names = tuple(name for name in needed if name != "time_lag")
        table = parse_pcd(data, path, names)
    else:
        names = form.names
        _check_columns(names, needed, spec, path)
        table = _parse_records(data, len(names), path, _other_columns(form, needed))
    count = len(table)
    valid = np.isfinite(table).all(axis=1)
    echoes = valid & (table[:, [names.index(axis) for axis in "xyz"]] != 0).any(axis=1)
    settle(_time_lags(table[echoes], names, spec, path))
    points = _in_base_link(table[echoes], names, form, spec.point_columns)
    zeros = int(valid.sum()) - int(echoes.sum())
    invalid = count - zeros - len(points)
    if invalid:
        _logger.warning(
            "%s: %d of %d points hold NaN or infinite values and are left out", shown_file(path), invalid, count
        )
    if not len(points):
        what = f"{invalid} with NaN or infinite values, {zeros} at exactly (0, 0, 0)"
        if not zeros:
            what = "all with NaN or infinite values"
        raise DataError(f"Point file {shown_file(path)} has no valid point: {count} in it, {what}.")
    intensity = spec.point_columns.index("intensity") if "intensity" in spec.point_columns else None
    facts = measure_cloud(points, intensity, spec.point_cloud_range)
    facts = dataclasses.replace(facts, in_file=count, invalid=invalid, zeros=zeros)
    settle(judge_cloud(f"Point file {shown_file(path)}", facts, expected, _remedies(form)))
    _check_range(points, spec, path)
    return Scan(path, points, count, invalid, zeros, facts.ground_z_m)


def _other_columns(form: ScanFormat, needed: tuple[str, ...]) -> ColumnsAdvice:
    """How to say another number of columns; nothing where points of so many lack what the model takes."""

    def how(columns: int) -> str | None:
        names = record_columns(columns, form.known)
        if not {*needed} <= {*names, "time_lag"} or columns > MAX_COLUMNS:
            return None
        return f"give --columns={columns if columns >= MIN_COLUMNS else ','.join(names)}"

    return ColumnsAdvice(how, confirm=True)


def _remedies(form: ScanFormat) -> CloudRemedies:
    """Advice in options of the command."""
    return CloudRemedies(
        rescale=lambda factor: (
            f"Give --intensity-scale={form.intensity_scale * factor:.3g}, or what the sensor's manual says"
        ),
        raise_by=lambda metres: (
            f"Give the sensor's height above the ground: --lidar-height={form.height_m + metres:.1f}"
        ),
    )


def _check_columns(names: tuple[str, ...], needed: tuple[str, ...], spec: ModelSpec, path: Path) -> None:
    """A column that a file lacks is an error: a network does not take zeros for an intensity."""
    lacking = [name for name in needed if name not in (*names, "time_lag")]
    if lacking:
        raise DataError(
            f"Point file {shown_file(path)} is read as {', '.join(names)}; model '{spec.name}' takes "
            f"{', '.join(spec.point_columns)}, so that it lacks {', '.join(lacking)}. Where the file has it, name its "
            f"columns in their order, as in --columns={','.join(name for name in needed if name != 'time_lag')}; else "
            "take a scan that has it."
        )


def _in_base_link(
    raw: NDArray[np.float32], names: tuple[str, ...], form: ScanFormat, wanted: tuple[str, ...]
) -> NDArray[np.float32]:
    """(N, len(wanted)): turned, lifted and scaled; a point that thereby leaves single precision is left out."""
    points = np.zeros((len(raw), len(wanted)), np.float32)
    x, y, z = (raw[:, names.index(name)] for name in "xyz")
    angle = math.radians(form.yaw_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    with np.errstate(over="ignore"):
        points[:, 0] = cos * x.astype(np.float64) - sin * y
        points[:, 1] = sin * x.astype(np.float64) + cos * y
        points[:, 2] = z + np.float32(form.height_m)
        for column, name in enumerate(wanted[3:], start=3):
            source = name.removeprefix(SQUASHED)
            if source not in names:
                continue  # the time lag of the key frame, 0
            points[:, column] = raw[:, names.index(source)]
            if source == "intensity":
                points[:, column] *= np.float32(form.intensity_scale)
            if source != name:
                points[:, column] = np.tanh(points[:, column])
    finite = np.isfinite(points).all(axis=1)
    return points if finite.all() else points[finite]


def _time_lags(table: NDArray[np.float32], names: tuple[str, ...], spec: ModelSpec, path: Path) -> Iterator[Finding]:
    """Times of points are mostly since 1970 or in parts of a second; the network takes seconds before the key frame."""
    if "time_lag" not in names or "time_lag" not in spec.point_columns or not len(table):
        return
    lags = table[:, names.index("time_lag")]
    low, high = float(lags.min()), float(lags.max())
    if max(-low, high) > _MAX_LAG_S:
        value = f"its column time_lag goes from {low:.6g} to {high:.6g}, where seconds before the key frame are meant"
        other = f"column{names.index('time_lag')}"
        remedy = (
            f"Write seconds into the file. If all points are of one revolution, leave the column out: name it {other} "
            "in --columns, and the time lag is 0."
        )
        yield Finding(KNOWN_CHECKS["cloud-time-lag"], f"Point file {shown_file(path)}", value, remedy=remedy)


def _parse_records(data: bytes, columns: int, path: Path, advice: ColumnsAdvice) -> NDArray[np.float32]:
    """(N, columns) float32 records."""
    check_bytes(data, columns, str(path), advice)
    count, rest = divmod(len(data), 4 * columns)
    if rest:
        raise DataError(
            f"Point file {shown_file(path)} has {len(data)} bytes: {count} points of {columns} float32 and {rest} "
            "bytes of another. The file was cut off (copy it again), or its points have another number of values "
            "(--columns)."
        )
    records: NDArray[np.float32] = np.frombuffer(data, dtype="<f4").reshape(count, columns)
    return records


def _check_range(points: NDArray[np.float32], spec: ModelSpec, path: Path) -> None:
    limits = np.asarray(spec.point_cloud_range, np.float32)
    inside = np.all((points[:, :3] >= limits[:3]) & (points[:, :3] < limits[3:]), axis=1)
    if inside.any():
        return
    low, high = points[:, :3].min(axis=0), points[:, :3].max(axis=0)
    spans = ", ".join(
        f"{axis} {a:.1f} to {b:.1f} (model {c:.1f} to {d:.1f})"
        for axis, a, b, c, d in zip("xyz", low, high, limits[:3], limits[3:], strict=True)
    )
    raise DataError(
        f"Point file {shown_file(path)}: none of {len(points)} points lies in the range of model '{spec.name}': "
        f"{spans}. Metres are needed; check --columns and --lidar-height."
    )
