"""Real and generated scans in one form: z = 0 on the ground, x ahead, intensities 0..255, the vehicle left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.errors import DataError
from base.messages import shown_file
from benchmarks.real_drive_data import CLASS_OF_TYPE, drive_scans, read_scan_npz
from benchmarks.scan_facts import Scan

if TYPE_CHECKING:
    from datasets.infos import Sample

__all__ = ["CLOSE_M", "generated_scans", "real_scans"]

CLOSE_M = 2.5
"""The vehicle itself, and no part of the world: points within this of the LiDAR are left out on both sides."""

_SWEEP_CLOSE_M = 1.0
"""Half a side of the square that loaders leave out of earlier sweeps (mmdet3d's `remove_close`)."""

_NOTHING: tuple[Any, ...] = (np.zeros((0, 7)), (), np.zeros(0, np.int64))


def _spread(count: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist()))


def _without_vehicle(points: NDArray[np.float32]) -> NDArray[np.float32]:
    return points[np.hypot(points[:, 0], points[:, 1]) > CLOSE_M]


def real_scans(source: Path, height_m: float, most: int, turned: bool = False, half: bool = False) -> Iterator[Scan]:
    """Scans of a folder or a file.

    Args:
        source: a folder of `benchmarks.real_drive`, or a file of five numbers a point: x, y, z, intensity, any.
        height_m: of the LiDAR above the ground.
        most: at most so many, spread evenly.
        turned: the file has y ahead and x to the right.
        half: the file's numbers are float16, not float32.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    if source.is_file():
        points = (_half_points(source) if half else _points(source))[:, :4].copy()
        if turned:
            points[:, :2] = np.column_stack([points[:, 1], -points[:, 0]])
        points = _without_vehicle(points)
        points[:, 2] += height_m
        yield Scan(points, height_m, *_NOTHING)
        return
    files, labels = drive_scans(source)
    for index in _spread(len(files), most):
        points = _without_vehicle(read_scan_npz(files[index]))
        points[:, 2] += height_m
        points[:, 3] *= 255.0
        if not labels:
            yield Scan(points, height_m, *_NOTHING)
            continue
        known = [item for item in labels[index].objects if item.type in CLASS_OF_TYPE]
        boxes = np.array([item.box for item in known], float).reshape(-1, 7)
        boxes[:, 2] += height_m
        names = tuple(CLASS_OF_TYPE[item.type] for item in known)
        yield Scan(points, height_m, boxes, names, np.array([item.points for item in known], np.int64))


def _points(path: Path) -> NDArray[np.float32]:
    from datasets.points import read_points

    return read_points(path)


def _half_points(path: Path) -> NDArray[np.float32]:
    from base.reading import read_bounded
    from datasets.points import MAX_POINT_FILE_BYTES

    data = read_bounded(path, MAX_POINT_FILE_BYTES, "Point file")
    if not data or len(data) % 10:
        raise DataError(
            f"Point file {shown_file(path)} has {len(data)} bytes, not a multiple of 10: five float16 a point."
        )
    points: NDArray[np.float32] = np.frombuffer(data, dtype="<f2").reshape(-1, 5).astype(np.float32)
    return points[np.isfinite(points).all(axis=1)]


def generated_scans(root: Path, height_m: float, most: int, sweeps: int = 0) -> Iterator[Scan]:
    """Key frames of a T4 dataset's split val.

    Args:
        sweeps: so many earlier sweeps are joined to each.

    Raises:
        DataError: a frame has fewer, or a file cannot be read.
    """
    from datasets.infos import parse_sample, read_info_file

    info = read_info_file(root / "centerpoint_infos_val.pkl")
    if not info.samples:
        raise DataError(f"{shown_file(info.path)} holds no sample.")
    for index in _spread(len(info.samples), most):
        sample = parse_sample(info.samples[index], info.path, index, len(info.classes()))
        points = _without_vehicle(_joined(root, sample, info.path, index, sweeps))
        known = [item for item in sample.instances if item.bbox_label_3d >= 0]
        boxes = np.array([item.bbox_3d for item in known], float).reshape(-1, 7)
        names = tuple(info.classes()[item.bbox_label_3d] for item in known)
        yield Scan(points, height_m, boxes, names, np.array([item.num_lidar_pts for item in known], np.int64))


def _joined(root: Path, sample: Sample, file: Path, index: int, sweeps: int) -> NDArray[np.float32]:
    from datasets.points import inside

    earlier = sample.lidar_sweeps or ()
    if len(earlier) < sweeps:
        raise DataError(
            f"Sample {index} of {shown_file(file)} lists {len(earlier)} earlier sweeps, {sweeps} are to be joined. "
            f"Generate the dataset with --sweeps {sweeps}."
        )
    clouds = [_points(inside(root, sample.lidar_points.lidar_path, file, ["data_list", index]))]
    for sweep in earlier[:sweeps]:
        points = _points(inside(root, sweep.lidar_points.lidar_path, file, ["data_list", index]))
        points = points[np.abs(points[:, :2]).max(axis=1) >= _SWEEP_CLOSE_M]
        pose = np.asarray(sweep.lidar_points.lidar2sensor)
        points[:, :3] = points[:, :3] @ pose[:3, :3] - pose[:3, 3]  # as mmdet3d's loader
        clouds.append(points)
    return np.concatenate(clouds)
