from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import DataError
from base.untrusted import load_info_pickle
from datasets.t4 import T4Dataset

CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]
LOAD = [
    {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
    {
        "type": "LoadPointsFromMultiSweeps",
        "sweeps_num": 1,
        "load_dim": 5,
        "use_dim": [0, 1, 2, 3, 4],
        "pad_empty_sweeps": True,
        "test_mode": True,
    },
    {"type": "Pack3DDetInputs", "keys": ["points"]},
]


@pytest.fixture(autouse=True)
def mmdet3d_scope():
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet3d"):
        yield


def write(root: Path, info: Any, name: str = "infos.pkl") -> None:
    (root / name).write_bytes(pickle.dumps(info))


def instance(**change: Any) -> dict[str, Any]:
    base = {
        "bbox_3d": [10.0, 2.0, 1.0, 4.0, 2.0, 1.5, 0.3],
        "bbox_label": 0,
        "bbox_label_3d": 0,
        "velocity": [3.0, -1.0],
        "num_lidar_pts": 7,
        "num_radar_pts": 0,
        "bbox_3d_isvalid": True,
        "gt_nusc_name": "car",
        "gt_attrs": [],
    }
    return {**base, **change}


def sample(*instances: dict[str, Any], **change: Any) -> dict[str, Any]:
    base = {
        "sample_idx": 0,
        "token": "t0",
        "timestamp": 100.0,
        "lidar_points": {"num_pts_feats": 5, "lidar_path": "lidar/a.bin"},
        "instances": list(instances),
    }
    return {**base, **change}


def make(root: Path, *samples: dict[str, Any], **options: Any) -> T4Dataset:
    (root / "lidar").mkdir(exist_ok=True)
    if not (root / "lidar/a.bin").exists():
        np.arange(40, dtype="<f4").reshape(8, 5).tofile(root / "lidar/a.bin")
    write(root, {"data_list": list(samples), "metainfo": {"classes": CLASSES, "version": "x"}})
    defaults = {"pipeline": LOAD, "test_mode": True}
    return T4Dataset(data_root=str(root), ann_file="infos.pkl", **{**defaults, **options})


def truth(dataset: T4Dataset, index: int = 0) -> dict[str, Any]:
    return dataset.get_data_info(index)["eval_ann_info"]


def test_boxes_become_bottom_centred_with_velocity(tmp_path: Path) -> None:
    found = truth(make(tmp_path, sample(instance())))
    np.testing.assert_allclose(
        found["gt_bboxes_3d"].tensor.numpy(), [[10.0, 2.0, 1.0 - 0.75, 4.0, 2.0, 1.5, 0.3, 3.0, -1.0]], rtol=1e-6
    )
    np.testing.assert_allclose(found["gt_bboxes_3d"].gravity_center.numpy(), [[10.0, 2.0, 1.0]], rtol=1e-6)


def test_boxes_without_points_and_ignored_ones_go(tmp_path: Path) -> None:
    instances = [
        instance(num_lidar_pts=0, bbox_3d_isvalid=True),
        instance(bbox_label_3d=-1),
        instance(bbox_label_3d=4, num_lidar_pts=2, bbox_3d_isvalid=False),
    ]
    assert truth(make(tmp_path, sample(*instances)))["gt_labels_3d"].tolist() == [4]
    assert truth(make(tmp_path, sample(*copy.deepcopy(instances)), use_valid_flag=True))["gt_labels_3d"].tolist() == [0]


def test_velocity_nan_is_standing_still(tmp_path: Path) -> None:
    nan = float("nan")
    found = truth(make(tmp_path, sample(instance(velocity=[nan, nan]), instance(velocity=[1.0, nan]))))
    np.testing.assert_array_equal(found["gt_bboxes_3d"].tensor.numpy()[:, 7:], np.zeros((2, 2)))


def test_classes_are_chosen_and_ordered_by_name(tmp_path: Path) -> None:
    instances = [instance(bbox_label_3d=i) for i in range(5)]
    dataset = make(tmp_path, sample(*instances), metainfo={"classes": ["pedestrian", "car"]})
    assert truth(dataset)["gt_labels_3d"].tolist() == [1, 0]
    assert list(dataset.metainfo["classes"]) == ["pedestrian", "car"]


def test_info_files_own_class_order_counts(tmp_path: Path) -> None:
    """The same label number means another class in another file."""
    order = ["pedestrian", "bicycle", "bus", "truck", "car"]
    dataset = make(tmp_path, sample(instance(bbox_label_3d=4)))
    assert truth(dataset)["gt_labels_3d"].tolist() == [4]
    write(tmp_path, {"data_list": [sample(instance(bbox_label_3d=4))], "metainfo": {"classes": order}})
    again = T4Dataset(str(tmp_path), "infos.pkl", pipeline=LOAD, metainfo={"classes": CLASSES}, test_mode=True)
    assert truth(again)["gt_labels_3d"].tolist() == [0]


def test_class_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"asks for classes \['tram'\], but .*infos\.pkl' has \['car', 'truck'"):
        make(tmp_path, sample(instance()), metainfo={"classes": ["car", "tram"]})


def test_no_objects_at_all(tmp_path: Path) -> None:
    found = truth(make(tmp_path, sample()))
    assert found["gt_bboxes_3d"].tensor.shape == (0, 9)
    assert found["gt_labels_3d"].shape == (0,)


@pytest.mark.parametrize("sweeps", [None, []])
def test_frame_without_sweeps_is_padded_with_itself(tmp_path: Path, sweeps: list[Any] | None) -> None:
    extra = {} if sweeps is None else {"lidar_sweeps": sweeps}
    points = make(tmp_path, sample(instance(), **extra))[0]["inputs"]["points"].numpy()
    assert len(points) == 16
    np.testing.assert_array_equal(points[:8], points[8:])
    np.testing.assert_array_equal(points[:, 4], 0.0)


def test_sweeps_come_with_their_time_lag_in_the_key_frame(tiny_dataset: Path) -> None:
    dataset = T4Dataset(str(tiny_dataset), "centerpoint_infos_val.pkl", pipeline=LOAD, test_mode=True)
    info = load_info_pickle(tiny_dataset / "centerpoint_infos_val.pkl")["data_list"][2]
    points = dataset[2]["inputs"]["points"].numpy()
    key = np.fromfile(tiny_dataset / info["lidar_points"]["lidar_path"], "<f4").reshape(-1, 5)
    sweep_info = info["lidar_sweeps"][0]
    sweep = np.fromfile(tiny_dataset / sweep_info["lidar_points"]["lidar_path"], "<f4").reshape(-1, 5)
    np.testing.assert_array_equal(points[: len(key), :4], key[:, :4])
    np.testing.assert_array_equal(points[: len(key), 4], 0.0)
    np.testing.assert_allclose(points[len(key) :, 4], 0.1, atol=1e-5)
    np.testing.assert_array_equal(points[len(key) :, 3], sweep[:, 3])
    # By way of the world, which knows nothing of lidar2sensor.
    here, there = np.array(info["ego2global"]), np.array(sweep_info["ego2global"])
    world = sweep[:, :3].astype(float) @ there[:3, :3].T + there[:3, 3]
    np.testing.assert_allclose(points[len(key) :, :3], (world - here[:3, 3]) @ here[:3, :3], atol=1e-4)


def test_same_points_as_mmdet3ds_own_steps(tiny_dataset: Path) -> None:
    from mmdet3d.datasets.transforms import LoadPointsFromFile, LoadPointsFromMultiSweeps

    dataset = T4Dataset(str(tiny_dataset), "centerpoint_infos_train.pkl", pipeline=LOAD, test_mode=True)
    results = copy.deepcopy(dataset.get_data_info(1))
    for step, kind in zip(LOAD[:2], (LoadPointsFromFile, LoadPointsFromMultiSweeps), strict=True):
        results = kind(**{k: v for k, v in step.items() if k != "type"})(results)
    np.testing.assert_array_equal(dataset[1]["inputs"]["points"].numpy(), results["points"].tensor.numpy())


def test_trains_through_mmdet3ds_pipeline(tiny_dataset: Path) -> None:
    from mmengine.registry import DATASETS

    pipeline = [
        *LOAD[:2],
        {"type": "LoadAnnotations3D", "with_bbox_3d": True, "with_label_3d": True},
        {"type": "ObjectRangeFilter", "point_cloud_range": [-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]},
        {"type": "ObjectNameFilter", "classes": CLASSES},
        {"type": "Pack3DDetInputs", "keys": ["points", "gt_bboxes_3d", "gt_labels_3d"]},
    ]
    config = {
        "type": "mmdet3d.T4Dataset",
        "data_root": str(tiny_dataset),
        "ann_file": "centerpoint_infos_train.pkl",
        "pipeline": pipeline,
        "metainfo": {"classes": CLASSES},
    }
    packed = DATASETS.build(config)[0]["data_samples"].gt_instances_3d
    assert packed.bboxes_3d.tensor.shape[1] == 9
    assert len(packed.bboxes_3d) == len(packed.labels_3d) > 10
    assert np.abs(packed.bboxes_3d.tensor.numpy()[:, :2]).max() < 51.2


def test_hostile_info_file_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    (tmp_path / "infos.pkl").write_bytes(pickle.dumps({"data_list": [Evil()], "metainfo": {"classes": CLASSES}}))
    with pytest.raises(DataError, match=r"infos\.pkl' .* was refused: it asks for '(posix|nt)\.system'"):
        T4Dataset(str(tmp_path), "infos.pkl")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ([1, 2], "is no T4 info file: expected a dict with data_list and metainfo"),
        ({"data_list": []}, "has no metainfo.classes"),
        ({"data_list": [{"token": 1}], "metainfo": {"classes": CLASSES}}, r"Sample 0 .* lacks \['timestamp', "),
        (
            {"data_list": [sample(instance(bbox_3d=[1.0, 2.0]))], "metainfo": {"classes": CLASSES}},
            r"instance of sample t0 .* malformed",
        ),
        (
            {"data_list": [sample(instance(bbox_label_3d=9))], "metainfo": {"classes": CLASSES}},
            r"instance of sample t0 .* malformed \(KeyError: 9\)",
        ),
        (
            {"data_list": [sample(instance(bbox_3d=[float("nan")] * 7))], "metainfo": {"classes": CLASSES}},
            "has a box with NaN",
        ),
    ],
)
def test_broken_info_files(tmp_path: Path, info: Any, message: str) -> None:
    write(tmp_path, info)
    with pytest.raises(DataError, match=message):
        T4Dataset(str(tmp_path), "infos.pkl", test_mode=True)


def test_missing_info_file(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nope\.pkl' does not exist\. Give the dataset's folder as data_root, or make one"
    ):
        T4Dataset(str(tmp_path), "nope.pkl")


def test_truncated_points_name_their_file(tmp_path: Path) -> None:
    dataset = make(tmp_path, sample(instance()))
    (tmp_path / "lidar/a.bin").write_bytes(b"\0" * 30)
    with pytest.raises(DataError, match=r"lidar/a\.bin' has 30 bytes, which is no multiple of 20"):
        dataset[0]
