"""ModelSpec against the published architecture, and against configs that contradict themselves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from base.errors import ConfigError
from models.config import load_model_config
from models.spec import ModelSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "model"
# name, grid, head, max voxels: DESIGN of the three shipped networks.
SHIPPED = [
    ("centerpoint_t4_demo", 320, 160, 30000),
    ("second_secfpn_4xb16_121m_base_amp", 760, 760, 64000),
    ("second_secfpn_8xb16_121m_j6gen2_base_amp", 1020, 510, 96000),
]


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
    cfg.model.test_cfg.pts.nms_type = "rotate"
    with pytest.raises(ConfigError, match="nms_type is 'rotate'; only 'circle'"):
        ModelSpec.from_config(cfg)
    cfg = _config()
    cfg.model.pts_voxel_encoder.voxel_size = [0.2, 0.2, 8]
    with pytest.raises(ConfigError, match=r"pts_voxel_encoder.voxel_size is \(0.2, 0.2, 8.0\)"):
        ModelSpec.from_config(cfg)
    cfg = _config()
    cfg.model.pts_voxel_encoder.legacy = True
    with pytest.raises(ConfigError, match="legacy must be False"):
        ModelSpec.from_config(cfg)
    cfg = _config()
    del cfg.model["pts_bbox_head"]
    with pytest.raises(ConfigError, match=r"model.pts_bbox_head is missing"):
        ModelSpec.from_config(cfg)


def test_bad_config_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_model_config(tmp_path / "none.py")
    (tmp_path / "typo.py").write_text("model = dict(type=Centre)\n")
    with pytest.raises(ConfigError, match=r"typo.py' cannot be read: NameError"):
        load_model_config(tmp_path / "typo.py")
    (tmp_path / "deploy.py").write_text("checkpoint_path = 'x'\n")
    with pytest.raises(ConfigError, match="has no 'model'"):
        load_model_config(tmp_path / "deploy.py")
