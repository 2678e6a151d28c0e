"""Datasets and scans in which everything is right, small enough to be written by hand."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")
_RANGE_M = 4.5


def cloud(seed: int, count: int = 300) -> NDArray[np.float32]:
    """(count, 5) float32 within the tiny model's range, in clusters."""
    generator = np.random.default_rng(seed)
    centers = generator.uniform(-_RANGE_M, _RANGE_M, (30, 2))
    points = np.zeros((count, 5), np.float32)
    points[:, :2] = centers[generator.integers(0, len(centers), count)] + generator.normal(0, 0.15, (count, 2))
    points[:, 2] = generator.uniform(-2, 2, count)
    points[:, 3] = generator.uniform(0, 255, count)
    return points


def _pose() -> list[list[float]]:
    pose: list[list[float]] = np.eye(4).tolist()
    return pose


def _instance(label: int) -> dict[str, Any]:
    return {
        "bbox_3d": [label - 2.0, 1.0, 0.0, 4.0, 1.8, 1.5, 0.3],
        "bbox_label": label,
        "bbox_label_3d": label,
        "velocity": [1.0, 0.0],
        "num_lidar_pts": 20,
        "num_radar_pts": 0,
        "bbox_3d_isvalid": True,
    }


def t4_dataset(folder: Path) -> None:
    """Two frames, the second with a sweep."""
    (folder / "lidar").mkdir(parents=True)
    samples = []
    for index in range(2):
        name = f"lidar/{index:05d}.bin"
        cloud(index).astype("<f4").tofile(folder / name)
        points = {"num_pts_feats": 5, "lidar_path": name, "lidar2ego": _pose()}
        sweep = {
            "timestamp": 1000.0 - 0.1,
            "sample_data_token": "sweep",
            "ego2global": _pose(),
            "lidar_points": {**points, "lidar_path": "lidar/00000.bin", "lidar2sensor": _pose()},
        }
        samples.append(
            {
                "sample_idx": index,
                "token": f"frame-{index}",
                "timestamp": 1000.0 + 0.1 * index,
                "scene_name": "tiny",
                "ego2global": _pose(),
                "lidar_points": points,
                "lidar_sweeps": [sweep] * index,
                "images": {},
                "instances": [_instance(label) for label in range(len(CLASSES))],
            }
        )
    info = {"data_list": samples, "metainfo": {"classes": list(CLASSES), "version": "tiny"}}
    (folder / "centerpoint_infos_val.pkl").write_bytes(pickle.dumps(info, protocol=4))


def nuscenes_dataset(folder: Path) -> None:
    """The same in nuScenes' form: categories with labels, points below `samples/LIDAR_TOP`."""
    t4_dataset(folder)
    file = folder / "centerpoint_infos_val.pkl"
    info = pickle.loads(file.read_bytes())
    info["metainfo"] = {"categories": {name: label for label, name in enumerate(CLASSES)}, "version": "tiny"}
    samples = folder / "samples" / "LIDAR_TOP"
    samples.mkdir(parents=True)
    for index, row in enumerate(info["data_list"]):
        shutil.copy(folder / "lidar" / f"{index:05d}.bin", samples / f"log__{index}.bin")
        row["lidar_points"] = {"num_pts_feats": 5, "lidar_path": f"log__{index}.bin", "lidar2ego": _pose()}
        row["lidar_sweeps"] = []
        row["cam_instances"] = {}
    file.write_bytes(pickle.dumps(info, protocol=4))


def _stamp(index: int) -> int:
    """Microseconds."""
    return 1_000_000 + 100_000 * index


def _links(prefix: str, index: int) -> dict[str, str]:
    """Token, and those of the neighbours among two records."""
    return {"token": f"{prefix}{index}", "prev": f"{prefix}0" if index else "", "next": "" if index else f"{prefix}1"}


def t4_tables(folder: Path) -> None:
    """A raw T4 dataset `db/0` with two key frames and two objects, and files of splits and classes."""
    db = folder / "db" / "0"
    (db / "annotation").mkdir(parents=True)
    (db / "data" / "LIDAR_CONCAT").mkdir(parents=True)
    turn, here = [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for index in range(2):
        cloud(index).astype("<f4").tofile(db / "data" / "LIDAR_CONCAT" / f"{index:05d}.pcd.bin")
    tables: dict[str, list[dict[str, Any]]] = {
        "attribute": [{"token": "at", "name": "vehicle_state.driving", "description": ""}],
        "calibrated_sensor": [{"token": "cs", "sensor_token": "se", "translation": here, "rotation": turn}],
        "category": [{"token": "ca", "name": "car"}, {"token": "pe", "name": "pedestrian"}],
        "ego_pose": [
            {"token": f"eg{i}", "translation": [float(i), 0.0, 0.0], "rotation": turn, "timestamp": _stamp(i)}
            for i in range(2)
        ],
        "instance": [{"token": "in0", "category_token": "ca"}, {"token": "in1", "category_token": "pe"}],
        "log": [{"token": "lo", "logfile": "", "vehicle": "v", "data_captured": "", "location": "here"}],
        "sample": [{"timestamp": _stamp(i), "scene_token": "sc", **_links("sa", i)} for i in range(2)],
        "sample_annotation": [
            {
                "sample_token": f"sa{i}",
                "instance_token": f"in{k}",
                "attribute_tokens": ["at"],
                "translation": [3.0 + k, 1.0, 0.5],
                "size": [1.8, 4.0, 1.5],
                "rotation": turn,
                "velocity": [1.0, 0.0, 0.0],
                "num_lidar_pts": 9,
                "num_radar_pts": 0,
                **_links(f"an{k}", i),
            }
            for i in range(2)
            for k in range(2)
        ],
        "sample_data": [
            {
                "sample_token": f"sa{i}",
                "ego_pose_token": f"eg{i}",
                "calibrated_sensor_token": "cs",
                "filename": f"data/LIDAR_CONCAT/{i:05d}.pcd.bin",
                "fileformat": "pcd.bin",
                "timestamp": _stamp(i),
                "is_key_frame": True,
                "is_valid": True,
                **_links("sd", i),
            }
            for i in range(2)
        ],
        "scene": [{"token": "sc", "name": "scene", "description": "", "log_token": "lo", "nbr_samples": 2}],
        "sensor": [{"token": "se", "channel": "LIDAR_CONCAT", "modality": "lidar"}],
    }
    for name, rows in tables.items():
        (db / "annotation" / f"{name}.json").write_text(json.dumps(rows))
    (folder / "splits.json").write_text(json.dumps({"train": ["db/0"], "val": ["db/0/city/car"]}))
    (folder / "splits.yaml").write_text("train:\n  - db/0\nval: [db/0/city/car]\n")
    rules = {
        "classes": ["car", "truck", "pedestrian"],
        "name_mapping": {"car": "car", "pedestrian": "pedestrian"},
        "filter_attributes": [["car", "vehicle_state.parked"]],
        "merge_objects": [["truck", ["truck", "trailer"]]],
        "merge_type": "union",
    }
    (folder / "classes.json").write_text(json.dumps(rules))


def kitti(folder: Path) -> None:
    """An info file of a frame, and a file of labels and one of a calibration."""
    camera = {"lidar2cam": _pose(), "cam2img": _pose(), "width": 1242, "height": 375}
    labelled = {
        "bbox_3d": [1.6, 1.7, 13.2, 3.9, 1.5, 1.6, -1.6],
        "bbox_label_3d": 1,
        "num_lidar_pts": 20,
        "kitti_type": "Car",
    }
    region = {"bbox_3d": [-1000.0] * 3 + [-1.0] * 3 + [-10.0], "bbox_label_3d": -1, "num_lidar_pts": -1}
    sample = {
        "sample_idx": 7,
        "images": {"CAM2": camera},
        "lidar_points": {"num_pts_feats": 4, "lidar_path": "000007.bin"},
        "instances": [labelled, region],
    }
    metainfo = {"categories": {"Pedestrian": 0, "Car": 1, "DontCare": -1}, "dataset": "kitti", "fov_crop": True}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kitti_infos_val.pkl").write_bytes(pickle.dumps({"metainfo": metainfo, "data_list": [sample]}))
    car = "Car 0.00 0 -1.57 600 150 700 210 1.53 1.63 3.88 1.65 1.71 13.2 -1.58"
    (folder / "label.txt").write_text(f"{car}\n0 3 {car}\nDontCare -1 -1 -10 5 6 7 8 -1 -1 -1 -1000 -1000 -1000 -10\n")
    rows = "1 0 0 0 0 1 0 0 0 0 1 0"
    (folder / "calib.txt").write_text(f"P2: {rows}\nR0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: {rows}\n")


def own_scans(folder: Path) -> None:
    """Two scans, and a JSON of their boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for index in range(2):
        cloud(index).astype("<f4").tofile(folder / f"{index}.bin")
        box = {"label": "car", "x": 1.0, "y": 2.0, "z": 0.5, "l": 4.0, "w": 2.0, "h": 1.5, "yaw": 0.1, "vx": 1.0}
        pose = {"translation": [1.0, 2.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
        frames.append(
            {
                "file": f"{index}.bin",
                "scene": "s",
                "timestamp": 100.0 + index / 10,
                "ego2global": pose if index else _pose(),
                "boxes": [{**box, "vy": 0.0, "num_points": 5}],
            }
        )
    (folder / "boxes.json").write_text(json.dumps({"classes": ["car", "bus"], "frames": frames}))


def scans(folder: Path) -> None:
    """One cloud as float32 records and as PCD in its three storages."""
    points = cloud(3)[:, :4]
    points.tofile(folder / "scan4.bin")
    cloud(3).tofile(folder / "scan5.bin")

    def header(storage: str) -> bytes:
        return (
            "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
            f"WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {storage}\n"
        ).encode()

    text = "\n".join(" ".join(f"{value:.4f}" for value in row) for row in points.tolist()) + "\n"
    (folder / "ascii.pcd").write_bytes(header("ascii") + text.encode())
    (folder / "binary.pcd").write_bytes(header("binary") + points.tobytes())
    plain = np.ascontiguousarray(points.T).tobytes()
    # LZF of literals alone, then one reference to what was written: a control byte of either kind.
    packed = b"".join(bytes([len(part) - 1]) + part for part in (plain[i : i + 32] for i in range(0, len(plain), 32)))
    sizes = len(packed).to_bytes(4, "little") + len(plain).to_bytes(4, "little")
    (folder / "compressed.pcd").write_bytes(header("binary_compressed") + sizes + packed)
