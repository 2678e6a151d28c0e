"""KITTI's text files: calibrations and labels in each form that its benchmarks have, and the size of an image."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from base.messages import printable, shown, shown_file
from base.reading import read_bounded
from datasets.geometry import first_not_rigid

__all__ = ["KittiCalibration", "KittiObject", "png_size", "read_calibration", "read_labels", "read_raw_calibration"]

Array = NDArray[np.float64]
_MAX_CALIBRATION_BYTES, _MAX_LABEL_BYTES = 1 << 16, 1 << 26
_MAX_VALUE = 1e9
_MAX_PIXELS = 100_000
# Names in the files of the object, the tracking and the raw data.
_RECT = ("R0_rect", "R_rect", "R_rect_00")
_VELO = ("Tr_velo_to_cam", "Tr_velo_cam")
_PROJECTION = ("P2", "P_rect_02")
_PNG = b"\x89PNG\r\n\x1a\n"
# type, truncated, occluded, alpha, 2D box (4), height, width, length, x, y, z, rotation_y; a score may follow.
_COLUMNS = 15


@dataclass(frozen=True, eq=False)
class KittiCalibration:
    """How LiDAR and camera stand to each other.

    Attributes:
        lidar2cam: (4, 4) to the rectified frame of the reference camera: R0_rect x Tr_velo_to_cam.
        cam2img: (4, 4) P2, that frame to pixels of the left colour camera.
        image_size: Width, height in pixels, where the file says it.
    """

    lidar2cam: Array
    cam2img: Array
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class KittiObject:
    """A line of a label file, lengths in metres, angles in radians, in the rectified camera frame.

    Attributes:
        frame, track: Of tracking labels; -1 in the object benchmark's.
        kind: "Car", "DontCare", …
        truncated, occluded, alpha: As in the file.
        bbox: Left, top, right, bottom in the image, pixels.
        size: Length, height, width.
        bottom: x, y, z of the centre of the bottom face.
        rotation_y: About the camera's y axis.
        score: Of a detection; 0 in annotations.
    """

    frame: int
    track: int
    kind: str
    truncated: float
    occluded: int
    alpha: float
    bbox: tuple[float, float, float, float]
    size: tuple[float, float, float]
    bottom: tuple[float, float, float]
    rotation_y: float
    score: float


def _table(path: Path) -> dict[str, tuple[int, list[float]]]:
    """Name -> its line and the numbers after it, of a calibration file; a colon may follow the name."""
    text = read_bounded(path, _MAX_CALIBRATION_BYTES, "Calibration").decode("ascii", errors="replace")
    found: dict[str, tuple[int, list[float]]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name, *words = line.replace(":", " ", 1).split() or [""]
        values = [_number(word) for word in words]
        if name and values and None not in values:  # lines such as calib_time hold no numbers
            found[name] = (number, [value for value in values if value is not None])
    return found


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if abs(value) <= _MAX_VALUE else None


def _matrix(path: Path, table: dict[str, tuple[int, list[float]]], names: Sequence[str], columns: int) -> Array:
    """(4, 4), of three rows of so many columns."""
    name = next((name for name in names if name in table), None)
    if name is None:
        raise DataError(
            f"Calibration {shown_file(path)} lacks {' or '.join(names)}; it has "
            f"{printable(', '.join(sorted(table))) or 'nothing'}. Fetch the calibration files of the dataset again."
        )
    line, values = table[name]
    if len(values) != 3 * columns:
        raise DataError(
            f"Calibration {shown_file(path)}, line {line}: {name} has {len(values)} numbers, but must have "
            f"{3 * columns}. Copy the file again."
        )
    out = np.eye(4)
    out[:3, :columns] = np.reshape(values, (3, columns))
    return out


def _rigid(matrix: Array, path: Path, names: Sequence[str]) -> Array:
    if first_not_rigid([matrix.tolist()]) is not None:
        raise DataError(
            f"Calibration {shown_file(path)}: {names[0]} is no rotation and translation. Copy the file again."
        )
    return matrix


def read_calibration(path: Path) -> KittiCalibration:
    """A calibration file of the object (`R0_rect: …`) or the tracking benchmark (`R_rect …`).

    Raises:
        DataError: it cannot be read, or lacks a matrix, or one is none.
    """
    table = _table(path)
    rect = _rigid(_matrix(path, table, _RECT, 3), path, _RECT)
    velo = _rigid(_matrix(path, table, _VELO, 4), path, _VELO)
    return KittiCalibration(rect @ velo, _matrix(path, table, _PROJECTION, 4))


def read_raw_calibration(folder: Path) -> KittiCalibration:
    """`calib_velo_to_cam.txt` and `calib_cam_to_cam.txt` of the raw data.

    Raises:
        DataError: one cannot be read, or lacks a matrix, or one is none.
    """
    velo_file, cam_file = folder / "calib_velo_to_cam.txt", folder / "calib_cam_to_cam.txt"
    velo_table, cam_table = _table(velo_file), _table(cam_file)
    velo = _matrix(velo_file, velo_table, ("R",), 3)
    if "T" not in velo_table or len(velo_table["T"][1]) != 3:
        raise DataError(f"Calibration {shown_file(velo_file)} lacks T, three numbers. Copy the file again.")
    velo[:3, 3] = velo_table["T"][1]
    rect = _rigid(_matrix(cam_file, cam_table, _RECT, 3), cam_file, _RECT[-1:])
    size = cam_table.get("S_rect_02", (0, []))[1]
    is_size = len(size) == 2 and min(size) >= 1 and max(size) <= _MAX_PIXELS
    image = (int(size[0]), int(size[1])) if is_size else None
    projection = _matrix(cam_file, cam_table, _PROJECTION, 4)
    return KittiCalibration(rect @ _rigid(velo, velo_file, ("R, T",)), projection, image)


def read_labels(path: Path) -> list[KittiObject]:
    """A label file of the object benchmark (15 columns, or 16 with a score) or of tracking (two more before them).

    Raises:
        DataError: it cannot be read, or a line has another number of columns, a word in place of a number, or an
            object without size; the message names file and line.
    """
    text = read_bounded(path, _MAX_LABEL_BYTES, "Label file").decode("ascii", errors="replace")
    rows: list[KittiObject] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words:
            rows.append(_object(path, number, words))
    return rows


def _object(path: Path, line: int, words: list[str]) -> KittiObject:
    def complain(what: str) -> DataError:
        return DataError(f"Label file {shown_file(path)}, line {line}: {what}. Correct it, or copy the file again.")

    if len(words) not in range(_COLUMNS, _COLUMNS + 4):
        raise complain(
            f"it has {len(words)} columns; {_COLUMNS} or {_COLUMNS + 1} (object) or {_COLUMNS + 2} or {_COLUMNS + 3} "
            "(tracking) are known"
        )
    frame = track = -1
    if len(words) > _COLUMNS + 1:
        numbers = [number for word in words[:2] if (number := _number(word)) is not None and number == int(number)]
        if len(numbers) < 2:
            raise complain(f"frame and track are {shown(words[0])} and {shown(words[1])}, but must be whole numbers")
        frame, track = int(numbers[0]), int(numbers[1])
        if frame < 0:
            raise complain(f"its frame is {frame}, but must be 0 or more")
        words = words[2:]
    kind, *rest = words
    values: list[float] = []
    for word in rest:
        value = _number(word)
        if value is None or math.isnan(value):
            raise complain(f"{shown(word)} should be a number")
        values.append(value)
    truncated, occluded, alpha = values[:3]
    height, width, length = values[7:10]
    if kind != "DontCare" and min(height, width, length) <= 0:
        raise complain(f"height, width and length of a {shown(kind)} are {height:g}, {width:g}, {length:g}")
    return KittiObject(
        frame,
        track,
        kind,
        truncated,
        int(occluded),
        alpha,
        (values[3], values[4], values[5], values[6]),
        (length, height, width),
        (values[10], values[11], values[12]),
        values[13],
        values[14] if len(values) > 14 else 0.0,
    )


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file, from its first bytes.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise DataError(f"Cannot read image {shown_file(path)}: {error.strerror or error}.") from error
    if not head.startswith(_PNG) or len(head) < 24:
        raise DataError(f"Image {shown_file(path)} is no PNG file, as KITTI's are. Copy it again.")
    width, height = struct.unpack(">II", head[16:24])
    if not (0 < width <= _MAX_PIXELS and 0 < height <= _MAX_PIXELS):
        raise DataError(f"Image {shown_file(path)} says that it has {width} x {height} pixels. Copy it again.")
    return int(width), int(height)
