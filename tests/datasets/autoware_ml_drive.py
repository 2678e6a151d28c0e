"""A few frames as autoware-ml's info files have them: nuScenes with `sweeps`, T4 with poses of vehicle and sensor."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUSCENES_CLASSES = ("car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian")
RANGE = (-20.0, -20.0, -3.0, 20.0, 20.0, 5.0)
LOG = "n015-2018-07-24-11-22-45+0800"


def cloud(seed: int) -> NDArray[np.float32]:
    """(60, 5) float32, some of them close to the sensor: inside a circle of 1 m, and between it and the square."""
    generator = np.random.default_rng(seed)
    reach = np.where(generator.random((60, 1)) < 0.3, 1.2, 25.0)
    xy = generator.uniform(-1, 1, (60, 2)) * reach
    rest = [generator.uniform(-2, 4, 60), generator.uniform(0, 255, 60), generator.integers(0, 32, 60)]
    return np.column_stack([xy, *rest]).astype(np.float32)


def pose(seed: int) -> NDArray[np.float64]:
    """(4, 4) of a turn about z and a shift."""
    generator = np.random.default_rng(1000 + seed)
    angle = generator.uniform(-0.5, 0.5)
    out = np.eye(4)
    out[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    out[:3, 3] = generator.normal(size=3)
    return out


def _instance(label: int, **more: Any) -> dict[str, Any]:
    box = [float(label), 2.0, 0.5, 4.0, 2.0, 1.5, 0.3]
    points = {"bbox_3d_isvalid": True, "num_lidar_pts": 9, "num_radar_pts": 0, "velocity": [1.0, 0.0]}
    return {"bbox_label": label, "bbox_label_3d": label, "bbox_3d": box, **points, **more}


def nuscenes_sample(index: int, sweeps: int) -> dict[str, Any]:
    """A key frame of `index`, with earlier sweeps, the latest first."""
    stamp = 2_000_000 + 500_000 * index
    name = "{}/LIDAR_TOP/" + LOG + "__LIDAR_TOP__{}.pcd.bin"
    return {
        "sample_idx": index,
        "token": f"token{index}",
        "timestamp": stamp / 1e6,
        "ego2global": np.eye(4).tolist(),
        "images": {},
        "lidar_points": {
            "num_pts_feats": 5,
            "lidar_path": name.format("samples", stamp),
            "lidar2ego": np.eye(4).tolist(),
        },
        "instances": [_instance(label) for label in range(len(NUSCENES_CLASSES))],
        "sweeps": [
            {
                "lidar_path": name.format("sweeps", stamp - 50_000 * (number + 1)),
                "sample_data_token": f"{index}{number}",
                "sensor2lidar_rotation": pose(10 * index + number)[:3, :3].astype(np.float32),
                "sensor2lidar_translation": pose(10 * index + number)[:3, 3].astype(np.float32),
                "timestamp": (stamp - 50_000 * (number + 1)) / 1e6,
            }
            for number in range(sweeps)
        ],
        "scene_token": "scene",
    }


def t4_sample(index: int, sweeps: int) -> dict[str, Any]:
    """The same of a T4 dataset, without `lidar2sensor`; categories as the annotators gave them."""
    stamp = 1000.0 + 0.5 * index
    names = ("vehicle.car", "motorcycle", "trailer", "pedestrian.adult")
    return {
        "sample_idx": index,
        "token": f"token{index}",
        "timestamp": stamp,
        "scene_token": "scene",
        "ego2global": pose(500 + index).tolist(),
        "images": {},
        "lidar_points": {"num_pts_feats": 5, "lidar_path": f"lidar/{index}.bin", "lidar2ego": pose(900).tolist()},
        "instances": [_instance(label, gt_nusc_name=name) for label, name in enumerate(names)],
        "lidar_sweeps": [
            {
                "timestamp": stamp - 0.1 * (number + 1),
                "ego2global": pose(600 + 10 * index + number).tolist(),
                "lidar_points": {"lidar_path": f"lidar/{index}_{number}.bin", "lidar2ego": pose(900).tolist()},
            }
            for number in range(sweeps)
        ],
    }


def write(root: Path, file: str, samples: list[dict[str, Any]], classes: tuple[str, ...]) -> None:
    """The info file, and the clouds that it names, numbered in their order."""
    paths = []
    for sample in samples:
        paths.append(sample["lidar_points"]["lidar_path"])
        paths += [sweep["lidar_path"] for sweep in sample.get("sweeps", ())]
        paths += [sweep["lidar_points"]["lidar_path"] for sweep in sample.get("lidar_sweeps", ())]
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cloud(number).tofile(root / path)
    metainfo = {"categories": {name: index for index, name in enumerate(classes)}}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(pickle.dumps({"metainfo": metainfo, "data_list": samples}))


DRIVES: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "nuscenes": ([nuscenes_sample(0, 0), nuscenes_sample(1, 2), nuscenes_sample(2, 4)], NUSCENES_CLASSES),
    "t4": ([t4_sample(0, 0), t4_sample(1, 1), t4_sample(2, 3)], ("car", "bicycle", "truck", "pedestrian")),
}
"""Samples with no sweeps, with as many as are taken or fewer, and with more; two are taken."""
