"""Raw T4 datasets to info files: against the generator's own infos, and a dataset small enough to do by hand."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from base.errors import DataError
from base.untrusted import load_info_pickle
from datasets.create_t4_infos import DatasetEntry, create_infos, find_datasets, main, read_splits
from datasets.frames import open_frames
from datasets.geometry import rotation_matrix
from datasets.synthetic.dataset_writer import DatasetConfig, generate
from datasets.synthetic.tables import quaternion
from datasets.t4_classes import ClassRules
from datasets.t4_tables import T4Tables
from models.config import load_model_config

REPOSITORY = Path(__file__).resolve().parents[2]
AWML = REPOSITORY / "tests/data/models/awml/projects/CenterPoint/configs/t4dataset/Centerpoint"
CATEGORY = "vehicle.emergency (ambulance & police)"
CONFIG = DatasetConfig({"val": 1}, frames_per_scene=3, seed=5, key_every=2, sweeps=2, tables=True)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables") / "data"
    generate(CONFIG, root, workers=1)
    assert main(_argv(root, root / "made")) == 0
    return root


def _argv(root: Path, out: Path) -> list[str]:
    splits = str(root / "t4" / "splits.json")
    return ["--root", str(root), "--out", str(out), "--splits", splits, "--max-sweeps", "2"]


def _same(ours: Any, theirs: Any, where: str, root: Path) -> None:
    """Equal in structure and order; numbers within rounding; point files by their bytes."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key in theirs:
            if key == "lidar_path":
                assert (root / ours[key]).read_bytes() == (root / theirs[key]).read_bytes(), where
            else:
                _same(ours[key], theirs[key], f"{where}.{key}", root)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            _same(a, b, f"{where}[{i}]", root)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-9), where
    else:
        assert (type(ours), ours) == (type(theirs), theirs), where


def test_equal_to_the_directly_written_infos(generated: Path) -> None:
    direct = load_info_pickle(generated / "centerpoint_infos_val.pkl")
    made = load_info_pickle(generated / "made" / "centerpoint_infos_val.pkl")
    assert made["metainfo"]["classes"] == direct["metainfo"]["classes"]
    assert sum(len(info["instances"]) for info in direct["data_list"]) > 50
    assert any(item["bbox_label_3d"] == -1 for info in direct["data_list"] for item in info["instances"])
    _same(made["data_list"], direct["data_list"], "data_list", generated)


def test_frames_are_the_same_through_either(generated: Path) -> None:
    cfg = load_model_config(AWML / "second_secfpn_five_onnx.py")
    sources = []
    for folder in ("", "made/"):
        own = copy.deepcopy(cfg)
        own.val_dataloader.dataset.ann_file = f"{folder}centerpoint_infos_val.pkl"
        sources.append(open_frames(own, "val", str(generated)))
    for a, b in zip(*sources, strict=True):
        assert a.token == b.token
        assert len(a.points) > 1000
        np.testing.assert_allclose(a.points, b.points, atol=1e-4)
        np.testing.assert_allclose(a.ground_truth.boxes, b.ground_truth.boxes, atol=1e-4)
        assert a.ground_truth.labels.tolist() == b.ground_truth.labels.tolist()


def test_tables_leave_the_rest_of_a_dataset_alone(generated: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    generate(dataclasses.replace(CONFIG, tables=False), plain, workers=1)
    for file in sorted(plain.rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (generated / file.relative_to(plain)).read_bytes(), file
    assert not (plain / "t4").exists()


def test_velocities_from_positions(generated: Path, tmp_path: Path) -> None:
    """Without velocities in the table, differences of positions come close to the exact ones."""
    root = tmp_path / "t4"
    shutil.copytree(generated / "t4", root)
    table = root / "val_0000/0/annotation/sample_annotation.json"
    rows = json.loads(table.read_text())
    for row in rows:
        row["velocity"] = None
    table.write_text(json.dumps(rows))
    (folder,) = find_datasets(root).values()
    made = create_infos(T4Tables.read(folder), root, ClassRules(), DatasetEntry("val_0000/0"), 0)
    exact = load_info_pickle(generated / "centerpoint_infos_val.pkl")["data_list"]
    differences = []
    for ours, theirs in zip(made, exact, strict=True):
        assert ours["lidar_sweeps"] == []
        for a, b in zip(ours["instances"], theirs["instances"], strict=True):
            if not np.isnan(a["velocity"]).any():
                differences.append(np.linalg.norm(np.subtract(a["velocity"], b["velocity"])))
    assert len(differences) > 50
    assert np.quantile(differences, 0.95) < 0.2


def test_quaternions_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    turns = [*Rotation.random(50, rng=rng), *(Rotation.from_rotvec(math.pi * np.eye(3)[i]) for i in range(3))]
    for turn in turns:
        matrix = turn.as_matrix()
        w, x, y, z = quaternion(matrix)
        np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), matrix, atol=1e-12)
        np.testing.assert_allclose(rotation_matrix([w, x, y, z]), matrix, atol=1e-12)


def _by_hand(root: Path, channel: str = "LIDAR_TOP") -> Path:
    """One car in two key frames, 0.5 s apart; the LiDAR stands 2 m above the ego frame, turned by 90 degrees."""
    folder = root / "abc" / "2"
    (folder / "data" / channel).mkdir(parents=True)
    half = math.sqrt(0.5)
    tables: dict[str, list[dict[str, Any]]] = {
        "sensor": [{"token": "cam", "channel": "CAM_FRONT"}, {"token": "top", "channel": channel}],
        "calibrated_sensor": [
            {"token": "cal", "sensor_token": "top", "translation": [0, 0, 2], "rotation": [half, 0, 0, half]}
        ],
        # The ego vehicle heads along the map's y axis.
        "ego_pose": [
            {"token": f"pose{i}", "translation": [10, 20 + i, 0], "rotation": [half, 0, 0, half]} for i in range(2)
        ],
        "scene": [{"token": "scene", "name": "hand", "log_token": "log"}],
        "log": [{"token": "log", "location": "yard"}],
        "sample": [{"token": f"s{i}", "timestamp": 1_000_000 + 500_000 * i, "scene_token": "scene"} for i in (1, 0)],
        "sample_data": [
            {
                "token": f"d{i}",
                "sample_token": f"s{i}",
                "ego_pose_token": f"pose{i}",
                "calibrated_sensor_token": "cal",
                "filename": f"data/{channel}/{i}.pcd.bin",
                "timestamp": 1_000_000 + 500_000 * i,
                "is_key_frame": True,
                "prev": "d0" if i else "",
            }
            for i in range(2)
        ],
        "category": [{"token": "c", "name": CATEGORY}],
        "instance": [{"token": "i", "category_token": "c"}],
        "attribute": [{"token": "moving", "name": "vehicle_state.driving"}],
        "sample_annotation": [
            {
                "token": f"a{i}",
                "sample_token": f"s{i}",
                "instance_token": "i",
                "attribute_tokens": ["moving"],
                "translation": [10, 30 + 4 * i, 1],
                "size": [1.8, 4.5, 1.5],
                "rotation": [half, 0, 0, half],
                "num_lidar_pts": i,
                "prev": "a0" if i else "",
                "next": "" if i else "a1",
            }
            for i in range(2)
        ],
    }
    for name, rows in tables.items():
        path = folder / "annotation" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows))
    for i in range(2):
        np.full((3, 5), i, np.float32).tofile(folder / "data" / channel / f"{i}.pcd.bin")
    return folder


def test_a_dataset_worked_out_by_hand(tmp_path: Path) -> None:
    folder = _by_hand(tmp_path)
    infos = create_infos(T4Tables.read(folder), tmp_path, ClassRules(), DatasetEntry("abc/2", "Nagoya", "bus"), 3)
    assert [info["token"] for info in infos] == ["s0", "s1"]  # by time, not by row
    assert [info["sample_idx"] for info in infos] == [0, 1]
    assert (infos[0]["location"], infos[0]["city"], infos[0]["vehicle_type"]) == ("yard", "Nagoya", "bus")
    assert infos[1]["timestamp"] == 1.5
    assert infos[1]["lidar_points"]["lidar_path"] == "abc/2/data/LIDAR_TOP/1.pcd.bin"
    # Ten metres ahead of the ego; the LiDAR looks to the ego's left, so that it is to the LiDAR's right, 1 m below it.
    (car,) = infos[0]["instances"]
    np.testing.assert_allclose(car["bbox_3d"], [0, -10, -1, 4.5, 1.8, 1.5, -math.pi / 2], atol=1e-12)
    assert (car["bbox_label"], car["bbox_label_3d"], car["gt_nusc_name"]) == (0, 0, CATEGORY)
    assert car["bbox_3d_isvalid"] is False
    # 4 m in half a second along the map's y, which is the LiDAR's -y.
    np.testing.assert_allclose(car["velocity"], [0, -8], atol=1e-12)
    assert infos[0]["lidar_sweeps"] == []
    (sweep,) = infos[1]["lidar_sweeps"]
    assert sweep["sample_data_token"] == "d0"
    # The loader computes p @ R - t: a point of the sweep lies one metre further back, along the LiDAR's +y.
    matrix = np.array(sweep["lidar_points"]["lidar2sensor"])
    np.testing.assert_allclose(np.zeros(3) @ matrix[:3, :3] - matrix[:3, 3], [0, 1, 0], atol=1e-12)


def test_classes_of_ones_own(tmp_path: Path) -> None:
    folder = _by_hand(tmp_path / "d", "LIDAR_CONCAT")
    rules = tmp_path / "rules.json"
    values = {
        "classes": ["bus", "emergency"],
        "name_mapping": {CATEGORY: "emergency"},
        "filter_attributes": [[CATEGORY, "vehicle_state.driving"]],
    }
    rules.write_text(json.dumps(values))
    infos = create_infos(T4Tables.read(folder), tmp_path, ClassRules.read(rules), DatasetEntry("abc/2"))
    assert (infos[0]["instances"][0]["bbox_label"], infos[0]["instances"][0]["bbox_label_3d"]) == (1, -1)
    rules.write_text(json.dumps({"classes": "car"}))
    with pytest.raises(DataError, match="classes is 'car', but must be a list"):
        ClassRules.read(rules)
    rules.write_text(json.dumps({"klasses": []}))
    with pytest.raises(DataError, match=r"klasses is no known key \(did you mean 'classes'\?\)"):
        ClassRules.read(rules)


def test_split_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _by_hand(tmp_path / "root")
    listed = tmp_path / "db.yaml"
    listed.write_text("version: 1\ntrain:\n  - abc/2/Nagoya/bus\nval: []\n")
    assert read_splits(listed) == {"train": [DatasetEntry("abc/2", "Nagoya", "bus")]}
    argv = ["--root", str(tmp_path / "root"), "--out", str(tmp_path / "out"), "--splits", str(listed)]
    assert main([*argv, "--split", "val"]) == 2
    assert "has no split 'val'; it has ['train']" in capsys.readouterr().err
    assert main(argv) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["centerpoint_infos_train.pkl"]
    assert "2 key frames, 2 objects" in capsys.readouterr().out
    listed.write_text("train: [missing/0]\n")
    assert main(argv) == 2
    assert "1 datasets are not below" in capsys.readouterr().err
    listed.write_text("train: [abc]\n")
    with pytest.raises(DataError, match=r"train\[0\] is 'abc', but must be '<id>/<version>'"):
        read_splits(listed)
    for sweeps in ("-1", "1" + "0" * 9, "9" * 5000, "2.5"):
        with pytest.raises(SystemExit, match=r"^2$"):
            main([*argv[:4], "--max-sweeps", sweeps])
    assert main(["--root", str(tmp_path / "out"), "--out", str(tmp_path / "o2")]) == 2
    assert "holds no T4 dataset" in capsys.readouterr().err


GONE = "is 'gone', but must be a token of "


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sample_data", {"ego_pose_token": "gone"}, f"[0].ego_pose_token {GONE}ego_pose.json"),
        ("sample_data", {"filename": "../../secret.bin"}, "[0].filename is '../../secret.bin', but must not leave its"),
        ("sample_data", {"filename": "/etc/shadow"}, "[0].filename is '/etc/shadow', but must be a relative path"),
        ("sample_data", {"filename": "data/none.bin"}, "data/none.bin' does not exist. '"),
        ("sample_data", {"filename": "data"}, "/data' is a folder, not a file. '"),
        ("sample_data", {"filename": "data/\0"}, "[0].filename is 'data/\\x00', but must not hold a NUL"),
        ("sample_data", {"prev": "d0"}, "[0].prev is 'd0', but must not be its own predecessor"),
        ("sample_data", {"sample_token": "s9"}, "[0].sample_token is 's9', but must be a token of sample.json"),
        ("sample_data", {"is_key_frame": False}, "sample 's0' has no LiDAR key frame"),
        ("sample_data", {"is_key_frame": 1}, "[0].is_key_frame is 1, but must be true or false"),
        ("sample_data", {"timestamp": 1.75e18}, "[0].timestamp is 1.75e+18, but must be a whole number"),
        (
            "sample_data",
            {"timestamp": 1750000000000000000},
            "[0].timestamp is 1750000000000000000, but must be at most",
        ),
        ("sample_data", {"token": "d1"}, "[1].token is 'd1', but must not be that of row [0] too"),
        ("sample", {"timestamp": -1}, "[0].timestamp is -1, but must be at least 0"),
        ("sample", {"scene_token": ["scene"]}, "[0].scene_token is ['scene'], but must be text"),
        ("ego_pose", {"translation": [1, 2]}, "[0].translation has 2 values, but must have 3"),
        ("ego_pose", {"translation": [1, 2, math.nan]}, "[0].translation[2] is nan, but must be a finite number"),
        ("ego_pose", {"translation": [1, 2, 1e300]}, "[0].translation[2] is 1e+300, but must be at most 1000000000"),
        ("ego_pose", {"rotation": [math.inf, 0, 0, 0]}, "[0].rotation[0] is inf, but must be a finite number"),
        (
            "calibrated_sensor",
            {"rotation": [1, 1, 0, 0]},
            "[0].rotation is [1, 1, 0, 0], but must be a unit quaternion",
        ),
        ("calibrated_sensor", {"sensor_token": "gone"}, f"[0].sensor_token {GONE}sensor.json"),
        (
            "sample_annotation",
            {"rotation": [0, 0, 0, 0]},
            "[0].rotation is [0, 0, 0, 0], but must be a unit quaternion",
        ),
        ("sample_annotation", {"instance_token": "gone"}, f"[0].instance_token {GONE}instance.json"),
        ("sample_annotation", {"attribute_tokens": ["gone"]}, "[0].attribute_tokens is ['gone'], but must be a token"),
        ("sample_annotation", {"next": "gone"}, f"[0].next {GONE}sample_annotation.json"),
        ("sample_annotation", {"size": [1, -4.5, 1]}, "[0].size[1] is -4.5, but must be above 0"),
        ("sample_annotation", {"size": [1, 0, 1]}, "[0].size[1] is 0, but must be above 0"),
        ("sample_annotation", {"size": ...}, "[0] lacks 'size'"),
        ("sample_annotation", {"velocity": [1, math.inf, 0]}, "[0].velocity[1] is inf, but must be a speed"),
        ("sample_annotation", {"num_lidar_pts": True}, "[0].num_lidar_pts is True, but must be a whole number"),
        ("sample_annotation", {"num_lidar_pts": 10**30}, "but must be at most 2147483647"),
        ("instance", {"category_token": None}, "[0].category_token is None, but must be text"),
        ("category", {"name": ""}, "[0].name is '', but must be text that is not empty"),
        ("attribute", {"token": {}}, "[0].token is {}, but must be text"),
        ("scene", {"log_token": "gone"}, f"[0].log_token {GONE}log.json"),
        ("log", {"location": [1]}, "[0].location is [1], but must be text"),
    ],
)
def test_broken_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, change: dict[str, Any], message: str
) -> None:
    """Exit code 2; the message names the table, the row, the field, the value, and what it must be."""
    folder = _by_hand(tmp_path)
    path = folder / "annotation" / f"{table}.json"
    rows = json.loads(path.read_text())
    if table == "sample":
        rows.reverse()
    rows[0].update(change)
    rows[0] = {key: value for key, value in rows[0].items() if value is not ...}
    path.write_text(json.dumps(rows))
    assert main(["--root", str(tmp_path), "--out", str(tmp_path / "out"), "--max-sweeps", "3"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert table in error or "LiDAR key frame" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_predecessor_of_another_sensor(tmp_path: Path) -> None:
    folder = _by_hand(tmp_path)
    for table, row in {
        "calibrated_sensor": {
            "token": "c2",
            "sensor_token": "cam",
            "translation": [0, 0, 0],
            "rotation": [1, 0, 0, 0],
        },
        "sample_data": {
            "token": "image",
            "sample_token": "",
            "ego_pose_token": "pose0",
            "calibrated_sensor_token": "c2",
            "filename": "data/image.jpg",
            "timestamp": 900_000,
            "is_key_frame": False,
            "prev": None,
        },
    }.items():
        path = folder / "annotation" / f"{table}.json"
        rows = json.loads(path.read_text())
        path.write_text(json.dumps([*rows, row]))
    infos = create_infos(T4Tables.read(folder), tmp_path, ClassRules(), DatasetEntry("abc/2"))
    assert [len(info["lidar_sweeps"]) for info in infos] == [0, 1]
    rows = json.loads(path.read_text())
    rows[0]["prev"] = "image"
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"\[0\]\.prev is 'image', but must be data of the same sensor"):
        create_infos(T4Tables.read(folder), tmp_path, ClassRules(), DatasetEntry("abc/2"))


def test_key_frames_listed_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _by_hand(tmp_path / "root")
    shutil.copytree(tmp_path / "root/abc", tmp_path / "root/copy")
    assert main(["--root", str(tmp_path / "root"), "--out", str(tmp_path / "out")]) == 2
    assert "Two key frames of split 'all' have the token 's0'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_listed_twice_is_said_before_any_is_read(tmp_path: Path) -> None:
    listed = tmp_path / "splits.json"
    listed.write_text(json.dumps({"train": ["a/0", "b/0"], "val": ["a/0", "b/0", "a/0/city/bus"]}))
    with pytest.raises(DataError, match=r"splits\.json': val\[2\] is 'a/0', but must be another dataset than val\[0\]"):
        read_splits(listed)
    listed.write_text(json.dumps({"train": ["a/0"], "val": ["a/0"]}))
    assert set(read_splits(listed)) == {"train", "val"}


def test_broken_tables(tmp_path: Path) -> None:
    folder = _by_hand(tmp_path)
    sensors = folder / "annotation/sensor.json"
    cameras = [{"token": "cam", "channel": "CAM_FRONT"}, {"token": "top", "channel": "RADAR"}]
    sensors.write_text(json.dumps(cameras))
    with pytest.raises(DataError, match=r"no LiDAR channel LIDAR_TOP or LIDAR_CONCAT; its sensors are \['CAM_FRONT'"):
        T4Tables.read(folder)
    sensors.write_text("{}")
    with pytest.raises(DataError, match=r"sensor\.json': it is \{\}, but must be a list"):
        T4Tables.read(folder)
    sensors.write_text('[{"token": "a", "token": "b", "channel": "LIDAR_TOP"}]')
    with pytest.raises(DataError, match=r"sensor\.json' is not valid JSON: key 'token' stands twice"):
        T4Tables.read(folder)
    sensors.unlink()
    with pytest.raises(DataError, match=r"sensor\.json' does not exist: .* is no whole T4 dataset"):
        T4Tables.read(folder)
    sensors.mkdir()
    with pytest.raises(DataError, match=r"sensor\.json' is a folder, not a file"):
        T4Tables.read(folder)
