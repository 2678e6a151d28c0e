"""The table of models: what its rows measure, on a tiny model whose boxes and outputs are worked out here too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.boxes import Boxes3D
from benchmarks.models_page import models_page
from benchmarks.models_rows import box_differences, kitti_configs, measure
from models.config import load_model_config
from models.spec import ModelSpec

TINY = Path(__file__).parents[2] / "tests/data/deploy/tiny_centerpoint.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tiny model, the same under another name, and one that is refused."""
    folder = tmp_path_factory.mktemp("models")
    coder = "model = dict(pts_bbox_head=dict(bbox_coder=dict(max_num=200)))"
    twin = f"_base_ = [{str(TINY)!r}]\n{coder}\n"
    (folder / "one.py").write_text(twin)
    (folder / "two.py").write_text(twin)
    encoder = "model = dict(pts_voxel_encoder=dict(_delete_=True, type='HardSimpleVFE'))"
    (folder / "voxels.py").write_text(f"_base_ = [{str(TINY)!r}]\n{encoder}\n")
    found: dict[str, Any] = {}
    for name in ("one", "two", "voxels"):
        found[f"shipped: {name}"] = {"family": "shipped", "name": name, **measure(folder / f"{name}.py", found)}
    return found


def test_boxes_are_mmdet3ds_and_outputs_are_close(rows: dict[str, Any]) -> None:
    row = rows["shipped: one"]
    theirs, ours = row["predict"]["boxes"]
    assert theirs == ours > 3
    assert row["predict"]["without_partner"] == 0
    assert max(row["predict"]["largest"].values()) < 1e-3
    assert set(row["fp16"]) == set(row["int8"]) == {"heatmap", "reg", "height", "dim", "rot", "vel"}
    for name, distance in row["fp16"].items():
        assert 0 < distance < row["int8"][name] < 0.5


def test_an_equal_network_is_not_measured_twice(rows: dict[str, Any]) -> None:
    assert rows["shipped: two"]["same_as"] == "shipped: one"
    assert rows["shipped: two"]["abilities"] == rows["shipped: one"]["abilities"]


def test_the_page_has_every_row_and_every_no(rows: dict[str, Any]) -> None:
    page = models_page(rows)
    assert "- shipped: 3 configs: load 2" in page
    assert "`two` (the network of `one`)" in page
    assert "- load, `voxels`: voxels.py: model.pts\\_voxel\\_encoder is a 'HardSimpleVFE'" in page
    assert "- cuda, `one` and 1 more: int8/pts\\_backbone\\_neck\\_head.onnx: Node" in page
    # What only lacks an earlier step is no reason.
    assert "needs 'load'" not in page


def test_differences_of_boxes_by_hand() -> None:
    values = np.array([[0, 0, 0, 4, 2, 1, 3.1, 0, 0], [9, 0, 0, 4, 2, 1, 0, 0, 0]], np.float32)
    moved = values.copy()
    moved[0, 0], moved[0, 6], moved[1, 0] = 0.005, -3.1, 9.5
    scores, labels = np.array([0.9, 0.5], np.float32), np.array([0, 1])
    found = box_differences(Boxes3D(values, scores, labels), Boxes3D(moved, scores - np.float32(0.1), labels))
    assert found["boxes"] == [2, 2]
    assert found["without_partner"] == 2
    assert found["largest"] == {"center_m": 0.005, "size_m": 0.0, "yaw_rad": 0.083, "velocity_mps": 0.0, "score": 0.1}


def test_kitti_style_configs_are_understood(tmp_path: Path) -> None:
    specs = [ModelSpec.from_config(load_model_config(path)) for path in kitti_configs(tmp_path)]
    assert [spec.grid_size for spec in specs] == [(432, 496)] * 3 + [(216, 248)] * 2
    assert [spec.max_points_per_voxel for spec in specs] == [32, 100, 20, 32, 20]
    assert [len(spec.heads) for spec in specs] == [5, 5, 6, 5, 6]
