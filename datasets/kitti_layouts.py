"""Folders of KITTI data as frames: the object and the tracking benchmark's, single sequences, and raw drives."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from base.errors import DataError
from base.messages import shown, shown_file
from base.reading import read_bounded
from datasets.kitti_files import (
    KittiCalibration,
    KittiObject,
    png_size,
    read_calibration,
    read_labels,
    read_raw_calibration,
)

__all__ = ["KittiFrame", "find_frames"]

_logger = logging.getLogger(__name__)

_RAW_PAIR = "calib_velo_to_cam.txt"
_TRACKLETS = "tracklet_labels.xml"
_MAX_TIMES_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class KittiFrame:
    """A scan with what belongs to it.

    Attributes:
        token: Its name: file, with the sequence before it where there are several.
        scene: Its sequence; empty for the object benchmark, whose frames are of many.
        points: Its file.
        calibration: Of its sequence, or its own.
        objects: Labels; None where nobody labelled.
        image_size: Width and height of its image, pixels; None where neither an image nor a calibration says it.
        timestamp: Seconds since 1970; None where no file says it.
    """

    token: str
    scene: str
    points: Path
    calibration: KittiCalibration
    objects: tuple[KittiObject, ...] | None
    image_size: tuple[int, int] | None
    timestamp: float | None = None


def find_frames(root: Path) -> tuple[Path, list[KittiFrame]]:
    """The frames of a folder, in order of their names.

    Args:
        root: `training` or `testing` of a benchmark, a folder that holds one of them, a sequence with `velodyne`, or
            a folder with raw drives (`velodyne_points/data`) below it.

    Returns:
        The folder to which point files are relative, and the frames.

    Raises:
        DataError: there are none, or a file of one is missing or broken.
    """
    for folder in (root, root / "training", root / "testing"):
        points = folder / "velodyne"
        if points.is_dir():
            return points, list(_benchmark(folder, points))
    drives = sorted({path.parent for path in root.glob("**/velodyne_points/data")})
    if drives:
        return root, [frame for drive in drives for frame in _drive(drive, root)]
    raise DataError(
        f"{shown_file(root)} holds no KITTI data: no velodyne, training/velodyne, testing/velodyne or "
        "velodyne_points/data. Give the folder that holds one of them with --root."
    )


def _benchmark(folder: Path, points: Path) -> Iterator[KittiFrame]:
    sequences = sorted(path for path in points.iterdir() if path.is_dir())
    flat = sorted(points.glob("*.bin"))
    if not flat and not any(True for path in sequences for _ in path.glob("*.bin")):
        raise DataError(f"{shown_file(points)} holds no .bin file. Fetch the point clouds.")
    for file in flat:
        yield _frame(folder, file, _only_sequence(folder), file.stem)
    for sequence in sequences:
        for file in sorted(sequence.glob("*.bin")):
            yield _frame(folder, file, sequence.name, f"{sequence.name}/{file.stem}")


def _only_sequence(folder: Path) -> str:
    """The name of the tracking labels beside scans that lie in no folder of their sequence; empty without any."""
    labels = folder / "label_02"
    found = sorted(labels.glob("*.txt")) if labels.is_dir() else []
    if len(found) > 1:
        raise DataError(
            f"{shown_file(labels)} holds {len(found)} sequences, but the scans of {shown_file(folder / 'velodyne')} "
            "lie in no folder of their sequence. Put them into velodyne/0000, velodyne/0001, …"
        )
    return found[0].stem if found else ""


def _frame(folder: Path, file: Path, sequence: str, token: str) -> KittiFrame:
    calibration = _calibration(folder, sequence, file.stem)
    images = [folder / "image_2" / f"{file.stem}.png", folder / "image_02" / sequence / f"{file.stem}.png"]
    size = next((png_size(image) for image in images if image.is_file()), calibration.image_size)
    return KittiFrame(token, sequence, file, calibration, _objects(folder, sequence, file), size)


def _calibration(folder: Path, sequence: str, stem: str) -> KittiCalibration:
    """Of the frame, else of its sequence, else of the raw data's day."""
    inside = folder / "calib"
    for path in (inside / f"{stem}.txt", *((inside / f"{sequence}.txt",) if sequence else ()), folder / "calib.txt"):
        if path.is_file():
            return _cached(read_calibration, path)
    for place in (inside, folder, folder.parent):
        if (place / _RAW_PAIR).is_file():
            return _cached(read_raw_calibration, place)
    looked = f"calib/{stem}.txt" + (f", calib/{sequence}.txt" if sequence else "")
    raise DataError(
        f"Frame {shown(stem)} of {shown_file(folder)} has no calibration: {looked}, calib.txt and {_RAW_PAIR} are not "
        "there. Labels are in the camera's frame, so it is needed: fetch the calibration files."
    )


@lru_cache(maxsize=64)
def _cached(read: Callable[[Path], KittiCalibration], path: Path) -> KittiCalibration:
    return read(path)


@lru_cache(maxsize=4)
def _sequence_labels(path: Path) -> dict[int, tuple[KittiObject, ...]]:
    """Tracking labels by frame."""
    found: dict[int, list[KittiObject]] = {}
    for item in read_labels(path):
        if item.frame < 0:
            raise DataError(
                f"Label file {shown_file(path)} lies in label_02, but its lines begin with no frame and track: "
                "tracking labels have 17 columns. Labels of single frames lie in label_2."
            )
        found.setdefault(item.frame, []).append(item)
    return {frame: tuple(items) for frame, items in found.items()}


def _objects(folder: Path, sequence: str, file: Path) -> tuple[KittiObject, ...] | None:
    single = folder / "label_2"
    if single.is_dir():
        path = single / f"{file.stem}.txt"
        if not path.is_file():
            raise DataError(
                f"Scan {shown_file(file)} has no labels: {shown_file(path)} is not there. An empty file says that "
                "nothing is to be found; without the folder label_2 no scan has labels."
            )
        return tuple(read_labels(path))
    tracked = folder / "label_02" / f"{sequence}.txt"
    if not sequence or not tracked.is_file():
        return None
    if not file.stem.isdecimal():
        raise DataError(f"Scan {shown_file(file)} must be called by the number of its frame, as 000012.bin.")
    return _sequence_labels(tracked).get(int(file.stem), ())


def _drive(drive: Path, root: Path) -> Iterator[KittiFrame]:
    """A raw drive: `velodyne_points/data` below its folder, calibrations beside the drives of a day."""
    folder = drive.parent
    times = _times(drive / "timestamps.txt")
    files = sorted((drive / "data").glob("*.bin"))
    tracklets = next((place for place in (folder, drive) if (place / _TRACKLETS).is_file()), None)
    if tracklets is not None:
        _logger.warning(
            "%s is not read: the %d frames of this drive get no boxes. They can be run and looked at, but not scored. "
            "To score them, give the tracking benchmark's labels of the drive, or its boxes as JSON "
            "(datasets.create_infos).",
            shown_file(tracklets / _TRACKLETS),
            len(files),
        )
    for index, file in enumerate(files):
        frame = _frame(folder, file, folder.name, f"{folder.relative_to(root).as_posix()}/{file.stem}")
        time = times[index] if len(times) == len(files) else None
        size = folder / "image_02" / "data" / f"{file.stem}.png"
        image = png_size(size) if size.is_file() else frame.image_size
        yield KittiFrame(frame.token, frame.scene, file, frame.calibration, frame.objects, image, time)


def _times(path: Path) -> list[float]:
    """Seconds since 1970 of the lines of `timestamps.txt`; nothing where there is none."""
    if not path.is_file():
        return []
    lines = read_bounded(path, _MAX_TIMES_BYTES, "File of times").decode("ascii", errors="replace").splitlines()
    found = []
    for number, line in enumerate((line.strip() for line in lines if line.strip()), start=1):
        try:
            # Nanoseconds are more than Python's datetime holds.
            time = datetime.datetime.fromisoformat(line[:26]).replace(tzinfo=datetime.UTC)
        except ValueError:
            raise DataError(
                f"{shown_file(path)}, line {number}: {shown(line)} should be a time, as 2011-09-26 13:02:25.594360375."
            ) from None
        found.append(time.timestamp())
    return found
