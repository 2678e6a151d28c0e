"""What cannot be deployed is refused by its name; what only looks like it is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from base.errors import ConfigError
from models.build import build_model
from models.config import load_model_config
from models.spec import ModelSpec
from models.unsupported import random_steps, step_kind

DEMO = Path(__file__).resolve().parents[2] / "configs" / "model" / "centerpoint_t4_demo.py"
FLIP = {"type": "RandomFlip3D"}
STILL = {
    "type": "GlobalRotScaleTrans",
    "rot_range": [0, 0],
    "scale_ratio_range": [1.0, 1.0],
    "translation_std": [0, 0, 0],
}
# The wrapper of mmdet3d's own nuScenes configs, which makes one version of a frame.
ONE = {"type": "MultiScaleFlipAug3D", "img_scale": (1333, 800), "pts_scale_ratio": 1, "flip": False}
ONE |= {"transforms": [STILL, FLIP]}


def with_step(step: dict[str, Any]) -> Any:
    cfg = load_model_config(DEMO)
    cfg.val_dataloader.dataset.pipeline.insert(2, step)
    return cfg


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"flip": True, "pcd_horizontal_flip": True}, "flip=True, pts_scale_ratio=1"),
        ({"flip": True}, "flip=True"),
        ({"pts_scale_ratio": [0.95, 1.0, 1.05]}, "pts_scale_ratio=[0.95, 1.0, 1.05]"),
        ({"pts_scale_ratio": 0.9}, "pts_scale_ratio=0.9"),
        ({"img_scale": [(1333, 800), (1600, 900)]}, "several img_scale"),
    ],
)
def test_augmentation_at_test_time_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelSpec.from_config(with_step(ONE | changes))
    assert "val_dataloader.dataset.pipeline[2] is a MultiScaleFlipAug3D (" in str(caught.value)
    assert what in str(caught.value)
    assert "test-time augmentation" in str(caught.value)


def test_another_frameworks_augmentation() -> None:
    with pytest.raises(ConfigError, match=r"pipeline\[2\] is a TestTimeAug .*test-time augmentation"):
        ModelSpec.from_config(with_step({"type": "mmcv.TestTimeAug", "transforms": [[FLIP], [STILL]]}))


@pytest.mark.parametrize("scale", [1, 1.0, [1.0], (1,)])
def test_a_wrapper_around_one_version_is_none(scale: Any) -> None:
    spec = ModelSpec.from_config(with_step(ONE | {"pts_scale_ratio": scale}))
    assert spec == ModelSpec.from_config(load_model_config(DEMO))


@pytest.mark.parametrize(
    ("part", "changes", "what"),
    [
        (
            "data_preprocessor",
            {"voxel_type": "dynamic"},
            "is 'dynamic', but must be 'hard'. Dynamic pillars",
        ),
        ("data_preprocessor", {"voxel_type": "cylindrical"}, "voxel_type is 'cylindrical', but must be 'hard'."),
        ("data_preprocessor.voxel_layer", {"max_num_points": -1}, "max_num_points is -1, but must be at least 1"),
        ("data_preprocessor.voxel_layer", {"max_voxels": (-1, -1)}, "-1 stands for dynamic pillars"),
        ("data_preprocessor.voxel_layer", {"max_voxels": -1}, "-1 stands for dynamic pillars"),
        ("pts_voxel_encoder", {"type": "DynamicPillarFeatureNet"}, "is a 'DynamicPillarFeatureNet'. Dynamic pillars"),
        ("pts_voxel_encoder", {"type": "mmdet3d.HardSimpleVFE"}, "is a 'HardSimpleVFE': a network on voxels"),
        ("pts_middle_encoder", {"type": "SparseEncoder"}, "is a 'SparseEncoder': a network on voxels"),
    ],
)
def test_other_pillars_and_voxels_are_refused_by_name(part: str, changes: dict[str, Any], what: str) -> None:
    cfg = load_model_config(DEMO)
    node = cfg.model
    for key in part.split("."):
        node = node[key]
    node.update(changes)
    with pytest.raises(ConfigError, match=re.escape(what)):
        ModelSpec.from_config(cfg)


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([FLIP, STILL, ONE], []),
        ([FLIP | {"flip_ratio_bev_vertical": 0.5}], ["RandomFlip3D"]),
        ([STILL | {"rot_range": [-0.1, 0.1]}], ["GlobalRotScaleTrans"]),
        ([STILL | {"scale_ratio_range": [0.9, 1.1]}], ["GlobalRotScaleTrans"]),
        ([STILL | {"translation_std": 0.2}], ["GlobalRotScaleTrans"]),
        ([{"type": "GlobalRotScaleTrans"}], ["GlobalRotScaleTrans"]),
        ([{"type": "mmdet3d.PointShuffle"}], ["PointShuffle"]),
        # The wrapper decides on flips and scale by itself; on nothing else.
        ([ONE | {"transforms": [FLIP | {"flip_ratio_bev_horizontal": 0.5}]}], []),
        ([ONE | {"transforms": [STILL | {"scale_ratio_range": [0.9, 1.1]}]}], []),
        ([ONE | {"transforms": [STILL | {"rot_range": [-0.1, 0.1]}, FLIP]}], ["GlobalRotScaleTrans"]),
    ],
)
def test_steps_that_draw_at_random(steps: list[Any], found: list[str]) -> None:
    assert list(random_steps(steps)) == found


@pytest.mark.parametrize("kind", [10**5000, ["T4Dataset"], None, 1.5], ids=["long", "list", "none", "float"])
def test_a_type_that_is_no_name_is_none(kind: object) -> None:
    assert step_kind({"type": kind}) == ""


def test_a_layer_of_no_type_is_told_by_its_config() -> None:
    """mmengine's registry has a RuntimeError for it."""
    cfg = load_model_config(DEMO)
    cfg.model.pts_backbone.conv_cfg = {"type": ""}
    with pytest.raises(ConfigError, match=r"mmdet3d cannot build the model of '.*centerpoint_t4_demo\.py'"):
        build_model(cfg)
