"""A folder of scans and a JSON of boxes, through the command that makes their info file and through our frames."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from numpy.typing import NDArray

from base.checks import checking
from base.errors import DataError
from datasets.create_infos import main
from datasets.frames import FrameSource, open_frames

Points = NDArray[np.float32]
CLASSES = ["car", "truck", "pedestrian"]
CAR: dict[str, Any] = {
    "label": "car",
    "x": 12.0,
    "y": 3.0,
    "z": 0.8,
    "l": 4.0,
    "w": 2.0,
    "h": 1.6,
    "yaw": 0.6,
    "vx": 5.0,
    "vy": -1.0,
}
WALKER: dict[str, Any] = {
    "label": "pedestrian",
    "x": 6.0,
    "y": -4.0,
    "z": 0.9,
    "l": 0.8,
    "w": 0.8,
    "h": 1.8,
    "yaw": -2.0,
}


def scan(seed: int) -> Points:
    """Flat ground, a wall, and points in and around the two objects; intensities 0 to 255."""
    rng = np.random.default_rng(seed)
    angle, distance = rng.uniform(-math.pi, math.pi, 2000), rng.uniform(3, 50, 2000)
    ground = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), rng.normal(0, 0.02, 2000)])
    wall = np.column_stack([rng.uniform(-30, 30, 600), np.full(600, -9.0), rng.uniform(0, 3, 600)])
    near = [np.array([box[axis] for axis in "xyz"], float) + rng.uniform(-1.5, 1.5, (300, 3)) for box in (CAR, WALKER)]
    xyz = np.concatenate([ground, wall, *near])
    return np.column_stack([xyz, rng.integers(0, 256, len(xyz))]).astype("<f4")


def inside(points: Points, box: dict[str, Any]) -> int:
    """Points in a box, by complex numbers."""
    flat = (points[:, 0].astype(float) - box["x"]) + 1j * (points[:, 1].astype(float) - box["y"])
    flat *= np.exp(-1j * box["yaw"])
    found = (abs(flat.real) <= box["l"] / 2) & (abs(flat.imag) <= box["w"] / 2)
    return int((found & (abs(points[:, 2].astype(float) - box["z"]) <= box["h"] / 2)).sum())


LABELS: dict[str, Any] = {
    "frames": [
        {"file": "scans/b.bin", "scene": "s", "timestamp": 100.0, "boxes": [CAR, {**WALKER, "num_points": 77}]},
        {"file": "scans/a.bin", "scene": "s", "timestamp": 100.1, "boxes": [WALKER]},
    ]
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scans of four numbers a point, and `boxes.json`."""
    (tmp_path / "scans").mkdir()
    for seed, name in enumerate("ba"):
        scan(seed).tofile(tmp_path / "scans" / f"{name}.bin")
    (tmp_path / "boxes.json").write_text(json.dumps(LABELS))
    return tmp_path


def config(root: Path, kind: str = "T4Dataset", *, load_dim: int = 5, sweeps: int = 0) -> Config:
    pipeline: list[dict[str, Any]] = [
        {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": load_dim, "use_dim": load_dim},
        {"type": "PointsRangeFilter", "point_cloud_range": [-60, -60, -5, 60, 60, 5]},
        {"type": "Pack3DDetInputs", "keys": ["points"]},
    ]
    if load_dim == 5:
        joined = {"type": "LoadPointsFromMultiSweeps", "sweeps_num": sweeps, "use_dim": [0, 1, 2, 3, 4]}
        pipeline.insert(1, {**joined, "pad_empty_sweeps": True, "remove_close": False, "test_mode": True})
    dataset = {
        "type": kind,
        "data_root": str(root),
        "ann_file": "centerpoint_infos_val.pkl",
        "data_prefix": {"pts": "of/the/config", "sweeps": "of/the/config"},
        "pipeline": pipeline,
        "metainfo": {"classes": CLASSES},
        "test_mode": True,
        "box_type_3d": "LiDAR",
    }
    if kind != "T4Dataset":
        dataset["modality"] = {"use_lidar": True, "use_camera": False}
    return Config({"val_dataloader": {"dataset": dataset}})


def made(root: Path, *options: str, columns: str = "--columns=x,y,z,intensity") -> Path:
    labels = [] if "--no-labels" in options else ["--labels", str(root / "boxes.json")]
    rest = [option for option in options if option != "--no-labels"]
    assert main(["--root", str(root), columns, *labels, "--log-level=WARNING", *rest]) == 0
    return root


@pytest.mark.parametrize("kind", ["T4Dataset", "NuScenesDataset", "KittiDataset"])
@pytest.mark.parametrize("load_dim", [5, 4])
def test_boxes_and_points_reach_any_config(root: Path, kind: str, load_dim: int) -> None:
    frames = open_frames(config(made(root), kind, load_dim=load_dim))
    assert frames.class_names == tuple(CLASSES)
    first, second = frames
    assert [(frame.token, frame.scene, frame.timestamp_s) for frame in frames] == [
        ("scans/b", "s", 100.0),
        ("scans/a", "s", 100.1),
    ]
    for seed, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.points[:, :4], scan(seed))
        assert frames.most_points(-1)[0] == len(scan(seed))
        # The fifth number, which the files lack, is the time lag of the key frame.
        assert not frame.points[:, 4:].any()
    keys = ("x", "y", "z", "l", "w", "h", "yaw")
    expected = [[box[key] for key in keys] for box in (CAR, WALKER)]
    np.testing.assert_allclose(first.ground_truth.boxes[:, :7], expected, atol=1e-6)
    np.testing.assert_allclose(first.ground_truth.boxes[:, 7:], np.array([[5, -1], [np.nan, np.nan]]))
    assert first.ground_truth.labels.tolist() == [0, 2]
    assert first.ground_truth.num_points is not None
    assert first.ground_truth.num_points.tolist() == [inside(scan(0), CAR), 77]
    assert second.ground_truth.num_points is not None
    assert second.ground_truth.num_points.tolist() == [inside(scan(1), WALKER)]
    assert min(inside(scan(0), CAR), inside(scan(1), WALKER)) > 5


def test_columns_are_found_by_name(root: Path) -> None:
    for seed, name in enumerate("ba"):
        values = scan(seed)[:, [3, 2, 0, 1]]
        np.column_stack([values, np.arange(len(values))]).astype("<f4").tofile(root / "scans" / f"{name}.bin")
    made(root, columns="--columns=intensity,z,x,y,column4")
    frame = open_frames(config(root))[0]
    np.testing.assert_array_equal(frame.points[:, :4], scan(0))


def test_a_column_that_files_lack_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate("ba"):
        scan(seed)[:, :3].copy().tofile(root / "scans" / f"{name}.bin")
    made(root, columns="--columns=x,y,z")
    with pytest.raises(DataError, match="holds x, y, z, as its info file says; the model also takes intensity"):
        open_frames(config(root))[0]


def test_pcd_files_need_no_columns(root: Path) -> None:
    points = scan(0)
    header = "VERSION 0.7\nFIELDS intensity x y z\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    header += f"WIDTH {len(points)}\nHEIGHT 1\nPOINTS {len(points)}\nDATA binary\n"
    (root / "only").mkdir()
    (root / "only" / "one.pcd").write_bytes(header.encode() + points[:, [3, 0, 1, 2]].tobytes())
    assert main(["--root", str(root / "only"), "--log-level=WARNING"]) == 0
    (frame,) = open_frames(config(root / "only"))
    np.testing.assert_array_equal(frame.points[:, :4], points)


def test_scans_without_boxes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(root, "--no-labels")
    assert "no frame has boxes: the file serves prediction and calibration" in capsys.readouterr().out
    frames = open_frames(config(root))
    assert [(frame.token, len(frame.ground_truth)) for frame in frames] == [("scans/a", 0), ("scans/b", 0)]
    assert frames.class_names == tuple(CLASSES)


def test_other_names_are_mapped(root: Path) -> None:
    made(root, "--map", "pedestrian=truck")
    labels = [frame.ground_truth.labels.tolist() for frame in open_frames(config(root))]
    assert labels == [[0, 1], [1]]


def test_earlier_frames_are_swept_into_the_key_frame(root: Path) -> None:
    labels = copy.deepcopy(LABELS)
    turn = 0.3
    rotation = [math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2)]
    labels["frames"][0]["ego2global"] = {"translation": [100.0, 50.0, 1.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
    labels["frames"][1]["ego2global"] = {"translation": [102.0, 50.0, 1.0], "rotation": rotation}
    (root / "boxes.json").write_text(json.dumps(labels))
    made(root, "--max-sweeps=1")
    frames: FrameSource = open_frames(config(root, sweeps=1))
    points = frames[1].points
    own = len(scan(1))
    np.testing.assert_array_equal(points[:own, :4], scan(1))
    earlier = scan(0).astype(float)
    back = (earlier[:, 0] - 2.0 + 1j * earlier[:, 1]) * np.exp(-1j * turn)
    expected = np.column_stack([back.real, back.imag, earlier[:, 2], earlier[:, 3], np.full(len(back), 0.1)])
    np.testing.assert_allclose(points[own:], expected, atol=1e-4)


def test_sweeps_of_a_sensor_that_is_lifted_pitch_about_the_sensor(root: Path) -> None:
    labels = copy.deepcopy(LABELS)
    pitch, height = 0.2, 1.5
    labels["frames"][0]["ego2global"] = np.eye(4).tolist()
    rotation = [math.cos(pitch / 2), 0.0, math.sin(pitch / 2), 0.0]
    labels["frames"][1]["ego2global"] = {"translation": [1.0, 0.0, 0.0], "rotation": rotation}
    (root / "boxes.json").write_text(json.dumps(labels))
    made(root, "--max-sweeps=1", f"--lidar-height={height}")
    frame = open_frames(config(root, sweeps=1))[1]
    own = len(scan(1))
    np.testing.assert_allclose(frame.points[:own, 2], scan(1)[:, 2] + height, atol=1e-6)
    np.testing.assert_allclose(frame.ground_truth.boxes[:, 2], WALKER["z"] + height, atol=1e-6)
    earlier = scan(0).astype(float)
    # About y, as a complex number of z and x.
    back = (earlier[:, 2] + 1j * (earlier[:, 0] - 1.0)) * np.exp(-1j * pitch)
    moved = np.column_stack([back.imag, earlier[:, 1], back.real + height])
    kept = (np.abs(moved) < [60, 60, 5]).all(axis=1)
    np.testing.assert_allclose(frame.points[own:, :3], moved[kept], atol=1e-4)


Change = Callable[[dict[str, Any]], object]
BROKEN: tuple[tuple[Change, str], ...] = (
    (lambda x: x["frames"][1]["boxes"][0].pop("yaw"), "frames[1].boxes[0] lacks 'yaw'"),
    (lambda x: x["frames"][0]["boxes"][1].update(l=-1.0), "frames[0].boxes[1].l is -1.0"),
    (lambda x: x["frames"][0]["boxes"][1].update(length=1.0), "frames[0].boxes[1].length is no known key"),
    (lambda x: x["frames"][0]["boxes"][1].update(x="1"), "frames[0].boxes[1].x is '1'"),
    (lambda x: x["frames"][1].update(file="scans/b.bin"), "must not be that of frames[0] too"),
    (lambda x: x["frames"][1].update(token="scans/b"), "frames[1].token is 'scans/b', but must not be that of"),
    (lambda x: x["frames"][1].update(file="../b.bin"), "must not leave its folder by '..'"),
    (lambda x: x["frames"][1].update(file="scans/c.bin"), "frames[1].file"),
    (lambda x: x["frames"][1].pop("boxes"), "frames[1] lacks 'boxes', which frames[0] has"),
    (lambda x: x["frames"][1].pop("timestamp"), "frames[1] lacks 'timestamp', which frames[0] has"),
    (lambda x: x["frames"][1].update(timestamp=100.0), "frames[0].timestamp"),
    (lambda x: x.update(classes=["car"]), "frames[0].boxes[1].label is 'pedestrian', but must be one of car"),
    (lambda x: x["frames"].clear(), "frames is []"),
)


@pytest.mark.parametrize(("change", "said"), BROKEN)
def test_what_is_wrong_is_told_with_its_place(
    root: Path, change: Change, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = copy.deepcopy(LABELS)
    change(labels)
    (root / "boxes.json").write_text(json.dumps(labels))
    code = main(["--root", str(root), "--columns=4", "--labels", str(root / "boxes.json")])
    error = capsys.readouterr().err
    assert code == 2, error
    assert said in " ".join(error.split())
    assert "boxes.json" in error
    assert not list(root.glob("*.pkl"))


def test_boxes_of_another_frame_than_the_points(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = copy.deepcopy(LABELS)
    labels["frames"][0]["boxes"] = [{**CAR, "x": -5.0, "y": y, "z": 40.0} for y in np.linspace(-20, 20, 12)]
    (root / "boxes.json").write_text(json.dumps(labels))
    arguments = ["--root", str(root), "--columns=4", "--labels", str(root / "boxes.json")]
    assert main(arguments) == 2
    assert "of them have one in their box" in capsys.readouterr().err
    assert main([*arguments, "--accept=box-points", "--log-level=ERROR"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "hold numbers without names. Give them with --columns"),
        (["--columns=2"], "--columns is 2; give 4 to 16, or names"),
        (["--columns=x,y,height,depth"], "'depth' is no name of a column"),
        (["--columns=5"], "its values look like 4 a point"),
        (["--columns=4", "--max-sweeps=2"], "--max-sweeps needs timestamp and ego2global of every frame"),
    ],
)
def test_options_that_cannot_be(root: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(root), "--labels", str(root / "boxes.json"), *options]) == 2
    assert said in capsys.readouterr().err


def test_frames_whose_boxes_are_elsewhere_are_told_once(root: Path) -> None:
    labels = copy.deepcopy(LABELS)
    for frame in labels["frames"]:
        frame["boxes"] = [{**CAR, "x": -5.0, "y": y, "z": 40.0, "num_points": 9} for y in np.linspace(-20, 20, 12)]
    (root / "boxes.json").write_text(json.dumps(labels))
    made(root, "--accept=box-points")
    with checking() as record:
        list(open_frames(config(root)))
    found = {item.check: item for item in record.results()}
    assert found["frame-box-points"].count == 1
    assert "0 of them have one in their box" in found["frame-box-points"].messages[0]
    (root / "boxes.json").write_text(json.dumps(LABELS))
    made(root)
    with checking() as record:
        list(open_frames(config(root)))
    assert "frame-box-points" not in {item.check for item in record.results()}


def test_samples_that_share_a_scan_are_an_error(root: Path) -> None:
    path = made(root) / "centerpoint_infos_val.pkl"
    content = pickle.loads(path.read_bytes())
    first = content["data_list"][0]
    content["data_list"] = [{**first, "token": str(i), "timestamp": 100 + i / 10} for i in range(10)]
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"10 of 10 samples name a point file that another one names.*scans/b\.bin"):
        open_frames(config(root))
    content["data_list"] = content["data_list"][:9]
    path.write_bytes(pickle.dumps(content))
    assert len(open_frames(config(root))) == 9
