from __future__ import annotations

import copy
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import ConfigError, DataError
from base.untrusted import load_info_pickle
from datasets.t4 import T4Dataset

CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]
LOAD: list[dict[str, Any]] = [
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
def mmdet3d_scope() -> Iterator[None]:
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
    found: dict[str, Any] = dataset.get_data_info(index)["eval_ann_info"]
    return found


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
    some = [instance(velocity=[nan, nan]), instance(velocity=[1.0, nan]), instance(velocity=[0.0, 0.0])]
    found = truth(make(tmp_path, sample(*some)))
    np.testing.assert_array_equal(found["gt_bboxes_3d"].tensor.numpy()[:, 7:], np.zeros((3, 2)))
    assert found["velocity_known"].tolist() == [False, False, True]
    assert truth(make(tmp_path, sample(*some), with_velocity=False))["velocity_known"].tolist() == [False] * 3


def test_classes_are_chosen_and_ordered_by_name(tmp_path: Path) -> None:
    instances = [instance(bbox_label_3d=i) for i in range(5)]
    dataset = make(tmp_path, sample(*instances), metainfo={"classes": ["pedestrian", "car"]})
    assert truth(dataset)["gt_labels_3d"].tolist() == [1, 0]
    assert list(dataset.metainfo["classes"]) == ["pedestrian", "car"]


def test_info_files_own_class_order_counts(tmp_path: Path) -> None:
    """The same label number means another class in another file."""
    order = ["pedestrian", "bicycle", "bus", "truck", "car"]
    dataset = make(tmp_path, sample(instance(bbox_label_3d=4, gt_nusc_name="pedestrian")))
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
        ([1, 2], "older than mmdet3d 1.1: a list in place of data_list and metainfo"),
        (
            {"infos": [], "metadata": {"version": "v1.0"}},
            "older than mmdet3d 1.1: infos and metadata in place of data_list",
        ),
        (3, "it is 3, but must be a dictionary"),
        ({"data_list": []}, "it lacks 'metainfo'"),
        ({"data_list": [], "metainfo": {"version": "x"}}, "metainfo lacks 'classes'"),
        ({"data_list": [], "metainfo": {"classes": "car"}}, "metainfo.classes is 'car', but must be a list"),
        ({"data_list": [], "metainfo": {"classes": ["car", "car"]}}, "must not name a class twice"),
        ({"data_list": {}, "metainfo": {"classes": CLASSES}}, "data_list is {}, but must be a list"),
    ],
)
def test_other_files(tmp_path: Path, info: Any, message: str) -> None:
    write(tmp_path, info)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        T4Dataset(str(tmp_path), "infos.pkl", test_mode=True)
    assert "infos.pkl'" in str(caught.value)
    assert "create_t4_infos" in str(caught.value)


def sweep(**change: Any) -> dict[str, Any]:
    points = {"lidar_path": "lidar/a.bin", "lidar2sensor": np.eye(4).tolist(), **change.pop("lidar_points", {})}
    return {"timestamp": 99.9, "lidar_points": points, **change}


def points(path: Any) -> dict[str, Any]:
    return {"num_pts_feats": 5, "lidar_path": path}


SCALED = (2 * np.eye(4)).tolist()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], " is [], but must be a dictionary"),
        ({"token": 1}, " lacks 'timestamp'"),
        (sample(token=1), ".token is 1, but must be text"),
        (sample(token=""), ".token is '', but must be text that is not empty"),
        (sample(timestamp=1.7e15), ".timestamp is 1700000000000000.0, but must be at most 4102444800"),
        (sample(timestamp=float("nan")), ".timestamp is nan, but must be a finite number"),
        (
            sample(lidar_points=points("/etc/shadow")),
            ".lidar_points.lidar_path is '/etc/shadow', but must be a relative",
        ),
        (
            sample(lidar_points=points("../../x")),
            ".lidar_points.lidar_path is '../../x', but must not leave its folder",
        ),
        (sample(lidar_points=points("a/../../x")), "is 'a/../../x', but must not leave its folder"),
        (sample(lidar_points=points("/dev/zero")), "is '/dev/zero', but must be a relative path"),
        (sample(lidar_points=points("a\0.bin")), r"is 'a\x00.bin', but must not hold a NUL"),
        (sample(lidar_points=points("a" * 5000)), "(5000 characters), but must be text of at most 4096"),
        (sample(lidar_points=points(None)), ".lidar_points.lidar_path is None, but must be text"),
        (
            sample(lidar_points={**points("a"), "num_pts_feats": 10**9}),
            ".num_pts_feats is 1000000000, but must be at most",
        ),
        (sample(lidar_points={"lidar_path": "a"}), ".lidar_points lacks 'num_pts_feats'"),
        (sample(ego2global=np.full((4, 4), np.nan)), ".ego2global[0][0] is nan, but must be a finite number"),
        (sample(ego2global=np.eye(3)), ".ego2global[0] has 3 values, but must have 4"),
        (
            sample(lidar_sweeps=[sweep(), sweep(timestamp="x")]),
            ".lidar_sweeps[1].timestamp is 'x', but must be a number",
        ),
        (
            sample(lidar_sweeps=[sweep(lidar_points={"lidar_path": "/dev/zero"})]),
            "[0].lidar_points.lidar_path is '/dev/ze",
        ),
        (sample(lidar_sweeps=[sweep(lidar_points={"lidar2sensor": SCALED})]), "must be a rotation and a translation"),
        (
            sample(lidar_sweeps=[sweep(lidar_points={"lidar2sensor": None})]),
            ".lidar2sensor is None, but must be a list",
        ),
        (sample(instances=None), ".instances is None, but must be a list"),
        (sample({}), ".instances[0] lacks 'bbox_3d'"),
        (sample(instance(), instance(bbox_3d=[1.0, 2.0])), ".instances[1].bbox_3d has 2 values, but must have 7"),
        (sample(instance(bbox_3d=[float("nan")] * 7)), ".instances[0].bbox_3d[0] is nan, but must be a finite number"),
        (sample(instance(bbox_3d=[1, 2, 3, 4, -2, 1, 0])), ".instances[0].bbox_3d[4] is -2, but must be above 0"),
        (
            sample(instance(bbox_3d=[1e300, 2, 3, 4, 2, 1, 0])),
            ".instances[0].bbox_3d[0] is 1e+300, but must be at most",
        ),
        (sample(instance(bbox_3d="1234567")), ".instances[0].bbox_3d is '1234567', but must be a list"),
        (sample(instance(velocity=[float("inf"), 0.0])), ".instances[0].velocity[0] is inf, but must be a speed"),
        (
            sample(instance(velocity=[1.0, 2.0, 3.0])),
            ".instances[0].velocity is [1.0, 2.0, 3.0], but must be at most 2",
        ),
        (sample(instance(bbox_label_3d=9)), ".instances[0].bbox_label_3d is 9, but must be -1 to 4"),
        (sample(instance(bbox_label_3d=-2)), ".instances[0].bbox_label_3d is -2, but must be at least -1"),
        (sample(instance(bbox_label_3d=10**60)), ".bbox_label_3d is an integer of 200 bits, but must be at most"),
        (sample(instance(bbox_label_3d=0.0)), ".bbox_label_3d is 0.0, but must be a whole number"),
        (sample(instance(num_lidar_pts=2.5)), ".instances[0].num_lidar_pts is 2.5, but must be a whole number"),
        (sample(instance(num_lidar_pts=np.int64(2**40))), ".num_lidar_pts is 1099511627776, but must be at most"),
        (sample(instance(bbox_3d_isvalid=1)), ".bbox_3d_isvalid is 1, but must be true or false"),
    ],
)
def test_broken_samples_say_where(tmp_path: Path, broken: Any, message: str) -> None:
    """The second of two samples; the place, the value and what it must be are in the message."""
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        make(tmp_path, sample(token="first"), broken)
    assert str(caught.value).startswith(f"'{tmp_path}/infos.pkl': data_list[1]")
    assert len(str(caught.value)) < 1000


def test_two_samples_of_one_token(tmp_path: Path) -> None:
    samples = [sample(token=token) for token in ("a", "b", "a")]
    with pytest.raises(DataError, match=r"data_list\[2\]\.token is 'a', but must not be that of data_list\[0\] too"):
        make(tmp_path, *samples)


def test_valid_flag_that_is_not_there(tmp_path: Path) -> None:
    unknown = instance()
    del unknown["bbox_3d_isvalid"]
    assert truth(make(tmp_path, sample(unknown)))["gt_labels_3d"].tolist() == [0]
    with pytest.raises(
        DataError, match=r"instances\[0\]\.bbox_3d_isvalid is None, but must be true or false where use"
    ):
        make(tmp_path, sample(unknown), use_valid_flag=True)


def test_numpys_numbers_and_arrays_count_as_pythons(tmp_path: Path) -> None:
    plain = sample(instance(), ego2global=np.eye(4).tolist(), lidar_sweeps=[sweep()])
    numpys = sample(
        instance(
            bbox_3d=np.array(instance()["bbox_3d"]),
            velocity=(np.float32(3.0), np.float64(-1.0)),
            bbox_label_3d=np.int64(0),
            num_lidar_pts=np.int32(7),
            bbox_3d_isvalid=np.bool_(True),
        ),
        timestamp=np.float64(100.0),
        ego2global=np.eye(4),
        lidar_sweeps=(sweep(lidar_points={"lidar2sensor": np.eye(4, dtype=np.float32)}),),
    )
    one, other = (make(tmp_path, item)[0] for item in (plain, numpys))
    np.testing.assert_array_equal(one["inputs"]["points"], other["inputs"]["points"])
    boxes = [truth(make(tmp_path, item))["gt_bboxes_3d"].tensor.tolist() for item in (plain, numpys)]
    assert boxes[0] == boxes[1]


def test_only_what_is_checked_reaches_mmdet3d(tmp_path: Path) -> None:
    hostile = {"CAM_FRONT": {"img_path": "/dev/zero", "cam2img": "x"}}
    dataset = make(tmp_path, sample(instance(), images=hostile, pts_semantic_mask_path="/etc/shadow", extra=[[]]))
    assert "/etc/shadow" not in repr(info := dataset.get_data_info(0))
    assert "/dev/zero" not in repr(info)
    assert {"token", "timestamp", "lidar_points", "num_pts_feats", "lidar_path", "eval_ann_info"} <= set(info)


def test_point_files_are_regular_files_of_plausible_size(tmp_path: Path) -> None:
    dataset = make(tmp_path, sample(instance()))
    file = tmp_path / "lidar/a.bin"
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"lidar/a\.bin' is a device, not a file"):
        dataset[0]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match=r"lidar/a\.bin' is a pipe, not a file"):
        dataset[0]
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match=r"lidar/a\.bin' has 1099511627776 bytes; at most 268435456 are read"):
        dataset[0]


@pytest.mark.parametrize("name", ["load_dim", "use_dim"])
def test_absurd_numbers_of_columns_are_the_configs_fault(tmp_path: Path, name: str) -> None:
    pipeline = copy.deepcopy(LOAD)
    pipeline[0].update(load_dim=0, use_dim=[]) if name == "load_dim" else pipeline[0].update(use_dim=[0, 1, 2, 7])
    with pytest.raises(ConfigError, match=name):
        make(tmp_path, sample(instance()), pipeline=pipeline)


def test_missing_info_file(tmp_path: Path) -> None:
    remedy = r"Generate one with: python -m datasets\.synthetic --out .* Or give another folder with"
    with pytest.raises(DataError, match=rf"nope\.pkl' does not exist\. {remedy}"):
        T4Dataset(str(tmp_path), "nope.pkl")


def test_truncated_points_name_their_file(tmp_path: Path) -> None:
    dataset = make(tmp_path, sample(instance()))
    (tmp_path / "lidar/a.bin").write_bytes(b"\0" * 30)
    with pytest.raises(DataError, match=r"lidar/a\.bin' has 30 bytes, which is no multiple of 20"):
        dataset[0]
