from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets.synthetic import preview


def test_statistics_by_hand() -> None:
    cloud = np.array([[3, 4, 0, 10, 0], [30, 40, 0, 20, 1], [0, 70, 0, 30, 1]], np.float32)
    car = {"bbox_3d": [3, 4, 0, 4, 2, 1.5, 0], "bbox_label_3d": 0, "gt_nusc_name": "car", "num_lidar_pts": 3}
    hidden = {**car, "num_lidar_pts": 0}
    ignored = {**car, "bbox_label_3d": -1}
    summary = preview.statistics([cloud], [[car, hidden, ignored]])
    assert summary["points_per_beam"] == [1.0, 2.0]
    shares = dict(zip(summary["range_edges_m"], summary["share_of_points_by_range"], strict=False))
    assert (shares[0], shares[50], shares[60]) == (0.3333, 0.3333, 0.3333)
    near = summary["objects"]["car"][0]
    assert near == {
        "per_frame": 2.0,
        "seen_share": 0.5,
        "under_5_points_share_of_seen": 1.0,
        "median_points_of_seen": 3.0,
    }


def test_pictures_are_written(tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = next((tiny_dataset / "lidar").glob("*.bin"))
    argv = ["--data", str(tiny_dataset), "--out", str(tmp_path / "p"), "--pictures", "1", "--scan", str(scan)]
    assert preview.main(argv) == 0
    assert "points a frame over 3 frames" in capsys.readouterr().out
    for name in ("bev_000.png", "scan.png", "statistics.png"):
        assert (tmp_path / "p" / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "p" / "statistics.json").read_text())["frames"] == 3


def test_beams_that_none_are(tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = tmp_path / "scan.bin"
    for ring in (-1, 4e9):
        np.array([[1, 2, 3, 4, ring]], "<f4").tofile(scan)
        argv = ["--data", str(tiny_dataset), "--out", str(tmp_path / "p"), "--frames", "1", "--scan", str(scan)]
        assert preview.main(argv) == 2
        assert "The fifth number of a point is its beam, 0 to 4095" in capsys.readouterr().err


def test_frames_without_objects_are_drawn(tiny_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dataset, tmp_path / "data")
    file = tmp_path / "data" / "centerpoint_infos_val.pkl"
    info = pickle.loads(file.read_bytes())
    for sample in info["data_list"]:
        sample["instances"] = []
    file.write_bytes(pickle.dumps(info))
    assert preview.main(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "p"), "--pictures", "1"]) == 0
    assert (tmp_path / "p" / "statistics.png").read_bytes().startswith(b"\x89PNG")


def test_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preview.main(["--data", str(tmp_path / "no"), "--out", str(tmp_path / "p")]) == 2
    assert "centerpoint_infos_val.pkl' does not exist" in capsys.readouterr().err
