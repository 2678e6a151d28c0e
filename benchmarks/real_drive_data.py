"""Real scans as `benchmarks.real_drive` gets them (`.npz` and labels), made into a folder that the project reads."""

from __future__ import annotations

import difflib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from base.documents import read_json
from base.errors import DataError
from base.files import atomic_dir, write_json
from base.messages import shown_file
from base.natural_order import natural_order
from base.parsing import Count, FiniteFloat, NonEmptyStr, Record, RelativePath, Rows, misfit
from base.progress import progress
from datasets.create_infos import create_infos

__all__ = [
    "CLASS_OF_TYPE",
    "INFO_FILE",
    "LIDAR_HEIGHT_M",
    "TRAIN_INFO_FILE",
    "DriveFrame",
    "convert_scans",
    "drive_scans",
    "read_labels",
    "read_scan_npz",
    "scans_sha256",
]

LIDAR_HEIGHT_M = 1.73
"""KITTI's LiDAR above the ground (Geiger et al., Vision meets Robotics, 2013)."""

CLASS_OF_TYPE = {"Car": "car", "Van": "car", "Truck": "truck", "Cyclist": "bicycle", "Pedestrian": "pedestrian"}
"""KITTI's types that the demo's classes know."""

_OTHER_TYPES = ("Tram", "Misc", "Person_sitting", "DontCare")  # KITTI's, and no ground truth

INFO_FILE = "centerpoint_infos_val.pkl"
TRAIN_INFO_FILE = "centerpoint_infos_train.pkl"
_COLUMNS = "x,y,z,intensity"
_MAX_POINTS = 5_000_000
_MAX_ARRAY_BYTES = 3 * 8 * _MAX_POINTS + 4096


class DriveObject(Record):
    """An object as KITTI labels it, in the sensor's frame."""

    track: Count
    type: NonEmptyStr
    box: Annotated[list[FiniteFloat], Field(min_length=7, max_length=7)]
    truncated: FiniteFloat
    occluded: int
    points: Count


class DriveFrame(Record):
    """A scan and its objects."""

    frame: Count
    lidar: Annotated[RelativePath, Field(max_length=4096)]
    objects: Rows[DriveObject]


def read_labels(path: Path) -> list[DriveFrame]:
    """Frames of a `labels.json`.

    Raises:
        DataError: it is not such a file, names no frame, a frame or a scan twice, a type that KITTI does not have, or a
            box without size.
    """
    frames: list[DriveFrame] = read_json(path, list[DriveFrame])
    if not frames:
        raise misfit(path, (), [], "must name at least one frame")
    first: dict[tuple[str, object], int] = {}
    for index, frame in enumerate(frames):
        for key, value in (("frame", frame.frame), ("lidar", frame.lidar)):
            other = first.setdefault((key, value), index)
            if other != index:
                raise misfit(path, [index, key], value, f"must not be that of [{other}] too")
        for number, item in enumerate(frame.objects):
            _check_object(path, [index, "objects", number], item)
    return frames


def _check_object(path: Path, at: list[str | int], item: DriveObject) -> None:
    known = (*CLASS_OF_TYPE, *_OTHER_TYPES)
    if item.type not in known:
        near = {name.lower(): name for name in known}
        guess = difflib.get_close_matches(item.type.lower(), near, 1)
        remedy = f"Do you mean '{near[guess[0]]}'?" if guess else ""
        raise misfit(path, [*at, "type"], item.type, f"must be one of {', '.join(known)}", remedy=remedy)
    if item.type not in CLASS_OF_TYPE:
        return
    for place in range(3, 6):
        if not item.box[place] > 0.0:
            raise misfit(path, [*at, "box", place], item.box[place], "must be a size above 0")


def read_scan_npz(path: Path) -> NDArray[np.float32]:
    """(N, 4) float32 x, y, z (metres, sensor frame) and reflectance 0..1 of a file of `xyz_mm` and `intensity_percent`.

    Raises:
        DataError: it is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as stored:
            xyz, intensity = (_array(stored, name) for name in ("xyz_mm", "intensity_percent"))
    except FileNotFoundError as error:
        raise DataError(f"Scan {shown_file(path)} does not exist.") from error
    except (
        *(OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DataError(f"{shown_file(path)} is no scan of arrays 'xyz_mm' and 'intensity_percent': {error}") from error
    if xyz.ndim != 2 or xyz.shape[1] != 3 or intensity.shape != xyz.shape[:1] or len(xyz) > _MAX_POINTS:
        raise DataError(
            f"{shown_file(path)} has xyz_mm {xyz.shape} and intensity_percent {intensity.shape}; it must be (N, 3) and "
            f"(N,), N at most {_MAX_POINTS}."
        )
    for name, array in (("xyz_mm", xyz), ("intensity_percent", intensity)):
        if array.dtype.kind not in "iuf":
            raise DataError(f"{shown_file(path)} has {name} of type {array.dtype}; it must hold numbers.")
    if len(intensity) and not (intensity.min() >= 0 and intensity.max() <= 100):
        raise DataError(
            f"{shown_file(path)} has intensity_percent from {intensity.min():g} to {intensity.max():g}; it is the "
            "reflectance times 100, 0 to 100."
        )
    points = np.empty((len(xyz), 4), np.float32)
    points[:, :3] = xyz / 1000.0
    points[:, 3] = intensity / 100.0
    return points


def _array(stored: zipfile.ZipFile, name: str) -> NDArray[Any]:
    entry = stored.getinfo(f"{name}.npy")
    if entry.file_size > _MAX_ARRAY_BYTES:
        raise ValueError(f"'{name}' has {entry.file_size} bytes; {_MAX_ARRAY_BYTES} are the most")
    array: NDArray[Any] = np.load(io.BytesIO(stored.read(entry)), allow_pickle=False)
    return array


def drive_scans(source: Path) -> tuple[list[Path], list[DriveFrame]]:
    """The scans of a folder in their order, all there, and their labels: none of a folder without `labels.json`.

    Raises:
        DataError: the folder or a scan does not exist, there is none, or the labels are wrong.
    """
    if not source.is_dir():
        raise DataError(f"Folder {shown_file(source)} does not exist.")
    labels = source / "labels.json"
    if not labels.is_file():
        scans = [source / name for name in sorted((path.name for path in source.glob("*.npz")), key=natural_order)]
        if not scans:
            raise DataError(f"{shown_file(source)} has neither labels.json nor .npz files.")
        return scans, []
    frames = read_labels(labels)
    for index, frame in enumerate(frames):
        if not (source / frame.lidar).is_file():
            raise misfit(labels, [index, "lidar"], frame.lidar, "no such file is there")
    return [source / frame.lidar for frame in frames], frames


def scans_sha256(source: Path) -> str:
    """Of what a folder of `convert_scans` holds: its labels, and the names and sizes of its scans."""
    scans, frames = drive_scans(source)
    digest = hashlib.sha256((source / "labels.json").read_bytes() if frames else b"")
    for path in scans:
        digest.update(f"\n{path.relative_to(source)} {path.stat().st_size}".encode())
    return digest.hexdigest()


def convert_scans(source: Path, out: Path, classes: Sequence[str], stem: str = "drive") -> Path:
    """Makes the folder: `.bin` files and an info file that lifts z to the ground and scales reflectance to 0..255.

    Args:
        source: A folder with `labels.json`, which names the scans, or with `.npz` files alone: scans without boxes.
        out: To be made; the scans of one that this made before are replaced.
        classes: The model's.
        stem: Name of the scene.

    Raises:
        DataError: files are missing or broken.
    """
    scans, frames = drive_scans(source)
    rows = []
    with atomic_dir(out / "scans") as folder:
        for index, file in enumerate(progress(scans, "converting scans", unit="scan")):
            (folder / f"{index:06d}.bin").write_bytes(read_scan_npz(file).tobytes())
            number = frames[index].frame if frames else index
            row: dict[str, object] = {"file": f"scans/{index:06d}.bin", "token": f"{stem}-{number:06d}", "scene": stem}
            if frames:
                row["boxes"] = list(_boxes(frames[index], classes))
            rows.append(row)
    write_json(out / "boxes.json", {"classes": list(classes), "frames": rows})
    options = ["--lidar-height", str(LIDAR_HEIGHT_M), "--intensity-scale", "255"]
    create_infos(["--root", str(out), "--labels", str(out / "boxes.json"), "--columns", _COLUMNS, *options])
    return out


def _boxes(frame: DriveFrame, classes: Sequence[str]) -> Iterator[dict[str, object]]:
    for item in frame.objects:
        name = CLASS_OF_TYPE.get(item.type)
        if name in classes:
            keys = ("x", "y", "z", "l", "w", "h", "yaw")
            yield {"label": name, **dict(zip(keys, item.box, strict=True)), "num_points": item.points}
