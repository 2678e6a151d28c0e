"""Small folders in each shape that KITTI data comes in, of the same two scans and objects."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RECT = np.array([[0.99998, 0.0049, -0.004], [-0.0049, 0.999985, -0.0021], [0.004, 0.0021, 0.99999]])
VELO_TURN = np.array([[0.0075, -0.99997, -0.0006], [0.0148, 0.0007, -0.99989], [0.99986, 0.0075, 0.0148]])
VELO_SHIFT = np.array([-0.004, -0.0763, -0.2718])
P2 = np.array([[721.5, 0, 609.6, 44.86], [0, 721.5, 172.9, 0.2164], [0, 0, 1, 0.0027]])
SIZE = (1242, 375)
# Type, truncated, occluded, alpha, 2D box, height, width, length, x, y, z, rotation_y.
OBJECTS = (
    ("Car 0.00 0 -1.57 600 150 700 210 1.53 1.63 3.88 1.65 1.71 13.2 -1.58",),
    (
        "Pedestrian 0.10 1 0.3 300 160 320 230 1.75 0.61 0.9 -4.2 1.69 17.0 0.42",
        "Tram 0.60 3 0.3 10 20 80 200 3.4 2.3 14.4 -9.0 2.1 31.0 3.1",
        "Person 0.00 0 2 300 160 320 230 1.2 0.5 0.7 2.2 1.6 11.0 2.9",
        "DontCare -1 -1 -10 503.9 169.7 590.6 190.1 -1 -1 -1 -1000 -1000 -1000 -10",
    ),
)
# The benchmark's matrices are rotations to few digits.
RECT, VELO_TURN = (np.linalg.svd(m)[0] @ np.linalg.svd(m)[2] for m in (RECT, VELO_TURN))


def lidar_to_camera() -> Array:
    rect, velo = np.eye(4), np.eye(4)
    rect[:3, :3], velo[:3, :3], velo[:3, 3] = RECT, VELO_TURN, VELO_SHIFT
    return np.asarray(rect @ velo)


def scan(index: int) -> NDArray[np.float32]:
    """A full turn of ground and a wall, 1.73 m below the sensor, and a few points in each object."""
    rng = np.random.default_rng(index)
    angle, distance = rng.uniform(-math.pi, math.pi, 3000), rng.uniform(3, 60, 3000)
    ground = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), rng.normal(-1.73, 0.02, 3000)])
    wall = np.column_stack([rng.uniform(5, 50, 800), np.full(800, 8.0), rng.uniform(-1.7, 2, 800)])
    parts = [ground, wall]
    inverse = np.linalg.inv(lidar_to_camera())
    for line in OBJECTS[index]:
        words = line.split()
        if words[0] != "DontCare":
            bottom = np.array([*map(float, words[11:14])])
            bottom[1] -= float(words[8]) / 2
            middle = inverse[:3, :3] @ bottom + inverse[:3, 3]
            parts.append(middle + rng.uniform(-0.2, 0.2, (20 + index, 3)))
    xyz = np.concatenate(parts)
    return np.column_stack([xyz, rng.uniform(0, 1, len(xyz))]).astype("<f4")


def _line(name: str, values: Any) -> str:
    return f"{name} {' '.join(f'{value:.12e}' for value in np.asarray(values).ravel())}\n"


def _matrices() -> str:
    return "".join(_line(f"P{index}:", P2) for index in range(4))


def _velo() -> Array:
    return np.column_stack([VELO_TURN, VELO_SHIFT])


def write_png(path: Path, size: tuple[int, int] = SIZE) -> None:
    """Its first bytes alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", *size) + bytes(9))


def write_object(root: Path, *, labels: bool = True) -> Path:
    """The object benchmark's `training`."""
    folder = root / "training"
    for name in ("velodyne", "calib", *(("label_2",) if labels else ())):
        (folder / name).mkdir(parents=True)
    for index in range(len(OBJECTS)):
        stem = f"{index + 7:06d}"
        scan(index).tofile(folder / "velodyne" / f"{stem}.bin")
        text = _matrices() + _line("R0_rect:", RECT) + _line("Tr_velo_to_cam:", _velo())
        (folder / "calib" / f"{stem}.txt").write_text(text + _line("Tr_imu_to_velo:", np.eye(4)[:3]) + "\n")
        if labels:
            (folder / "label_2" / f"{stem}.txt").write_text("\n".join(OBJECTS[index]) + "\n")
        write_png(folder / "image_2" / f"{stem}.png")
    return root


def _tracking_labels() -> str:
    rows = [f"{frame} {number} {line}" for frame, lines in enumerate(OBJECTS) for number, line in enumerate(lines)]
    return "\n".join(rows) + "\n"


def write_tracking(root: Path) -> Path:
    """The tracking benchmark's `training`, with one sequence."""
    folder = root / "training"
    for name in ("velodyne/0003", "calib", "label_02"):
        (folder / name).mkdir(parents=True)
    for index in range(len(OBJECTS)):
        scan(index).tofile(folder / "velodyne/0003" / f"{index:06d}.bin")
        write_png(folder / "image_02/0003" / f"{index:06d}.png")
    text = _matrices() + _line("R_rect", RECT) + _line("Tr_velo_cam", _velo()) + _line("Tr_imu_velo", np.eye(4)[:3])
    (folder / "calib/0003.txt").write_text(text)
    (folder / "label_02/0003.txt").write_text(_tracking_labels())
    return root


def write_sequence(root: Path) -> Path:
    """Scans and tracking labels of one sequence, calibrated as the raw data is."""
    for name in ("velodyne", "label_02"):
        (root / name).mkdir(parents=True)
    for index in range(len(OBJECTS)):
        scan(index).tofile(root / "velodyne" / f"{index:06d}.bin")
    (root / "label_02/0003.txt").write_text(_tracking_labels())
    write_raw_calibration(root)
    return root


def write_raw_calibration(folder: Path) -> None:
    """`calib_cam_to_cam.txt` and `calib_velo_to_cam.txt`."""
    cam = "calib_time: 09-Jan-2012 13:57:47\n" + _line("S_rect_02:", SIZE)
    cam += _line("R_rect_00:", RECT) + _line("P_rect_02:", P2)
    (folder / "calib_cam_to_cam.txt").write_text(cam)
    velo = "calib_time: 15-Mar-2012 11:37:16\n" + _line("R:", VELO_TURN) + _line("T:", VELO_SHIFT)
    (folder / "calib_velo_to_cam.txt").write_text(velo)


def write_raw(root: Path) -> Path:
    """A raw drive, without labels."""
    day = root / "2011_09_26"
    points = day / "2011_09_26_drive_0001_sync" / "velodyne_points"
    (points / "data").mkdir(parents=True)
    for index in range(len(OBJECTS)):
        scan(index).tofile(points / "data" / f"{index:010d}.bin")
    (points / "timestamps.txt").write_text("2011-09-26 13:02:25.594360375\n2011-09-26 13:02:25.697999001\n")
    write_raw_calibration(day)
    return root
