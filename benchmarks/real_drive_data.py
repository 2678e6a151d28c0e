"""Real scans as `benchmarks.real_drive` gets them (`.npz` and labels), made into a folder that the project reads."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from base.documents import read_json
from base.errors import DataError
from base.files import atomic_dir, write_json
from base.messages import shown_file
from base.parsing import Count, FiniteFloat, NonEmptyStr, Record, RelativePath, Rows
from base.progress import progress
from datasets.create_infos import create_infos

__all__ = [
    "CLASS_OF_TYPE",
    "INFO_FILE",
    "LIDAR_HEIGHT_M",
    "DriveFrame",
    "convert_scans",
    "read_labels",
    "read_scan_npz",
]

LIDAR_HEIGHT_M = 1.73
"""KITTI's LiDAR above the ground (Geiger et al., Vision meets Robotics, 2013)."""

CLASS_OF_TYPE = {"Car": "car", "Van": "car", "Truck": "truck", "Cyclist": "bicycle", "Pedestrian": "pedestrian"}
"""KITTI's types that the demo's classes know; others (Tram, Misc, Person_sitting) are no ground truth."""

INFO_FILE = "centerpoint_infos_val.pkl"
_COLUMNS = "x,y,z,intensity"
_MAX_POINTS = 5_000_000


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
        DataError: it is not such a file.
    """
    frames: list[DriveFrame] = read_json(path, list[DriveFrame])
    return frames


def read_scan_npz(path: Path) -> NDArray[np.float32]:
    """(N, 4) float32 x, y, z (metres, sensor frame) and reflectance 0..1 of a file of `xyz_mm` and `intensity_percent`.

    Raises:
        DataError: it is not such a file.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            xyz, intensity = stored["xyz_mm"], stored["intensity_percent"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{shown_file(path)} is no scan of arrays 'xyz_mm' and 'intensity_percent': {error}") from error
    if xyz.ndim != 2 or xyz.shape[1] != 3 or intensity.shape != xyz.shape[:1] or len(xyz) > _MAX_POINTS:
        raise DataError(
            f"{shown_file(path)} has xyz_mm {xyz.shape} and intensity_percent {intensity.shape}; it must be (N, 3) and "
            f"(N,), N at most {_MAX_POINTS}."
        )
    points = np.empty((len(xyz), 4), np.float32)
    points[:, :3] = xyz / 1000.0
    points[:, 3] = intensity / 100.0
    return points


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
    labels = source / "labels.json"
    has_boxes = labels.is_file()
    frames = read_labels(labels) if has_boxes else []
    files = [frame.lidar for frame in frames] or sorted(path.name for path in source.glob("*.npz"))
    if not files:
        raise DataError(f"{shown_file(source)} has neither labels.json nor .npz files.")
    rows = []
    with atomic_dir(out / "scans") as folder:
        for index, file in enumerate(progress(files, "converting scans", unit="scan")):
            (folder / f"{index:06d}.bin").write_bytes(read_scan_npz(source / file).tobytes())
            number = frames[index].frame if has_boxes else index
            row: dict[str, object] = {"file": f"scans/{index:06d}.bin", "token": f"{stem}-{number:06d}", "scene": stem}
            if has_boxes:
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
