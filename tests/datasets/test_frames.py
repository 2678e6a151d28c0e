from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config

from base.checks import checking
from base.errors import ConfigError, DataError
from base.untrusted import load_info_pickle
from datasets import Frame, open_frames
from datasets.pcd import points_of_header

RANGE = [-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]
CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]


def config(root: Path | None = None) -> Config:
    load = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
        {
            "type": "LoadPointsFromMultiSweeps",
            "sweeps_num": 1,
            "load_dim": 5,
            "use_dim": [0, 1, 2, 3, 4],
            "pad_empty_sweeps": True,
        },
        {"type": "PointsRangeFilter", "point_cloud_range": RANGE},
    ]
    pack = {"type": "Pack3DDetInputs", "keys": ["points"]}

    def loader(split: str, pipeline: list[Any], test_mode: bool) -> dict[str, Any]:
        dataset = {
            "type": "T4Dataset",
            "data_root": str(root),
            "ann_file": f"centerpoint_infos_{split}.pkl",
            "pipeline": pipeline,
            "metainfo": {"classes": CLASSES},
            "test_mode": test_mode,
        }
        return {"dataset": dataset}

    flip = {"type": "RandomFlip3D", "flip_ratio_bev_horizontal": 0.5}
    return Config(
        {
            "train_dataloader": loader("train", [*load, flip, pack], False),
            "val_dataloader": loader("val", [*load, pack], True),
        }
    )


def test_frame_holds_what_the_pipeline_gives(tiny_dataset: Path) -> None:
    frames = open_frames(config(tiny_dataset))
    assert len(frames) == 3
    assert frames.class_names == tuple(CLASSES)
    frame = frames[1]
    assert isinstance(frame, Frame)
    info = load_info_pickle(tiny_dataset / "centerpoint_infos_val.pkl")["data_list"][1]
    assert (frame.token, frame.scene, frame.timestamp_s) == (info["token"], "val_0000", info["timestamp"])
    assert frame.points.dtype == np.float32
    assert frame.points.shape[1] == 5
    assert (np.abs(frame.points[:, :2]) < 51.2).all()
    assert set(np.round(np.unique(frame.points[:, 4]), 3)) == {0.0, np.float32(0.1)}


def test_ground_truth_is_the_info_files_with_centres(tiny_dataset: Path) -> None:
    frame = open_frames(config(tiny_dataset))[2]
    info = load_info_pickle(tiny_dataset / "centerpoint_infos_val.pkl")["data_list"][2]
    kept = [i for i in info["instances"] if i["num_lidar_pts"] > 0 and i["bbox_label_3d"] >= 0]
    truth = frame.ground_truth
    expected = np.array([[*i["bbox_3d"], *i["velocity"]] for i in kept])
    assert len(kept) > 10
    np.testing.assert_allclose(truth.boxes, expected, atol=2e-5)
    assert truth.labels.tolist() == [i["bbox_label_3d"] for i in kept]
    assert truth.num_points is not None
    assert truth.num_points.tolist() == [i["num_lidar_pts"] for i in kept]
    assert (truth.scores == 1.0).all()


def test_frames_repeat_in_any_order(tiny_dataset: Path) -> None:
    frames = open_frames(config(tiny_dataset), "train")
    last, first = frames[-1], frames[0]
    again = open_frames(config(tiny_dataset), "train")
    for one, other in ((first, again[0]), (last, again[2])):
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_array_equal(one.ground_truth.boxes, other.ground_truth.boxes)
    assert [f.token for f in frames] == [again[i].token for i in range(3)]
    with pytest.raises(IndexError, match="frame 3 of 3"):
        frames[3]


def test_training_frames_are_not_augmented(tiny_dataset: Path) -> None:
    frame = open_frames(config(tiny_dataset), "train")[0]
    info = load_info_pickle(tiny_dataset / "centerpoint_infos_train.pkl")["data_list"][0]
    raw = np.fromfile(tiny_dataset / info["lidar_points"]["lidar_path"], "<f4").reshape(-1, 5)
    inside = (raw[:, :3] > RANGE[:3]).all(axis=1) & (raw[:, :3] < RANGE[3:]).all(axis=1)
    np.testing.assert_array_equal(frame.points[: inside.sum(), :4], raw[inside, :4])


def test_a_missing_point_file_is_named_with_who_names_it(tiny_dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tiny_dataset, root)
    sample = load_info_pickle(root / "centerpoint_infos_val.pkl")["data_list"][1]
    (root / sample["lidar_points"]["lidar_path"]).unlink()
    with pytest.raises(DataError) as caught:
        open_frames(config(root))[1]
    assert f"{sample['lidar_points']['lidar_path']}' does not exist" in str(caught.value)
    assert f"named by sample '{sample['token']}' of '{root}/centerpoint_infos_val.pkl'" in str(caught.value)


def test_an_info_file_without_samples(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "centerpoint_infos_val.pkl").write_bytes(
        pickle.dumps({"data_list": [], "metainfo": {"classes": CLASSES}})
    )
    with pytest.raises(DataError, match=r"centerpoint_infos_val\.pkl' holds no sample"):
        open_frames(config(tmp_path))


def test_data_root_can_be_given(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tiny_dataset.parent))
    assert len(open_frames(config(Path("/nowhere")), data_root=tiny_dataset.name)) == 3
    with pytest.raises(DataError, match=r"Info file '/nowhere/centerpoint_infos_val\.pkl' does not exist"):
        open_frames(config(Path("/nowhere")))


def test_wrapped_dataset(tiny_dataset: Path) -> None:
    cfg = config(tiny_dataset)
    cfg.train_dataloader.dataset = {"type": "CBGSDataset", "dataset": cfg.train_dataloader.dataset}
    assert len(open_frames(cfg, "train")) == 3


def test_clouds_are_held_against_the_range_of_the_configs_model(tiny_dataset: Path) -> None:
    cfg = config(tiny_dataset)
    for low, found in ((-100.0, []), (5000.0, ["cloud-range"])):
        limits = [low, low, -3.0, low + 200.0, low + 200.0, 5.0]
        cfg.model = {"data_preprocessor": {"voxel_layer": {"point_cloud_range": limits}}}
        with checking(accepted=["range-filter"]) as record:
            assert len(open_frames(cfg)[0].points) > 0
        assert [item.check for item in record.results() if item.check.startswith("cloud")] == found


def test_the_config_is_left_alone(tiny_dataset: Path) -> None:
    cfg = config(tiny_dataset)
    before = copy.deepcopy(cfg.to_dict())
    open_frames(cfg, data_root=str(tiny_dataset))
    assert cfg.to_dict() == before


def test_a_wrapper_for_augmentation_that_makes_one_version_changes_nothing(tiny_dataset: Path) -> None:
    plain, wrapped = config(tiny_dataset), config(tiny_dataset)
    still = {
        "type": "GlobalRotScaleTrans",
        "rot_range": [0, 0],
        "scale_ratio_range": [1, 1],
        "translation_std": [0, 0, 0],
    }
    one = {"type": "MultiScaleFlipAug3D", "img_scale": (1333, 800), "pts_scale_ratio": 1, "flip": False}
    wrapped.val_dataloader.dataset.pipeline.insert(-1, one | {"transforms": [still, {"type": "RandomFlip3D"}]})
    ours, theirs = open_frames(plain)[0], open_frames(wrapped)[0]
    np.testing.assert_array_equal(ours.points, theirs.points)
    np.testing.assert_array_equal(ours.ground_truth.boxes, theirs.ground_truth.boxes)


def test_requests_that_cannot_be_met(tiny_dataset: Path) -> None:
    cfg = config(tiny_dataset)
    with pytest.raises(ConfigError, match=r"no split 'test': it has \['train', 'val'\]"):
        open_frames(cfg, "test")
    cfg.val_dataloader.dataset.pipeline.insert(2, {"type": "PointShuffle"})
    with pytest.raises(ConfigError, match="test pipeline holds 'PointShuffle', which draws at random"):
        open_frames(cfg)
    cfg = config(tiny_dataset)
    cfg.val_dataloader.dataset.type = "WaymoDataset"
    with pytest.raises(ConfigError, match=r"val_dataloader\.dataset\.type is 'WaymoDataset'"):
        open_frames(cfg)


def test_empty_and_noisy_clouds(tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tiny_dataset, root)
    samples = load_info_pickle(root / "centerpoint_infos_val.pkl")["data_list"]
    for sample in samples:
        (root / sample["lidar_points"]["lidar_path"]).write_bytes(b"")
        for sweep in sample["lidar_sweeps"]:
            (root / sweep["lidar_points"]["lidar_path"]).write_bytes(b"")
    frames = open_frames(config(root))
    assert frames[0].points.shape == (0, 5)
    assert len(frames[0].ground_truth) > 0
    noisy = np.ones((4, 5), dtype="<f4")
    noisy[2, 1] = np.nan
    noisy.tofile(root / samples[1]["lidar_points"]["lidar_path"])
    assert frames[1].points.shape == (3, 5)
    assert "dropped 1 of 4 points" in caplog.text


def test_sizes_of_files_say_how_many_points_a_frame_has(tiny_dataset: Path) -> None:
    cfg = config(tiny_dataset)
    # Nothing leaves points out behind the loading.
    del cfg.val_dataloader.dataset.pipeline[2]
    frames = open_frames(cfg)
    loaded = {frame.token: len(frame.points) for frame in frames}
    most, token = frames.most_points(-1)
    assert (most, token) == max((count, token) for token, count in loaded.items())
    assert frames.most_points(1)[0] == len(frames[0].points)


def test_headers_of_pcd_files_say_how_many_points_they_have(tmp_path: Path) -> None:
    header = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 7\nHEIGHT 1\nPOINTS 7\n"
    assert points_of_header(f"{header}DATA binary_compressed\n".encode()) == 7
    assert points_of_header(b"VERSION 0.7\nPOINTS 7\n") == 0
