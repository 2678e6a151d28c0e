"""ModelSpec against the published architecture, and against configs that contradict themselves."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import ConfigError
from models.build import import_mmdet3d
from models.config import load_model_config
from models.spec import ModelSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "model"
# name, grid, head, max voxels: DESIGN of the three shipped networks.
SHIPPED = [
    ("centerpoint_t4_demo", 320, 160, 30000),
    ("second_secfpn_4xb16_121m_base_amp", 760, 760, 64000),
    ("second_secfpn_8xb16_121m_j6gen2_base_amp", 1020, 510, 96000),
]
# What artifacts of these models hold since before a specification could say more.
FINGERPRINTS = {
    "centerpoint_t4_demo": "6d99dbe1008dbc1ccdc9fe65974e0346266d4979d98fa69b264ddbfbd2ca7224",
    "second_secfpn_4xb16_121m_base_amp": "66d4c292e7e827380699cc59dabc0ba35261b43f75c0ad4bcf0c6b46b4d210d0",
    "second_secfpn_8xb16_121m_j6gen2_base_amp": "5c1a5c612c823f560e624007af1bfd1cda1672212528c12d473ad17597970d3e",
}


def _config(name: str = "centerpoint_t4_demo") -> Any:
    return load_model_config(CONFIGS / f"{name}.py")


@pytest.mark.parametrize(("name", "grid", "head", "voxels"), SHIPPED)
def test_shipped_configs(name: str, grid: int, head: int, voxels: int) -> None:
    spec = ModelSpec.from_config(_config(name))
    assert spec.name == name
    assert spec.grid_size == (grid, grid)
    assert spec.canvas_shape == (1, 32, grid, grid)
    assert spec.max_voxels == voxels
    assert spec.encoder_shape(7) == (7, 32, 11)
    encoder, head_component = spec.components
    assert encoder.inputs[0].shape == (None, 32, 11)
    assert encoder.outputs[0].shape == (None, 1, 32)
    assert [(t.name, t.shape) for t in head_component.outputs] == [
        ("heatmap", (1, 5, head, head)),
        ("reg", (1, 2, head, head)),
        ("height", (1, 1, head, head)),
        ("dim", (1, 3, head, head)),
        ("rot", (1, 2, head, head)),
        ("vel", (1, 2, head, head)),
    ]


@pytest.mark.parametrize(("name", "fingerprint"), FINGERPRINTS.items())
def test_fingerprints_of_released_models_stay(name: str, fingerprint: str) -> None:
    assert ModelSpec.from_config(_config(name)).fingerprint() == fingerprint


def test_round_trip_through_json() -> None:
    spec = dataclasses.replace(ModelSpec.from_config(_config()), rot_y_axis_reference=True)
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.fingerprint() == spec.fingerprint()
    assert dataclasses.replace(spec, max_voxels=1).fingerprint() != spec.fingerprint()


def test_foreign_specification_is_refused() -> None:
    values = ModelSpec.from_config(_config()).to_dict()
    values["beams"] = values.pop("max_voxels")
    with pytest.raises(ConfigError, match=r"unknown fields \['beams'\] and lacks \['max_voxels'\]"):
        ModelSpec.from_dict(values)


def test_grid_that_does_not_match() -> None:
    cfg = _config()
    cfg.model.pts_middle_encoder.output_shape = [300, 320]
    with pytest.raises(ConfigError, match=r"output_shape is \(300, 320\).* a grid of 320 x 320"):
        ModelSpec.from_config(cfg)


def test_other_contradictions() -> None:
    cfg = _config()
    cfg.model.test_cfg.pts.nms_type = "oval"
    with pytest.raises(ConfigError, match="nms_type is 'oval', but must be 'circle' or 'rotate'"):
        ModelSpec.from_config(cfg)
    cfg = _config()
    cfg.model.pts_voxel_encoder.voxel_size = [0.2, 0.2, 8]
    with pytest.raises(ConfigError, match=r"pts_voxel_encoder.voxel_size is \(0.2, 0.2, 8.0\)"):
        ModelSpec.from_config(cfg)
    cfg = _config()
    cfg.model.pts_voxel_encoder.update(type="BackwardPillarFeatureNet", legacy=True)
    with pytest.raises(ConfigError, match=r"is a BackwardPillarFeatureNet, which has both offsets.* Set legacy=False"):
        ModelSpec.from_config(cfg)
    cfg = _config()
    del cfg.model["pts_bbox_head"]
    with pytest.raises(ConfigError, match=r"model.pts_bbox_head is missing"):
        ModelSpec.from_config(cfg)


def _changed(path: str, value: Any) -> Any:
    """The demo's config with another value at a place; `...` takes the key away."""
    cfg = _config()
    *parents, last = path.split(".")
    node = cfg.model
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    if value is ...:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    return cfg


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data_preprocessor.voxel_layer.max_voxels", 10**12, "is 1000000000000, but must be at most 10000000"),
        ("data_preprocessor.voxel_layer.max_voxels", (20000, 0.5), "is 0.5, but must be a whole number"),
        ("data_preprocessor.voxel_layer.max_voxels", 9_000_000, "would take 11.8 GB; 2 GB is the most"),
        ("data_preprocessor.voxel_layer.max_num_points", True, "is True, but must be a whole number"),
        ("data_preprocessor.voxel_layer.max_num_points", ..., "lacks 'max_num_points'"),
        ("data_preprocessor.voxel_layer.voxel_size", [0.32, 0.0, 8.0], "voxel_size[1] is 0.0, but must be at least"),
        ("data_preprocessor.voxel_layer.voxel_size", [0.32, -0.32, 8.0], "voxel_size[1] is -0.32, but must be"),
        ("data_preprocessor.voxel_layer.voxel_size", [float("nan")] * 3, "voxel_size[0] is nan, but must be"),
        ("data_preprocessor.voxel_layer.voxel_size", [0.32, 0.32], "voxel_size has 2 values, but must have 3"),
        ("data_preprocessor.voxel_layer.voxel_size", [1e-3, 1e-3, 8.0], "a grid of 102400 x 102400 (x, y)"),
        (
            "data_preprocessor.voxel_layer.point_cloud_range",
            [51.2, -51.2, -3.0, -51.2, 51.2, 5.0],
            "has nothing between 51.2 and -51.2 along x",
        ),
        ("data_preprocessor.voxel_type", "dynamic", "voxel_type is 'dynamic', but must be 'hard'"),
        ("pts_voxel_encoder.in_channels", "five", "in_channels is 'five', but must be a whole number"),
        ("pts_voxel_encoder.feat_channels", [32, -32], "feat_channels[1] is -32, but must be at least 1"),
        ("pts_voxel_encoder.feat_channels", [32, 8192], "would take 3.1 GB"),
        ("pts_voxel_encoder", [], "pts_voxel_encoder is [], but must be a dictionary"),
        ("pts_backbone.out_channels", [64, 10**9, 192], "out_channels[1] is 1000000000, but must be at most 8192"),
        ("pts_backbone.layer_strides", [2, 2, 4], "level 2 of the neck has 80 x 80 cells, but"),
        ("pts_backbone.layer_strides", [2, 2], "layer_strides has 2 levels, pts_neck.upsample_strides 3"),
        ("pts_bbox_head.bbox_coder.out_size_factor", 0, "out_size_factor is 0, but must be at least 1"),
        ("pts_bbox_head.bbox_coder.post_center_range", ..., "bbox_coder lacks 'post_center_range'"),
        ("pts_bbox_head.bbox_coder.score_threshold", 10, "score_threshold is 10, but must be at most 1"),
        ("pts_bbox_head.common_heads.dim", (4, 2), "output 'dim' of the head has 4 channels, but boxes are made of 3"),
        ("pts_bbox_head.common_heads.rot", ..., "but boxes are made of height, dim, rot"),
        ("pts_bbox_head.common_heads", {"reg": 2}, "common_heads.reg is 2, but must be a list"),
        ("pts_bbox_head.tasks.0.class_names", ["car", "car"], "a class stands twice"),
        ("pts_bbox_head.tasks", [], "tasks is [], but must be at least 1 values long"),
        ("test_cfg.pts.post_max_size", ..., "model.test_cfg.pts lacks 'post_max_size'"),
        ("test_cfg.pts.nms_type", ..., "model.test_cfg.pts lacks 'nms_type'"),
        ("test_cfg.pts", None, "model.test_cfg.pts is missing"),
        ("pts_middle_encoder.output_shape", 320, "output_shape is 320, but must be a list"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelSpec.from_config(_changed(path, value))
    assert message in str(caught.value)
    assert "centerpoint_t4_demo.py" in str(caught.value)


def test_what_a_config_leaves_out_is_mmdet3ds_default() -> None:
    """The stock coder's own defaults say what is right."""
    import_mmdet3d()
    from mmdet3d.models.task_modules.coders import CenterPointBBoxCoder

    stock = CenterPointBBoxCoder(pc_range=[0, 0], out_size_factor=1, voxel_size=[1, 1])
    spec = ModelSpec.from_config(_changed("pts_bbox_head.bbox_coder.max_num", ...))
    assert spec.max_detections_before_nms == stock.max_num == 100
    spec = ModelSpec.from_config(_changed("pts_bbox_head.bbox_coder.score_threshold", ...))
    assert stock.score_threshold is None
    assert spec.score_threshold == 0.0, "no sigmoid lies below"
    assert ModelSpec.from_config(_changed("data_preprocessor.voxel_layer.max_voxels", ...)).max_voxels == 20000
    assert ModelSpec.from_config(_changed("pts_bbox_head.norm_bbox", ...)).norm_bbox


def test_numbers_that_numpy_computed_are_numbers() -> None:
    cfg = _changed("pts_middle_encoder.output_shape", np.array([320, 320]))
    cfg.model.data_preprocessor.voxel_layer.max_num_points = np.int64(32)
    assert ModelSpec.from_config(cfg) == ModelSpec.from_config(_config())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_voxels", "many", "max_voxels is 'many', but must be a whole number"),
        ("heads", [{"name": "heatmap", "channels": 5}], "but boxes are made of height, dim, rot"),
        ("heads", 3, "heads is 3, but must be a list"),
        ("voxel_size", [1e-3, 1e-3, 1e-3], "make a grid of 102400 x 102400"),
        ("nms_type", "oval", "nms_type is 'oval', but must be 'circle' or 'rotate'"),
        ("nms_type", "rotate", "which suppresses by overlap, but there is no nms_thr"),
    ],
)
def test_a_stored_specification_is_checked_as_a_config_is(key: str, value: Any, message: str) -> None:
    values = ModelSpec.from_config(_config()).to_dict() | {key: value}
    with pytest.raises(ConfigError, match=re.escape(message)):
        ModelSpec.from_json(json.dumps(values), "head.onnx")


def test_a_stored_specification_that_is_no_object() -> None:
    with pytest.raises(ConfigError, match=r"head\.onnx' is not valid JSON"):
        ModelSpec.from_json("{", "head.onnx")
    with pytest.raises(ConfigError, match="but must be a dictionary"):
        ModelSpec.from_json("[1]", "head.onnx")


def test_imports_of_a_config_that_fail(tmp_path: Path) -> None:
    demo = CONFIGS / "centerpoint_t4_demo.py"
    file = tmp_path / "mine.py"
    file.write_text(f"_base_ = ['{demo}']\ncustom_imports = dict(imports=['..x'], allow_failed_imports=False)\n")
    with pytest.raises(ConfigError, match=r"custom_imports is .*'\.\.x'.*; it must be dict"):
        load_model_config(file)


def test_bad_config_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_model_config(tmp_path / "none.py")
    (tmp_path / "typo.py").write_text("model = dict(type=Centre)\n")
    with pytest.raises(ConfigError, match=r"typo.py' cannot be read: NameError"):
        load_model_config(tmp_path / "typo.py")
    (tmp_path / "deploy.py").write_text("checkpoint_path = 'x'\n")
    with pytest.raises(ConfigError, match="has no 'model'"):
        load_model_config(tmp_path / "deploy.py")
