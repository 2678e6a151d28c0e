"""Frames of autoware-ml's configs and info files: its points, and its labels by category.

`tests/data/autoware_ml/frames.npz` holds the points that autoware-ml (commit 04952df) makes of the drives of
`autoware_ml_drive`: its `load_detection_data_infos`, then `LoadPointsFromMultiSweeps` (sweeps_num=3, load_dim=5, all
five columns, time_dim=4, pad_empty_sweeps and remove_close) and `PointsRangeFilter`.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from numpy.typing import NDArray

from base.errors import DataError
from base.interpolation import References
from datasets.frames import open_frames
from models.autoware_ml_data import data_settings
from tests.datasets.autoware_ml_drive import DRIVES, RANGE, write

GOLDEN = Path(__file__).parents[1] / "data" / "autoware_ml" / "frames.npz"
CLASSES = ("car", "truck", "bicycle", "pedestrian")
MAPPING = {
    "nuscenes": {"construction_vehicle": "truck", "motorcycle": "bicycle", "trailer": None},
    "t4": {"vehicle.car": "car", "motorcycle": "bicycle", "pedestrian.adult": "pedestrian"},
}
MODULES = {"nuscenes": "nuscenes.detection3d.Nuscenes", "t4": "t4dataset.detection3d.T4"}
# Of nuScenes bus is not asked for and trailer mapped to nothing; of T4 a trailer is not asked for.
LABELS = {"nuscenes": [0, 1, 1, 2, 2, 3], "t4": [0, 2, 3]}


def config(name: str, root: Path) -> Any:
    """What autoware-ml's datamodule of a drive says, read as every command reads it."""
    steps = "autoware_ml.transforms."
    pipeline = [
        {
            "_target_": f"{steps}boxes3d.loading.LoadAnnotations3D",
            "name_mapping": MAPPING[name],
            "use_valid_flag": True,
        },
        {
            "_target_": f"{steps}point_cloud.sweeps.LoadPointsFromMultiSweeps",
            "sweeps_num": 3,
            "load_dim": 5,
            "use_dim": [0, 1, 2, 3, 4],
            "time_dim": 4,
            "pad_empty_sweeps": True,
            "remove_close": True,
        },
        {"_target_": f"{steps}point_cloud.crop.PointsRangeFilter", "point_cloud_range": list(RANGE)},
    ]
    module = {
        "_target_": f"autoware_ml.datamodule.{MODULES[name]}Detection3DDataModule",
        "data_root": str(root),
        "val_ann_file": str(root / "info" / "infos_val.pkl"),
        "val_transforms": {"pipeline": pipeline},
    }
    file = root / "config.yaml"
    return Config(data_settings(References({"datamodule": module}, file), CLASSES, file))


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("name", DRIVES)
def test_points_and_labels(name: str, golden: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    samples, classes = DRIVES[name]
    write(tmp_path, "info/infos_val.pkl", samples, classes)
    frames = open_frames(config(name, tmp_path))
    assert len(frames) == len(samples) == 3
    for index in range(3):
        frame, expected = frames[index], golden[f"{name}_{index}"]
        assert frame.points.shape == expected.shape
        np.testing.assert_allclose(frame.points, expected, rtol=0, atol=5e-6)
        assert frame.ground_truth.labels.tolist() == LABELS[name]
        assert frame.ground_truth.boxes[0, 3:6].tolist() == [4.0, 2.0, 1.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["sweeps"][1].update(sensor2lidar_rotation=[[1, 0], [0, 1]]),
            r"data_list\[2\].sweeps\[1\].sensor2lidar_rotation",
        ),
        (lambda s: s["sweeps"][1].update(sensor2lidar_rotation=2 * np.eye(3)), "must be a rotation and a translation"),
        (lambda s: s["sweeps"][1].pop("timestamp"), r"data_list\[2\].sweeps\[1\] lacks 'timestamp'"),
        (lambda s: s["sweeps"][0].update(lidar_path="../../secret.bin"), "secret.bin"),
    ],
)
def test_sweeps_that_are_none_are_named(change: Any, message: str, tmp_path: Path) -> None:
    samples = copy.deepcopy(DRIVES["nuscenes"][0])
    change(samples[2])
    write(tmp_path / "root", "info/infos_val.pkl", copy.deepcopy(DRIVES["nuscenes"][0]), DRIVES["nuscenes"][1])
    file = tmp_path / "root" / "info" / "infos_val.pkl"
    content = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps({**content, "data_list": samples}))
    with pytest.raises(DataError, match=message):
        open_frames(config("nuscenes", tmp_path / "root"))[2]


def test_poses_that_are_none_are_named(tmp_path: Path) -> None:
    samples = copy.deepcopy(DRIVES["t4"][0])
    samples[2]["ego2global"] = np.zeros((4, 4)).tolist()
    write(tmp_path, "info/infos_val.pkl", samples, DRIVES["t4"][1])
    with pytest.raises(DataError, match=r"data_list\[2\].ego2global .*must be a rotation and a translation"):
        open_frames(config("t4", tmp_path))
