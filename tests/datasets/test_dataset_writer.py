from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from shapely import Polygon, contains_xy

from base.errors import ConfigError, DataError
from base.untrusted import load_info_pickle
from datasets.points import read_points
from datasets.synthetic import __main__ as command
from datasets.synthetic import dataset_writer
from datasets.synthetic.dataset_writer import DatasetConfig, generate
from datasets.synthetic.lidar import Lidar, measure, trace
from datasets.synthetic.motion import AlongRoad
from datasets.synthetic.preview import corners_bev
from datasets.synthetic.primitives import METAL, PrimitiveTable, Shape
from datasets.synthetic.raycast import NO_HIT
from datasets.synthetic.roads import make_road
from datasets.synthetic.scene import Scene, make_scene
from datasets.synthetic.sweeps import sweep_to_key


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    config = DatasetConfig({"train": 2, "val": 1}, frames_per_scene=1, seed=9)
    generate(config, tmp_path / "one", workers=1)
    generate(config, tmp_path / "two", workers=2)
    first = digests(tmp_path / "one")
    assert first == digests(tmp_path / "two")
    assert len(first) == 2 + 3 * 2  # info files; one key frame and one sweep a scene
    generate(replace(config, seed=10), tmp_path / "three", workers=1)
    assert not set(first.values()) & set(digests(tmp_path / "three").values())
    # A scene does not depend on how many others there are.
    generate(replace(config, scenes={"train": 1}), tmp_path / "four", workers=1)
    alone = digests(tmp_path / "four")
    assert {k: v for k, v in first.items() if k.startswith("lidar/train_0000")}.items() <= alone.items()
    assert "centerpoint_infos_val.pkl" not in alone


def test_info_file_has_every_key_of_t4(tiny_dataset: Path) -> None:
    info = load_info_pickle(tiny_dataset / "centerpoint_infos_val.pkl")
    assert set(info) == {"data_list", "metainfo"}
    assert info["metainfo"]["classes"] == ["car", "truck", "bus", "bicycle", "pedestrian"]
    assert [s["sample_idx"] for s in info["data_list"]] == [0, 1, 2]
    assert len({s["token"] for s in info["data_list"]}) == 3
    assert len({s["scene_token"] for s in info["data_list"]}) == 1
    np.testing.assert_allclose(np.diff([s["timestamp"] for s in info["data_list"]]), 0.1, atol=1e-5)
    for sample in info["data_list"]:
        assert set(sample) >= {
            "sample_idx", "token", "timestamp", "scene_token", "scene_name", "location", "city", "vehicle_type",
            "ego2global", "lidar_points", "lidar_sweeps", "images", "instances", "instances_ignore",
            "pts_semantic_mask_path", "radar_points", "image_sweeps", "lidar_sources",
        }  # fmt: skip
        assert np.array(sample["ego2global"]).shape == (4, 4)
        assert set(sample["lidar_points"]) == {"num_pts_feats", "lidar_path", "lidar2ego"}
        assert sample["lidar_points"]["num_pts_feats"] == 5
        assert (tiny_dataset / sample["lidar_points"]["lidar_path"]).stat().st_size % 20 == 0
        assert len(sample["lidar_sweeps"]) == 2  # the first key frame too
        for back, sweep in enumerate(sample["lidar_sweeps"], start=1):
            assert set(sweep) == {"timestamp", "sample_data_token", "ego2global", "lidar_points"}
            assert set(sweep["lidar_points"]) == {"lidar_path", "lidar2ego", "num_pts_feats", "lidar2sensor"}
            assert sample["timestamp"] - sweep["timestamp"] == pytest.approx(0.1 * back, abs=1e-5)
            assert (tiny_dataset / sweep["lidar_points"]["lidar_path"]).is_file()
        for instance in sample["instances"]:
            assert set(instance) == {
                "bbox_3d", "bbox_label", "bbox_label_3d", "velocity", "num_lidar_pts", "num_radar_pts",
                "bbox_3d_isvalid", "gt_nusc_name", "gt_attrs",
            }  # fmt: skip
            assert len(instance["bbox_3d"]) == 7
            assert instance["bbox_3d_isvalid"] == (instance["num_lidar_pts"] > 0)
            without_rider = "cycle_state.without_rider" in instance["gt_attrs"]
            assert (instance["bbox_label_3d"] == -1) == without_rider


def test_counted_points_are_the_points_in_the_box(tiny_dataset: Path) -> None:
    sample = load_info_pickle(tiny_dataset / "centerpoint_infos_train.pkl")["data_list"][1]
    points = read_points(tiny_dataset / sample["lidar_points"]["lidar_path"]).astype(float)
    total = 0
    for instance in sample["instances"]:
        box = instance["bbox_3d"]
        inside = contains_xy(Polygon(corners_bev(box)), points[:, 0], points[:, 1])
        inside &= np.abs(points[:, 2] - box[2]) <= box[5] / 2
        assert instance["num_lidar_pts"] == inside.sum()
        total += int(inside.sum())
    assert total > 500


def test_velocity_is_the_difference_of_positions(tiny_dataset: Path) -> None:
    """Boxes of two frames, matched by size, moved into the world: their difference over time is the velocity."""
    before, middle, after = load_info_pickle(tiny_dataset / "centerpoint_infos_val.pkl")["data_list"]

    def world(sample: dict[str, Any]) -> dict[tuple[float, ...], NDArray[np.float64]]:
        pose = np.array(sample["ego2global"])
        found: dict[tuple[float, ...], NDArray[np.float64]] = {}
        for i in sample["instances"]:
            found[tuple(i["bbox_3d"][3:6])] = pose[:3, :3] @ np.array(i["bbox_3d"][:3]) + pose[:3, 3]
        return found

    first, last = world(before), world(after)
    pose = np.array(middle["ego2global"])
    moving = 0
    for instance in middle["instances"]:
        size = tuple(instance["bbox_3d"][3:6])
        if size not in first or size not in last:
            continue
        expected = pose[:3, :3].T @ ((last[size] - first[size]) / 0.2)
        # Over 0.2 s a road user on a bend or a kerb deviates a little from its mean over 0.1 s.
        np.testing.assert_allclose(instance["velocity"], expected[:2], atol=0.15)
        moving += np.hypot(*instance["velocity"]) > 1.0
    assert moving >= 5


def turning_scene() -> Scene:
    """The ego vehicle takes a bend at 12 m/s past one pole; nothing else stands near."""
    base = make_scene(np.random.SeedSequence(1), 1.0, 0.5)
    road = make_road((-60.0, 0.0), 0.2, 160.0, 1, (False, False), [(20.0, 1 / 25.0)])
    pole = Shape()
    pole.cylinder((0.0, 0.0, -5.0), (0.0, 0.0, 8.0), 0.15, METAL)
    ego = AlongRoad(road, 60.0, 0.0, 1, 12.0)
    x, y, yaw = ego.pose(0.0)
    spot = [x + 9 * math.cos(yaw) - 4 * math.sin(yaw), y + 9 * math.sin(yaw) + 4 * math.cos(yaw), 0.0, 0.0]
    return replace(base, actors=(), table=PrimitiveTable.from_shapes([pole]), fixed_poses=np.array([spot]), ego=ego)


def test_a_pole_stays_where_it_is_across_sweeps() -> None:
    scene = turning_scene()
    lidar = Lidar.with_beams(64)
    key_pose, sweep_pose = scene.ego_pose(0.0), scene.ego_pose(-0.5)
    turn = math.acos((np.trace(key_pose[:3, :3].T @ sweep_pose[:3, :3]) - 1) / 2)
    assert turn > 0.15  # half a second of this bend

    def pole_axis(points: NDArray[np.float32]) -> NDArray[np.float64]:
        """Centre of the circle through the returns well above ground (least squares)."""
        x, y = points[:, 0].astype(float), points[:, 1].astype(float)
        a = np.column_stack([2 * x, 2 * y, np.ones(len(x))])
        circle: NDArray[np.float64] = np.linalg.lstsq(a, x**2 + y**2, rcond=None)[0]
        return circle[:2]

    def pole_points(time_s: float, seed: int) -> NDArray[np.float32]:
        returns = trace(lidar, scene, time_s, 1)
        # The measurement, without noise, of a world in which only the pole reflects.
        quiet = replace(lidar, range_sigma_m=0.0, dropout=0.0)
        only = replace(returns, hit=np.where(returns.hit == 0, 0, NO_HIT))
        points = measure(quiet, scene, only, np.random.default_rng(seed))
        assert len(points) > 100
        return points

    key, sweep = pole_points(0.0, 1), pole_points(-0.5, 2)
    matrix = sweep_to_key(key_pose, sweep_pose)
    # What mmdet3d's LoadPointsFromMultiSweeps computes.
    moved = sweep.copy()
    moved[:, :3] = moved[:, :3] @ matrix[:3, :3] - matrix[:3, 3]
    np.testing.assert_allclose(pole_axis(moved), pole_axis(key), atol=0.02)
    # The true inverse, which one would write without knowing the loader, misses by far.
    inverse = np.linalg.inv(np.linalg.inv(key_pose) @ sweep_pose)
    wrong = sweep.copy()
    wrong[:, :3] = wrong[:, :3] @ inverse[:3, :3] - inverse[:3, 3]
    # The loader would turn the translation once more: |(A^T - I) b| with b of 6 m.
    assert np.linalg.norm(pole_axis(wrong) - pole_axis(key)) > 0.5


def test_sweep_matrix_is_exact_for_any_pose() -> None:
    rng = np.random.default_rng(0)
    scene = turning_scene()
    for time_s in (-0.3, 0.2):
        key, sweep = scene.ego_pose(0.0), scene.ego_pose(time_s)
        matrix = sweep_to_key(key, sweep)
        points = rng.normal(scale=50, size=(20, 3))
        world = points @ sweep[:3, :3].T + sweep[:3, 3]
        expected = (world - key[:3, 3]) @ key[:3, :3]
        np.testing.assert_allclose(points @ matrix[:3, :3] - matrix[:3, 3], expected, atol=1e-9)


def test_an_existing_dataset_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    config = DatasetConfig({"val": 1}, frames_per_scene=1)
    with pytest.raises(DataError, match=r"already exists\. Choose another --out, or --overwrite"):
        generate(config, tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dataset_writer.render_scene
    done: list[int] = []

    def interrupted(*args: Any) -> object:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(dataset_writer, "render_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(DatasetConfig({"val": 3}, frames_per_scene=1), tmp_path / "data", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_writer, "render_scene", full)
    with pytest.raises(
        DataError, match=r"Cannot write the dataset to '.*data': No space left on device\. Nothing was kept"
    ):
        generate(DatasetConfig({"val": 1}, frames_per_scene=1), tmp_path / "data", workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenes": {"train": 0, "val": 0}}, "nothing to generate"),
        ({"scenes": {"train": -1}}, "scenes must count train and val from 0 to 100000, got train: -1"),
        ({"frames_per_scene": 0}, "frames_per_scene must be 1 to 36000, got 0"),
        ({"frames_per_scene": 10**9}, "frames_per_scene must be 1 to 36000, got 1000000000"),
        ({"frames_per_scene": 10**4, "key_every": 10}, "has 99992 revolutions; 36000 .an hour. is the most"),
        ({"scenes": {"val": 10**5000}}, "got val: an integer of 16610 bits"),
        ({"sweeps": 10**6}, "sweeps must be 0 to 1000"),
        ({"key_every": 0}, "key_every must be 1 to 36000"),
        ({"beams": 32}, "beams must be 64 or 128, got 32"),
        ({"seed": -1}, "seed must be 0 to 9223372036854775807, got -1"),
    ],
)
def test_bad_requests(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DatasetConfig(**{"scenes": {"val": 1}, "frames_per_scene": 1, **change})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))  # as under `bazel run`
    argv = ["--out", "d", "--val-scenes", "1", "--split", "val", "--frames-per-scene", "1", "--workers", "1"]
    assert command.main(argv) == 0
    assert "1 val key frames" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["centerpoint_infos_val.pkl", "lidar"]
    assert command.main(argv) == 2
    assert "already exists" in capsys.readouterr().err
    assert command.main([*argv, "--overwrite"]) == 0
    assert command.main([*argv, "--overwrite", "--frames-per-scene", "0"]) == 2


def test_info_file_is_plain_data(tiny_dataset: Path) -> None:
    class Nothing(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            raise AssertionError(f"{module}.{name} in an info file")

    with (tiny_dataset / "centerpoint_infos_val.pkl").open("rb") as stream:
        assert Nothing(stream).load()["data_list"]


def test_beams_are_of_one_sensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from datasets.synthetic.__main__ import main

    out = ["--out", str(tmp_path / "out"), "--train-scenes", "0", "--frames-per-scene", "1"]
    assert main([*out, "--sensor", "kitti", "--beams", "64"]) == 2
    assert "--beams is for --sensor spinning; kitti has the beams of its own units" in capsys.readouterr().err
    assert main([*out, "--split", "train"]) == 2
    assert "nothing to generate: --train-scenes is 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
