"""What else people have met with: annotations and times of another convention, and sound data that is odd."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datasets import create_t4_infos
from deploy import evaluate, predict
from eval.results import read_results
from tests.cases.conftest import DEPLOYMENT, Run

CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]
INFOS = "centerpoint_infos_val.pkl"
Tables = dict[str, list[dict[str, Any]]]


def copied(
    data: Path,
    folder: Path,
    edit: Callable[[dict[str, Any]], object] = lambda content: None,
    cloud: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
) -> Path:
    """The info file changed, and its point files where they are to be."""
    content = pickle.loads((data / INFOS).read_bytes())  # our own file
    edit(content)
    folder.mkdir(exist_ok=True)
    (folder / INFOS).write_bytes(pickle.dumps(content))
    for path in data.rglob("*.bin"):
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        if cloud is None:
            target.symlink_to(path)
        else:
            cloud(np.fromfile(path, "<f4").reshape(-1, 5)).astype("<f4").tofile(target)
    return folder


def scored(run: Run, root: Path, weights: dict[str, Any], out: Path, *more: object) -> tuple[int, str]:
    torch.save({"state_dict": weights, "meta": {"dataset_meta": {"classes": CLASSES}}}, out.with_suffix(".pth"))
    words = ("--checkpoint", out.with_suffix(".pth"), "--backend=pytorch", "--device=cpu", "--data-root", root)
    model = () if "--model-config" in more else ("--model-config", DEPLOYMENT)
    return run(evaluate, *model, *words, "--out", out, *more)


def boxes(change: Callable[[list[float]], list[float]]) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for sample in content["data_list"]:
            for instance in sample["instances"]:
                instance["bbox_3d"] = change([float(value) for value in instance["bbox_3d"]])

    return edit


@pytest.mark.parametrize(
    ("check", "change", "said"),
    [
        ("box-sides", lambda b: [*b[:3], b[4], b[3], *b[5:]], "times as wide as long. Length and width are exchanged"),
        ("box-yaw", lambda b: [*b[:6], math.degrees(b[6])], "look like degrees. Give radians"),
        ("box-sizes", lambda b: [*b[:3], *(100 * side for side in b[3:6]), b[6]], "it looks like centimetres"),
        ("box-sizes", lambda b: [*b[:3], *(side / 1000 for side in b[3:6]), b[6]], "it looks like kilometres"),
        ("box-places", lambda b: [b[0] + 89_000, b[1] + 42_000, *b[2:]], "They are in a map's frame"),
    ],
)
def test_boxes_of_another_convention(
    data: Path, weights: dict[str, Any], tmp_path: Path, run: Run, check: str, change: Any, said: str
) -> None:
    root = copied(data, tmp_path / "data", boxes(change))
    code, err = scored(run, root, weights, tmp_path / "out")
    assert code == 2
    assert str(root / INFOS) in err
    assert said in err
    assert f"--accept={check}" in err


def raw(data: Path, folder: Path, edit: Callable[[Tables], object]) -> Path:
    """The raw tables changed; point files are those of `data`."""
    source = next(data.rglob("annotation/sample_data.json")).parents[1]
    target = folder / "abc" / "0"
    (target / "annotation").mkdir(parents=True)
    for path in source.iterdir():
        if path.name != "annotation":
            (target / path.name).symlink_to(path)
    tables = {path.stem: json.loads(path.read_text()) for path in (source / "annotation").glob("*.json")}
    edit(tables)
    for name, rows in tables.items():
        (target / "annotation" / f"{name}.json").write_text(json.dumps(rows))
    return folder


def sizes(change: Callable[[list[float]], list[float]]) -> Callable[[Tables], None]:
    def edit(tables: Tables) -> None:
        for row in tables["sample_annotation"]:
            row["size"] = change(row["size"])

    return edit


def scalar_last(tables: Tables) -> None:
    for row in tables["sample_annotation"] + tables["ego_pose"]:
        row["rotation"] = [*row["rotation"][1:], row["rotation"][0]]


def other_poses(tables: Tables) -> None:
    for row in tables["ego_pose"]:
        row["translation"] = [value + 300.0 for value in row["translation"]]


@pytest.mark.parametrize(
    ("check", "edit", "said"),
    [
        ("box-sides", sizes(lambda s: [s[1], s[0], s[2]]), "T4's size (width, length, height)"),
        ("box-sizes", sizes(lambda s: [100 * side for side in s]), "it looks like centimetres"),
        ("box-points", scalar_last, "the order of quaternions (w, x, y, z)"),
        ("box-points", other_poses, "; 0 of them have one in their box"),
    ],
)
def test_raw_annotations_of_another_convention(
    data: Path, tmp_path: Path, run: Run, check: str, edit: Any, said: str
) -> None:
    root = raw(data, tmp_path / "raw", edit)
    out = ("--root", root, "--out", tmp_path / "out", "--split", "val")
    code, err = run(create_t4_infos, *out)
    assert code == 2
    assert said in err
    assert not list(tmp_path.rglob("*.pkl"))
    code, err = run(create_t4_infos, *out, *(f"--accept={name}" for name in (check, "box-points")))
    assert (code, f"accepted: {check}" in err) == (0, True)


def test_a_sensor_that_stands_where_its_calibration_does_not_say(data: Path, tmp_path: Path, run: Run) -> None:
    def raised(tables: Tables) -> None:
        for row in tables["calibrated_sensor"]:
            row["translation"] = [0.0, 0.0, 1.9]

    root = raw(data, tmp_path / "raw", raised)
    code, err = run(create_t4_infos, "--root", root, "--out", tmp_path / "out", "--split", "val")
    assert code == 0
    assert err.count("check: cloud-height") == 1
    assert "calibrated_sensor.json says that the sensor stands 1.9 m above the ground" in err
    assert "If the points are in base_link already, its translation must be 0" in err


@pytest.mark.parametrize("times", [1.75e9, np.linspace(0, 99_000, 400), -np.linspace(0, 1e8, 400)])
def test_times_of_points_that_are_no_lags(
    data: Path, weights: dict[str, Any], tmp_path: Path, run: Run, times: Any
) -> None:
    points = np.fromfile(next(data.rglob("*.bin")), "<f4").reshape(-1, 5)
    points = points[np.abs(points[:, :2]).max(axis=1) < 5][:400]
    np.c_[points, np.broadcast_to(times, len(points))].astype("<f4").tofile(tmp_path / "scan.bin")
    torch.save({"state_dict": weights, "meta": {"dataset_meta": {"classes": CLASSES}}}, tmp_path / "m.pth")
    words = ("--points", tmp_path / "scan.bin", "--model-config", DEPLOYMENT, "--checkpoint", tmp_path / "m.pth")
    columns = "--columns=x,y,z,intensity,ring,"
    code, err = run(predict, *words, f"{columns}time_lag", "--out", tmp_path / "a")
    assert code == 2
    assert "its column time_lag goes from" in err
    # The advice works.
    assert "name it column5 in --columns" in err
    code, err = run(predict, *words, f"{columns}column5", "--out", tmp_path / "b")
    assert (code, "time_lag" in err) == (0, False)


def test_key_frames_that_were_chosen_minutes_apart_are_sound(
    data: Path, weights: dict[str, Any], tmp_path: Path, run: Run
) -> None:
    def apart(content: dict[str, Any]) -> None:
        for index, sample in enumerate(content["data_list"]):
            sample["timestamp"] += 300.0 * index
            for sweep in sample["lidar_sweeps"]:
                sweep["timestamp"] += 300.0 * index

    code, err = scored(run, copied(data, tmp_path / "data", apart), weights, tmp_path / "out")
    assert code == 0
    assert "sweep-times" not in err


def features(count: int) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for sample in content["data_list"]:
            for holder in (sample, *sample["lidar_sweeps"]):
                holder["lidar_points"]["num_pts_feats"] = count

    return edit


def without_sweeps(content: dict[str, Any]) -> None:
    for sample in content["data_list"]:
        del sample["lidar_sweeps"]


def livox(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """In no order, four lines, to the front alone."""
    generator = np.random.default_rng(3)
    front = points[np.abs(np.arctan2(points[:, 1], points[:, 0])) < 0.7]
    front = front[generator.permutation(len(front))]
    made: NDArray[np.float32] = np.c_[front[:, :3], np.rint(front[:, 3]), generator.integers(0, 4, len(front))]
    return made.astype(np.float32)


SOUND: dict[str, tuple[Any, Any, str]] = {
    "livox": (lambda content: None, livox, ""),
    "sparse": (lambda content: None, lambda points: points[:: len(points) // 400], ""),
    "six columns": (features(6), lambda points: np.c_[points, points[:, 3] / 3000], "load_dim=6, use_dim=[0, 1, 2, 3]"),
    "four columns": (features(4), lambda points: points[:, :4], "load_dim=4, use_dim=4"),
    "no sweeps": (without_sweeps, None, "load_dim=5, use_dim=[0, 1, 2, 3]"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_data_that_is_odd_is_scored(
    data: Path, weights: dict[str, Any], tmp_path: Path, run: Run, name: str
) -> None:
    edit, cloud, loading = SOUND[name]
    root = copied(data, tmp_path / "data", edit, cloud)
    more: tuple[object, ...] = ()
    if loading:
        config = tmp_path / "model.py"
        config.write_text(
            f"_base_ = [{str(DEPLOYMENT)!r}]\n"
            f'pipe = [dict(type="LoadPointsFromFile", coord_type="LIDAR", {loading}), '
            'dict(type="Pack3DDetInputs", keys=["points"])]\n'
            "val_dataloader = dict(dataset=dict(pipeline=pipe))\n"
            "model = dict(pts_voxel_encoder=dict(in_channels=4))\n"
        )
        first = next(key for key in weights if key.endswith("pfn_layers.0.linear.weight"))
        columns = [0, 1, 2, *range(4, weights[first].shape[1])]
        weights = {**weights, first: weights[first][:, columns].contiguous()}
        more = ("--model-config", config)
    code, err = scored(run, root, weights, tmp_path / "out", *more)
    assert code == 0, err
    assert {check.check for check in read_results(tmp_path / "out/results.json").checks} <= {
        "class-without-ground-truth",
        "cloud-range",
        "dropped-pillars",
    }
