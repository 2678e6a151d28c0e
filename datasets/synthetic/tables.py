"""Raw T4 datasets of generated scenes: the tables and point files from which info files are usually made."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.files import write_json

__all__ = ["CHANNEL", "SPLITS_FILE", "TABLES", "quaternion", "write_splits", "write_tables"]

TABLES = "t4"
CHANNEL = "LIDAR_CONCAT"
SPLITS_FILE = "splits.json"
_PLACE = "synthetic"
_VERSION = "0"

Array = NDArray[np.float64]
# A revolution: timestamp (s), path below the root, pose (4, 4), token.
Cloud = Mapping[str, Any]


def write_tables(
    root: Path, infos: Sequence[dict[str, Any]], tracks: Sequence[Sequence[int]], clouds: Sequence[Cloud]
) -> None:
    """Writes one scene as `<root>/t4/<scene>/0/{annotation,data}`.

    Boxes and velocities go into the map frame; point files are hard links to those of the info files where the file
    system has them.

    Args:
        root: Folder of the generated dataset.
        infos: The scene's key frames, as in an info file.
        tracks: For every key frame, the object that each of its instances is.
        clouds: All revolutions of the scene, in order of time.
    """
    first = infos[0]
    name = first["scene_name"]
    folder = root / TABLES / name / _VERSION
    points = folder / "data" / CHANNEL
    points.mkdir(parents=True)
    key_of = {info["timestamp"]: info["token"] for info in infos}
    sensor, calibrated, log = (_token(name, part) for part in ("sensor", "calibrated_sensor", "log"))
    data, poses = [], []
    for index, cloud in enumerate(clouds):
        file = points / f"{index:05d}.pcd.bin"
        _link(root / cloud["path"], file)
        pose = _token(cloud["token"], "ego_pose")
        poses.append({"token": pose, "timestamp": _microseconds(cloud["timestamp"]), **_pose(cloud["pose"])})
        after = _nearest_key(cloud["timestamp"], sorted(key_of))
        data.append(
            {
                "token": cloud["token"],
                "sample_token": key_of[after],
                "ego_pose_token": pose,
                "calibrated_sensor_token": calibrated,
                "filename": file.relative_to(folder).as_posix(),
                "fileformat": "pcd.bin",
                "width": 0,
                "height": 0,
                "timestamp": _microseconds(cloud["timestamp"]),
                "is_key_frame": cloud["timestamp"] in key_of,
                "is_valid": True,
                "prev": clouds[index - 1]["token"] if index else "",
                "next": clouds[index + 1]["token"] if index + 1 < len(clouds) else "",
            }
        )
    annotations, instances, attributes = _annotations(name, infos, tracks)
    samples = [
        {
            "token": info["token"],
            "timestamp": _microseconds(info["timestamp"]),
            "scene_token": info["scene_token"],
            "prev": infos[i - 1]["token"] if i else "",
            "next": infos[i + 1]["token"] if i + 1 < len(infos) else "",
        }
        for i, info in enumerate(infos)
    ]
    names = sorted({item["gt_nusc_name"] for info in infos for item in info["instances"]})
    identity = {"translation": [0.0, 0.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0], "camera_intrinsic": []}
    scene = {
        "token": first["scene_token"],
        "name": name,
        "description": "",
        "log_token": log,
        "nbr_samples": len(infos),
        "first_sample_token": samples[0]["token"],
        "last_sample_token": samples[-1]["token"],
    }
    tables: dict[str, list[dict[str, Any]]] = {
        "attribute": [{"token": _token("attribute", item), "name": item, "description": ""} for item in attributes],
        "calibrated_sensor": [{"token": calibrated, "sensor_token": sensor, **identity}],
        "category": [
            {"token": _token("category", item), "name": item, "description": "", "index": i}
            for i, item in enumerate(names)
        ],
        "ego_pose": poses,
        "instance": instances,
        "log": [{"token": log, "logfile": "", "vehicle": _PLACE, "date_captured": "", "location": _PLACE}],
        "sample": samples,
        "sample_annotation": annotations,
        "sample_data": data,
        "scene": [scene],
        "sensor": [{"token": sensor, "channel": CHANNEL, "modality": "lidar"}],
    }
    for table, rows in tables.items():
        write_json(folder / "annotation" / f"{table}.json", rows)


def write_splits(root: Path, scenes: Mapping[str, Sequence[str]]) -> None:
    """Writes which scenes belong to which split, as `<root>/t4/splits.json`."""
    listed = {split: [f"{name}/{_VERSION}/{_PLACE}/{_PLACE}" for name in names] for split, names in scenes.items()}
    write_json(root / TABLES / SPLITS_FILE, listed)


def quaternion(rotation: Array) -> list[float]:
    """(w, x, y, z) of a rotation matrix (3, 3), w not negative.

    The largest of the four is taken from the diagonal, so that no small number is divided by.
    """
    trace = float(np.trace(rotation))
    squares = np.array([trace, *(2 * np.diag(rotation) - trace)]) + 1.0
    largest = int(squares.argmax())
    q = np.empty(4)
    q[largest] = math.sqrt(squares[largest]) / 2
    scale = 4 * q[largest]
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        difference = rotation[k, j] - rotation[j, k]
        if largest == 0:
            q[i + 1] = difference / scale
        elif largest == i + 1:
            q[0] = difference / scale
            q[j + 1], q[k + 1] = (rotation[j, i] + rotation[i, j]) / scale, (rotation[k, i] + rotation[i, k]) / scale
    return [float(v) for v in (q if q[0] >= 0 else -q)]


def _annotations(
    name: str, infos: Sequence[dict[str, Any]], tracks: Sequence[Sequence[int]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    by_track: dict[int, list[dict[str, Any]]] = {}
    names: dict[int, str] = {}
    attributes: set[str] = set()
    for info, ids in zip(infos, tracks, strict=True):
        ego = np.array(info["ego2global"])
        for item, track in zip(info["instances"], ids, strict=True):
            x, y, z, length, width, height, yaw = item["bbox_3d"]
            turn = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
            row = {
                "token": _token(name, info["token"], track),
                "sample_token": info["token"],
                "instance_token": _token(name, "instance", track),
                "attribute_tokens": [_token("attribute", attribute) for attribute in item["gt_attrs"]],
                "visibility_token": "",
                "translation": (ego[:3, :3] @ [x, y, z] + ego[:3, 3]).tolist(),
                "size": [width, length, height],
                "rotation": quaternion(ego[:3, :3] @ turn),
                "velocity": (ego[:3, :3] @ [*item["velocity"], 0.0]).tolist(),
                "num_lidar_pts": item["num_lidar_pts"],
                "num_radar_pts": item["num_radar_pts"],
                "prev": "",
                "next": "",
            }
            attributes.update(item["gt_attrs"])
            earlier = by_track.setdefault(track, [])
            if earlier:
                earlier[-1]["next"], row["prev"] = row["token"], earlier[-1]["token"]
            earlier.append(row)
            names[track] = item["gt_nusc_name"]
            rows.append(row)
    instances = [
        {
            "token": items[0]["instance_token"],
            "category_token": _token("category", names[track]),
            "nbr_annotations": len(items),
            "first_annotation_token": items[0]["token"],
            "last_annotation_token": items[-1]["token"],
        }
        for track, items in sorted(by_track.items())
    ]
    return rows, instances, sorted(attributes)


def _pose(pose: Array) -> dict[str, list[float]]:
    return {"translation": pose[:3, 3].tolist(), "rotation": quaternion(pose[:3, :3])}


def _nearest_key(timestamp: float, keys: Sequence[float]) -> float:
    """A revolution belongs to the key frame that follows it."""
    return next((key for key in keys if key >= timestamp), keys[-1])


def _microseconds(timestamp: float) -> int:
    return round(timestamp * 1e6)


def _token(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, ("t4", *parts))).encode()).hexdigest()[:32]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
