"""Info files, configs and raw tables that contradict each other: each twin is caught, and the sound one passes."""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from base.checks import checking
from base.errors import ConfigError, DataError
from datasets.create_t4_infos import main as create
from datasets.frames import open_frames
from models.config import load_model_config

CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]
RANGE = [-51.2, -51.2, -3.0, 51.2, 51.2, 5.0]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def mmdet3d_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        yield


def info() -> dict[str, Any]:
    """Three key frames with two sweeps and an object of each class."""
    return {
        "metainfo": {"classes": list(CLASSES), "version": "x"},
        "data_list": [
            {
                "token": f"t{i}",
                "scene_token": "scene",
                "timestamp": 1_750_000_000.0 + 0.5 * i,
                "lidar_points": {"num_pts_feats": 5, "lidar_path": "lidar/a.bin"},
                "lidar_sweeps": [
                    {
                        "timestamp": 1_750_000_000.0 + 0.5 * i - 0.1 * (n + 1),
                        "lidar_points": {
                            "num_pts_feats": 5,
                            "lidar_path": "lidar/a.bin",
                            "lidar2sensor": np.eye(4).tolist(),
                        },
                    }
                    for n in range(2)
                ],
                "instances": [
                    {
                        "bbox_3d": [10.0 * label, 2.0, 1.0, 4.0, 2.0, 1.5, 0.3],
                        "bbox_label_3d": label,
                        "velocity": [0.0, 0.0],
                        "num_lidar_pts": 7,
                        "num_radar_pts": 0,
                        "bbox_3d_isvalid": True,
                        "gt_nusc_name": name,
                    }
                    for label, name in enumerate(CLASSES)
                ],
            }
            for i in range(3)
        ],
    }


def config(root: Path, **dataset: Any) -> Config:
    pipeline = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
        {
            "type": "LoadPointsFromMultiSweeps",
            "sweeps_num": 1,
            "load_dim": 5,
            "use_dim": [0, 1, 2, 3, 4],
            "test_mode": True,
        },
        {"type": "PointsRangeFilter", "point_cloud_range": list(RANGE)},
        {"type": "Pack3DDetInputs", "keys": ["points"]},
    ]
    loader = {
        "type": "T4Dataset",
        "data_root": str(root),
        "ann_file": "infos.pkl",
        "pipeline": pipeline,
        "metainfo": {"classes": list(CLASSES)},
        **dataset,
    }
    model = {
        "pts_bbox_head": {"tasks": [{"num_class": 5, "class_names": list(CLASSES)}]},
        "data_preprocessor": {"voxel_layer": {"point_cloud_range": list(RANGE)}},
    }
    return Config({"val_dataloader": {"dataset": loader}, "model": model})


def opened(
    root: Path,
    edit: Edit = lambda _: None,
    change: Callable[[Config], object] = lambda _: None,
    accept: tuple[str, ...] = (),
    **dataset: Any,
) -> list[str]:
    """Checks that found something, with their outcome."""
    (root / "lidar").mkdir(exist_ok=True)
    np.ones((40, 5), "<f4").tofile(root / "lidar/a.bin")
    content, cfg = info(), config(root, **dataset)
    edit(content)
    change(cfg)
    (root / "infos.pkl").write_bytes(pickle.dumps(content))
    with checking(accept) as record:
        open_frames(cfg)
    return [f"{item.check} {item.outcome}" for item in record.results()]


def each_sweep(key: str, change: Callable[[Any], Any]) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for sample in content["data_list"]:
            for sweep in sample["lidar_sweeps"]:
                sweep[key] = change(sweep[key])

    return edit


def each_sample(change: Callable[[dict[str, Any]], object]) -> Edit:
    return lambda content: [change(sample) for sample in content["data_list"]]


def test_a_sound_file_passes_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert opened(tmp_path) == []
    assert caplog.text == ""


def test_mmdet3ds_categories_count_as_classes_and_may_not_differ_from_them(tmp_path: Path) -> None:
    def categories(order: list[str], keep: bool) -> Edit:
        def edit(content: dict[str, Any]) -> None:
            meta = content["metainfo"] if keep else content["metainfo"].pop("classes") and content["metainfo"]
            meta["categories"] = {name: label for label, name in reversed(list(enumerate(order)))}

        return edit

    assert opened(tmp_path, categories(CLASSES, keep=False)) == []
    assert opened(tmp_path, categories(CLASSES, keep=True)) == []
    with pytest.raises(
        DataError, match=r"metainfo\.classes, says \[car, .*metainfo\.categories says \[pedestrian, bic"
    ):
        opened(tmp_path, categories(CLASSES[::-1], keep=True))


def test_labels_that_count_into_another_order_than_the_list(tmp_path: Path) -> None:
    def swap(content: dict[str, Any]) -> None:
        content["metainfo"]["classes"] = ["car", "truck", "bus", "pedestrian", "bicycle"]

    with pytest.raises(DataError) as caught:
        opened(tmp_path, swap)
    assert "labels count into [car, truck, bus, pedestrian, bicycle]" in str(caught.value)
    assert "3 objects of category 'bicycle' have label 3, 'pedestrian'" in str(caught.value)
    assert opened(tmp_path, swap, accept=("label-names",)) == ["label-names accepted"]


def test_a_file_whose_order_is_another_is_mapped_by_name(tmp_path: Path) -> None:
    """Labels and list agree with each other, and the config names its own order: nothing is wrong."""

    def reorder(content: dict[str, Any]) -> None:
        content["metainfo"]["classes"] = CLASSES[::-1]
        for sample in content["data_list"]:
            for instance in sample["instances"]:
                instance["bbox_label_3d"] = 4 - instance["bbox_label_3d"]

    assert opened(tmp_path, reorder) == []
    # Without one the file's order would be the head's.
    with pytest.raises(ConfigError, match=r"classes of '.*infos\.pkl', says \[pedestrian, .*head says \[car, truck"):
        opened(tmp_path, reorder, metainfo=None)


def test_a_split_that_selects_other_classes_than_the_head(tmp_path: Path) -> None:
    def other(cfg: Config) -> None:
        cfg.val_dataloader.dataset.metainfo.classes = ["car", "truck", "bus", "pedestrian", "bicycle"]

    with pytest.raises(ConfigError, match="The same classes in another order"):
        opened(tmp_path, change=other)
    assert opened(tmp_path, change=other, accept=("dataset-classes",)) == ["dataset-classes accepted"]

    def fewer(cfg: Config) -> None:
        cfg.val_dataloader.dataset.metainfo.classes = CLASSES[:3]

    with pytest.raises(ConfigError, match=r"only the second \['bicycle', 'pedestrian'\]"):
        opened(tmp_path, change=fewer)


def test_numbers_a_point_of_key_frames_and_of_sweeps(tmp_path: Path) -> None:
    def key(sample: dict[str, Any]) -> None:
        sample["lidar_points"]["num_pts_feats"] = 4

    with pytest.raises(DataError) as caught:
        opened(tmp_path, each_sample(key))
    assert "data_list[0].lidar_points.num_pts_feats, says 4 numbers a point" in str(caught.value)
    assert "the model config, load_dim of LoadPointsFromFile, says 5" in str(caught.value)
    assert "So it is with 3 files" in str(caught.value)
    sweeps = each_sweep("lidar_points", lambda points: {**points, "num_pts_feats": 6})
    with pytest.raises(DataError, match=r"data_list\[0\]\.lidar_sweeps\[0\]\.lidar_points\.num_pts_feats, says 6"):
        opened(tmp_path, sweeps)
    assert opened(tmp_path, sweeps, accept=("point-features",)) == ["point-features accepted"]


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e9])
def test_times_that_are_no_seconds_name_the_sample_both_times_and_the_unit(tmp_path: Path, scale: float) -> None:
    unit = {1e3: "milliseconds", 1e6: "microseconds", 1e9: "nanoseconds"}[scale]

    def key(sample: dict[str, Any]) -> None:
        sample["timestamp"] *= scale

    sweeps = each_sweep("timestamp", lambda time: time * scale)
    for edit, named in (
        (sweeps, f"the key frame's is in seconds and the sweep's in {unit}"),
        (each_sample(key), f"the key frame's is in {unit} and the sweep's in seconds"),
        (lambda content: (sweeps(content), each_sample(key)(content)), f"the key frame's is in {unit} and the sweep's"),
    ):
        with pytest.raises(DataError) as caught:
            opened(tmp_path, edit)
        message = str(caught.value)
        assert "sample 't0'" in message
        assert "data_list[0].timestamp" in message
        assert "lidar_sweeps[0].timestamp" in message
        assert named in message
        assert f"looks like {unit}: divide it by 1e{round(math.log10(scale))}" in message


@pytest.mark.parametrize("sweeps", [7, 0.5, True, "text", [3], [{"timestamp": 2**200}], ({"timestamp": math.nan},), {}])
def test_a_time_that_is_none_beside_sweeps_that_are_none(tmp_path: Path, sweeps: object) -> None:
    def both(sample: dict[str, Any]) -> None:
        sample.update(timestamp=-1e300, lidar_sweeps=sweeps)

    with pytest.raises(DataError, match=r"data_list\[0\]\.timestamp is -1e\+300"):
        opened(tmp_path, each_sample(both))


@pytest.mark.parametrize("sweeps", [5, "x", [3], [{"timestamp": "now"}], [{"timestamp": None}], {"a": 1}])
def test_a_time_that_is_none_beside_other_nonsense_is_one_error(tmp_path: Path, sweeps: Any) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["data_list"][0].update(timestamp=1.75e15, lidar_sweeps=sweeps, token=[7])

    with pytest.raises(DataError, match=r"timestamp is 1750000000000000\.0, but must be at most 4102444800"):
        opened(tmp_path, edit)


def test_times_on_a_clock_of_their_own_are_judged_by_the_lag(tmp_path: Path) -> None:
    def own_clock(scale: float) -> Edit:
        def edit(content: dict[str, Any]) -> None:
            for sample in content["data_list"]:
                for entry in (sample, *sample["lidar_sweeps"]):
                    entry["timestamp"] = (entry["timestamp"] - 1_750_000_000.0 + 1.0) * scale

        return edit

    assert opened(tmp_path, own_clock(1.0)) == []
    with pytest.raises(DataError, match="Both look like milliseconds"):
        opened(tmp_path, own_clock(1e3))
    assert opened(tmp_path, own_clock(1e3), accept=("sweep-times",)) == ["sweep-times accepted"]


def test_sweeps_oldest_first(tmp_path: Path) -> None:
    def turn(sample: dict[str, Any]) -> None:
        sample["lidar_sweeps"].reverse()

    with pytest.raises(
        DataError, match=r"0\.2, 0\.1 s before the key frame, but the model config, which takes the first 1"
    ):
        opened(tmp_path, each_sample(turn))

    def take_all(cfg: Config) -> None:
        cfg.val_dataloader.dataset.pipeline[1].sweeps_num = 2

    assert opened(tmp_path, each_sample(turn), take_all) == ["sweep-order-whole warning"]


def test_more_sweeps_wanted_than_there_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def want(cfg: Config) -> None:
        cfg.val_dataloader.dataset.pipeline[1].sweeps_num = 9

    assert opened(tmp_path, change=want) == ["sweep-count warning"]
    assert "says 9 sweeps, but Info file" in caplog.text
    assert "says 2 at most" in caplog.text


def test_flags_that_say_otherwise_than_the_points(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def flag(**change: Any) -> Edit:
        return lambda content: content["data_list"][1]["instances"][2].update(change)

    for change in ({"bbox_3d_isvalid": False}, {"num_lidar_pts": 0}):
        assert opened(tmp_path, flag(**change)) == ["valid-flags warning"]
    assert "data_list[1].instances[2].bbox_3d_isvalid says False" in caplog.text
    assert "So it is with 1 of 15 objects" in caplog.text
    # Seen by radar alone, as nuScenes counts it.
    assert opened(tmp_path, flag(num_lidar_pts=0, num_radar_pts=2)) == []


@pytest.mark.parametrize(
    ("kept", "outcome"),
    [
        ([-40.0, -51.2, -3.0, 51.2, 51.2, 5.0], "error"),
        ([-51.2, -51.2, -3.0, 51.2, 51.2, 2.0], "error"),
        ([-51.2, -51.2, -3.0, 51.2, 51.2, 5], ""),
        ([-60.0, -51.2, -3.0, 51.2, 51.2, 5.0], "warning"),
    ],
)
def test_the_range_that_points_are_filtered_by(tmp_path: Path, kept: list[float], outcome: str) -> None:
    def narrow(cfg: Config) -> None:
        cfg.val_dataloader.dataset.pipeline[2].point_cloud_range = kept

    if outcome == "error":
        with pytest.raises(ConfigError, match=r"val_dataloader\.dataset\.pipeline\[2\]\.point_cloud_range, says \["):
            opened(tmp_path, change=narrow)
        assert opened(tmp_path, change=narrow, accept=("range-filter",)) == ["range-filter accepted"]
    else:
        assert opened(tmp_path, change=narrow) == (["range-filter-wider warning"] if outcome else [])


@pytest.mark.parametrize(
    "path",
    sorted(Path("configs/model").glob("*.py")) + sorted(Path("tests/data/models/awml").rglob("second_*.py")),
    ids=lambda path: path.stem,
)
def test_configs_that_ship_do_not_contradict_themselves(path: Path) -> None:
    from datasets.consistency import compare_config

    cfg = load_model_config(path)
    if "val_dataloader" not in cfg:
        pytest.skip("a base of others")
    dataset = cfg.val_dataloader.dataset
    names = list(dataset.metainfo["classes"])
    assert list(compare_config(cfg, "val", names, "metainfo.classes")) == []


def tables(root: Path) -> Path:
    """A raw dataset of two key frames and a sweep, one car."""
    folder = root / "abc" / "0"
    epoch = 1_750_000_000_000_000
    rows: dict[str, list[dict[str, Any]]] = {
        "sensor": [{"token": "top", "channel": "LIDAR_CONCAT"}],
        "calibrated_sensor": [
            {"token": "cal", "sensor_token": "top", "translation": [0, 0, 0], "rotation": [1, 0, 0, 0]}
        ],
        "ego_pose": [{"token": "pose", "translation": [0, 0, 0], "rotation": [1, 0, 0, 0]}],
        "scene": [{"token": "scene", "name": "s"}],
        "sample": [{"token": f"s{i}", "timestamp": epoch + 200_000 * i, "scene_token": "scene"} for i in range(2)],
        "sample_data": [
            {
                "token": f"d{i}",
                "sample_token": f"s{i // 2}",
                "ego_pose_token": "pose",
                "calibrated_sensor_token": "cal",
                "filename": f"data/LIDAR_CONCAT/{i}.pcd.bin",
                "fileformat": "pcd.bin",
                "timestamp": epoch + 100_000 * i,
                "is_key_frame": i != 1,
                "is_valid": True,
                "prev": f"d{i - 1}" if i else "",
            }
            for i in range(3)
        ],
        "category": [{"token": "c", "name": "car"}],
        "instance": [{"token": "i", "category_token": "c"}],
        "attribute": [],
        "sample_annotation": [
            {
                "token": f"a{i}",
                "sample_token": f"s{i}",
                "instance_token": "i",
                "attribute_tokens": [],
                "translation": [10, 3, 1],
                "size": [1.8, 4.5, 1.5],
                "rotation": [1, 0, 0, 0],
                "num_lidar_pts": 5,
                "prev": "",
                "next": "",
            }
            for i in range(2)
        ],
    }
    rows["sample_data"][2]["sample_token"] = "s1"
    for i in range(3):
        path = folder / rows["sample_data"][i]["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.ones((6, 5), "<f4").tofile(path)
    for name, table in rows.items():
        path = folder / "annotation" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(table))
    return folder


def made(
    root: Path, capsys: pytest.CaptureFixture[str], *more: str, **changes: Callable[[Any], Any]
) -> tuple[int, str]:
    """Exit code and words of `create_t4_infos` after changes of tables."""
    folder = tables(root)
    for name, change in changes.items():
        path = folder / "annotation" / f"{name}.json"
        rows = json.loads(path.read_text())
        change(rows)
        path.write_text(json.dumps(rows))
    code = create(["--root", str(root), "--out", str(root / "out"), "--log-level", "WARNING", *more])
    return code, capsys.readouterr().err


def scaled(factor: float) -> Callable[[Any], Any]:
    return lambda rows: [row.update(timestamp=int(row["timestamp"] * factor)) for row in rows]


def test_sound_tables_pass_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(tmp_path, capsys) == (0, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"sample": scaled(1e-3)},
            ["timestamp of sample 's0', says 1750000000000, but sample_data.json", "microseconds"],
        ),
        ({"sample_data": scaled(1e-3)}, ["its LiDAR key frame 'd0', says 1750000000000", "microseconds"]),
        (
            {"sample": scaled(1e-3), "sample_data": scaled(1e-3)},
            ["None of 1 time lags reaches 0.001 s", "must be microseconds", "sample 's1'"],
        ),
        ({"sample": scaled(1e-6), "sample_data": scaled(1e-6)}, ["must be microseconds"]),
        ({"sample": scaled(1e3), "sample_data": scaled(1e3)}, ["sample", "looks like nanoseconds: divide it by 1e3"]),
        ({"sample_data": scaled(1e3)}, ["sample_data.json", "looks like nanoseconds"]),
    ],
)
def test_raw_times_in_another_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: list[str]
) -> None:
    code, err = made(tmp_path, capsys, **changes)
    assert code == 2
    for word in words:
        assert word in err
    assert not list((tmp_path / "out").glob("*.pkl")) if (tmp_path / "out").exists() else True


def test_two_key_frames_of_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = made(tmp_path, capsys, sample_data=lambda rows: rows[1].update(is_key_frame=True))
    assert code == 2
    assert "[0] (sample 's0'), says its LiDAR key frame is 'd0' with 'data/LIDAR_CONCAT/0.pcd.bin'" in err
    assert "but [1] says it is 'd1' with 'data/LIDAR_CONCAT/1.pcd.bin'" in err


def test_data_that_calls_itself_invalid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def invalid(rows: Any) -> None:
        rows[2]["is_valid"] = False

    code, err = made(tmp_path, capsys, sample_data=invalid)
    assert code == 2
    assert "is_valid of 'd2' ('data/LIDAR_CONCAT/2.pcd.bin'), says false" in err
    code, err = made(tmp_path, capsys, "--accept=key-frame-valid", sample_data=invalid)
    assert code == 0
    assert "accepted: key-frame-valid" in err


def _resize(rows: Any, size: list[float]) -> None:
    rows[1]["size"] = size


def test_sizes_and_tokens_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: list[list[float]] = [[0, 4, 2], [1, -4, 2], [1, float("nan"), 2]]
    for size in sizes:
        code, err = made(tmp_path, capsys, sample_annotation=functools.partial(_resize, size=size))
        assert code == 2
        assert "sample_annotation.json': [1].size" in err
    code, err = made(tmp_path, capsys, sample=lambda rows: rows.append(copy.deepcopy(rows[0])))
    assert code == 2
    assert "[2].token is 's0', but must not be that of row [0] too" in err
