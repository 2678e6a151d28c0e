"""mmdet3d's nuScenes info files through our frames, against mmdet3d's own dataset class."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from base.checks import checking
from base.errors import ConfigError, DataError
from datasets.frames import open_frames
from third_party import mmcv_ext

mmcv_ext.install()

from mmdet3d.datasets import NuScenesDataset  # noqa: E402

CLASSES = [
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
]
LOG = "n015-2018-07-24-11-22-45+0800"


def _instance(rng: np.random.Generator, label: int, points: int) -> dict[str, Any]:
    velocity = [float("nan")] * 2 if label == 2 else rng.normal(size=2).tolist()
    return {
        "bbox_label": label,
        "bbox_label_3d": label,
        "bbox_3d": [*rng.uniform(-30, 30, 2).tolist(), -1.0, *rng.uniform(1, 5, 3).tolist(), float(rng.uniform(-3, 3))],
        "bbox_3d_isvalid": points > 0,
        "num_lidar_pts": points,
        "num_radar_pts": 0,
        "velocity": velocity,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two key frames with three sweeps; the last sweep of each is an earlier key frame, as every tenth is."""
    rng = np.random.default_rng(0)
    samples, sweeps = tmp_path / "samples/LIDAR_TOP", tmp_path / "sweeps/LIDAR_TOP"
    samples.mkdir(parents=True)
    sweeps.mkdir(parents=True)

    def cloud(folder: Path, stamp: int) -> str:
        points = np.column_stack(
            [
                rng.uniform(-50, 50, (400, 2)),
                rng.uniform(-3, 3, 400),
                rng.uniform(0, 255, 400),
                rng.integers(0, 32, 400),
            ]
        )
        path = folder / f"{LOG}__LIDAR_TOP__{stamp}.pcd.bin"
        points.astype(np.float32).tofile(path)
        return str(path)

    data_list = []
    earlier = cloud(samples, 1_000_000)
    for index in range(2):
        stamp = 2_000_000 + 500_000 * index
        paths = [cloud(sweeps, stamp - 50_000 * k) for k in (1, 2)] + [earlier]
        turn = np.eye(4)
        turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
        turn[:3, 3] = rng.normal(size=3)
        earlier = cloud(samples, stamp)
        data_list.append(
            {
                "sample_idx": index,
                "token": f"token{index}",
                "timestamp": stamp / 1e6,
                "ego2global": np.eye(4).tolist(),
                "images": {},
                "lidar_points": {
                    "num_pts_feats": 5,
                    "lidar_path": Path(earlier).name,
                    "lidar2ego": np.eye(4).tolist(),
                },
                "instances": [_instance(rng, label, points) for label, points in ((0, 9), (7, 3), (2, 5), (8, 0))],
                "lidar_sweeps": [
                    {
                        "timestamp": (stamp - 50_000 * (k + 1)) / 1e6,
                        "sample_data_token": f"{index}{k}",
                        "ego2global": np.eye(4).tolist(),
                        "lidar_points": {
                            "lidar_path": path,
                            "lidar2ego": np.eye(4).tolist(),
                            "lidar2sensor": turn.tolist(),
                        },
                    }
                    for k, path in enumerate(paths)
                ],
            }
        )
    metainfo = {"categories": {name: i for i, name in enumerate(CLASSES)}, "dataset": "nuscenes", "info_version": "1.1"}
    (tmp_path / "nuscenes_infos_val.pkl").write_bytes(pickle.dumps({"metainfo": metainfo, "data_list": data_list}))
    return tmp_path


def test_a_file_of_mmdet3ds_contradicts_itself_nowhere(root: Path) -> None:
    with checking() as record:
        assert len(open_frames(_config(root, CLASSES))) == 2
    assert record.results() == ()


def _config(root: Path, classes: list[str]) -> Config:
    pipeline = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
        {
            "type": "LoadPointsFromMultiSweeps",
            "sweeps_num": 3,
            "use_dim": [0, 1, 2, 3, 4],
            "pad_empty_sweeps": True,
            "remove_close": True,
            "test_mode": True,
        },
        {"type": "PointsRangeFilter", "point_cloud_range": [-51.2, -51.2, -5, 51.2, 51.2, 3]},
        {"type": "Pack3DDetInputs", "keys": ["points"]},
    ]
    dataset = {
        "type": "NuScenesDataset",
        "data_root": str(root),
        "ann_file": "nuscenes_infos_val.pkl",
        "pipeline": pipeline,
        "metainfo": {"classes": classes},
        "modality": {"use_lidar": True, "use_camera": False},
        "data_prefix": {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP", "img": ""},
        "test_mode": True,
        "box_type_3d": "LiDAR",
    }
    return Config({"val_dataloader": {"dataset": dataset}})


@pytest.mark.parametrize("classes", [CLASSES, ["pedestrian", "car"]])
def test_frames_are_those_of_mmdet3d(root: Path, classes: list[str]) -> None:
    cfg = _config(root, classes)
    frames = open_frames(cfg, "val")
    values = copy.deepcopy(cfg.val_dataloader.dataset.to_dict())
    values.pop("type")
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        theirs = NuScenesDataset(**values, load_eval_anns=True)
        assert len(frames) == len(theirs) == 2
        assert frames.class_names == tuple(classes)
        for index, frame in enumerate(frames):
            packed = theirs.prepare_data(index)
            truth = theirs.get_data_info(index)["eval_ann_info"]
            assert len(frame.points) > 1000  # four clouds
            np.testing.assert_array_equal(frame.points, packed["inputs"]["points"].numpy())
            # mmdet3d keeps objects of no class, with label -1; they are no ground truth.
            wanted = truth["gt_labels_3d"] > -1
            expected = truth["gt_bboxes_3d"][wanted]
            np.testing.assert_allclose(frame.ground_truth.boxes[:, :2], expected.tensor[:, :2].numpy(), atol=1e-6)
            np.testing.assert_allclose(frame.ground_truth.boxes[:, :3], expected.gravity_center.numpy(), atol=1e-5)
            known = np.nan_to_num(frame.ground_truth.boxes[:, 3:])
            np.testing.assert_allclose(known, expected.tensor[:, 3:].numpy(), atol=1e-6)
            # What the file does not know, of the fixture's objects of label 2, is 0 for mmdet3d.
            unknown = np.isnan(frame.ground_truth.boxes[:, 7:]).all(axis=1)
            assert unknown.tolist() == [classes[label] == CLASSES[2] for label in frame.ground_truth.labels]
            assert frame.ground_truth.labels.tolist() == truth["gt_labels_3d"][wanted].tolist()
            assert frame.scene == LOG


def test_other_files_and_types_are_refused(root: Path) -> None:
    path = root / "nuscenes_infos_val.pkl"
    info = pickle.loads(path.read_bytes())
    info["metainfo"]["categories"]["barrier"] = 12
    path.write_bytes(pickle.dumps(info))
    with pytest.raises(
        DataError, match=r"metainfo\.categories is .* but must have the labels 0 to 9, each once\..*update_infos_to_v2"
    ):
        open_frames(_config(root, CLASSES), "val")
    cfg = _config(root, CLASSES)
    cfg.val_dataloader.dataset.type = "WaymoDataset"
    with pytest.raises(ConfigError, match="'WaymoDataset'; frames are read from a 'T4Dataset' or a 'NuScenesDataset'"):
        open_frames(cfg, "val")
