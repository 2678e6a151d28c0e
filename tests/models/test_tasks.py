"""Several tasks and suppression by overlap, in configs, mmdet3d's own among them, and in stored specifications."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mmdet3d
import numpy as np
import pytest

from base.errors import ConfigError
from models.config import load_model_config
from models.facts import omitted_default
from models.spec import BRANCH_ORDER, HEAD_ORDER, HeadSpec, ModelSpec, TaskSpec

STOCK = Path(mmdet3d.__file__).parent / ".mim" / "configs" / "centerpoint"
NUSCENES = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)


def config(nms: str = "rotate", **suppression: Any) -> Any:
    """mmdet3d's six tasks on pillars, with other values in `test_cfg.pts`."""
    cfg = load_model_config(STOCK / "centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py")
    pts = cfg.model.test_cfg.pts
    pts.nms_type = nms
    for key, value in suppression.items():
        if value is ...:
            del pts[key]
        else:
            pts[key] = value
    return cfg


def test_six_tasks_of_mmdet3ds_config() -> None:
    spec = ModelSpec.from_config(config("circle"))
    assert tuple(task.class_names for task in spec.tasks) == NUSCENES
    assert [task.nms_min_radius_m2 for task in spec.tasks] == [4, 12, 10, 1, 0.85, 0.175]
    assert (spec.nms_iou_threshold, spec.nms_pre_max_size, spec.nms_center_range) == (None, None, None)
    assert spec.class_names == tuple(name for names in NUSCENES for name in names)
    channels = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
    expected = [
        (f"{name}_{index}", (1, channels.get(name, len(names)), 128, 128))
        for index, names in enumerate(NUSCENES)
        for name in HEAD_ORDER
    ]
    assert [(tensor.name, tensor.shape) for tensor in spec.components[1].outputs] == expected


def test_suppression_by_overlap() -> None:
    spec = ModelSpec.from_config(config())
    assert (spec.nms_type, spec.nms_iou_threshold, spec.nms_pre_max_size) == ("rotate", 0.2, 1000)
    assert (spec.post_max_size, spec.score_threshold, spec.nms_center_range) == (83, 0.1, None)
    assert {task.nms_min_radius_m2 for task in spec.tasks} == {0.0}, "it reads no radius"
    everything = ModelSpec.from_config(config(pre_max_size=None, score_threshold=...))
    assert (everything.nms_pre_max_size, everything.score_threshold) == (None, 0.1)


def test_the_second_threshold_is_one_that_a_score_reaches() -> None:
    """Scores are above the coder's 0.1 and at least test_cfg's, both in float32."""
    limit = ModelSpec.from_config(config(score_threshold=0.3)).score_threshold
    scores = np.float32(0.3) + np.arange(-3, 4, dtype=np.float32) * np.finfo(np.float32).eps / 8
    np.testing.assert_array_equal(scores > np.float32(limit), scores >= np.float32(0.3))
    assert len(set(scores)) > 3
    assert ModelSpec.from_config(config(score_threshold=0.05)).score_threshold == 0.1


def test_limits_on_what_was_kept_are_there_where_they_cut() -> None:
    narrow = [-20.0, -61.2, -10.0, 61.2, 61.2, 10.0]
    spec = ModelSpec.from_config(config(post_center_limit_range=narrow))
    assert spec.nms_center_range == tuple(narrow)
    wide = [-70.0, -61.2, -10.0, 61.2, 61.2, 11.0]
    assert ModelSpec.from_config(config(post_center_limit_range=wide)).nms_center_range is None
    assert ModelSpec.from_config(config("circle", post_center_limit_range=narrow)).nms_center_range is None


@pytest.mark.parametrize("nms", ["circle", "rotate"])
def test_round_trip(nms: str) -> None:
    spec = ModelSpec.from_config(config(nms, post_center_limit_range=[-20.0, -20.0, -5.0, 20.0, 20.0, 5.0]))
    stored = json.loads(json.dumps(spec.to_dict()))
    assert ModelSpec.from_dict(stored) == spec
    assert ("nms_iou_threshold" in stored) == (nms == "rotate")
    assert not {"class_names", "heads", "nms_min_radius_m2"} & set(stored)
    changed = json.loads(json.dumps(stored))
    changed["tasks"][3]["nms_min_radius_m2"] = 9.0
    assert ModelSpec.from_dict(changed).fingerprint() != spec.fingerprint()


def test_one_task_is_stored_beside_the_model() -> None:
    cfg = config("circle")
    cfg.model.pts_bbox_head.tasks = cfg.model.pts_bbox_head.tasks[1:2]
    cfg.model.pts_bbox_head.common_heads["iou"] = (1, 2)
    spec = ModelSpec.from_config(cfg)
    assert [head.name for head in spec.heads] == list(BRANCH_ORDER)
    stored = spec.to_dict()
    assert stored["class_names"] == ["truck", "construction_vehicle"]
    assert stored["nms_min_radius_m2"] == 4
    assert not {"tasks", *spec.omitted()} & set(stored)
    assert ModelSpec.from_dict(stored) == spec
    other = spec.changed(nms_min_radius_m2=2.0, post_max_size=7)
    assert other.tasks == (TaskSpec(spec.class_names, spec.tasks[0].heads, 2.0),)
    assert other.post_max_size == 7


def test_fields_of_one_task_cannot_be_null() -> None:
    cfg = config("circle")
    cfg.model.pts_bbox_head.tasks = cfg.model.pts_bbox_head.tasks[1:2]
    stored = ModelSpec.from_config(cfg).to_dict()
    for name in ("class_names", "heads", "nms_min_radius_m2"):
        with pytest.raises(ConfigError, match=f"{name} is None, but must be"):
            ModelSpec.from_dict(stored | {name: None})


def test_any_subset_of_the_branches() -> None:
    cfg = config("circle")
    for name in ("reg", "vel"):
        del cfg.model.pts_bbox_head.common_heads[name]
    spec = ModelSpec.from_config(cfg)
    assert [head.name for head in spec.heads[4:8]] == ["heatmap_1", "height_1", "dim_1", "rot_1"]
    assert spec.tasks[1].heads[0] == HeadSpec("heatmap", 2)


def test_fields_that_came_later_are_left_out_where_they_say_nothing() -> None:
    spec = ModelSpec.from_config(config())
    suppression = {"nms_iou_threshold": None, "nms_pre_max_size": None, "nms_center_range": None}
    encoder = {"cluster_center": True, "point_distance": False, "legacy_encoder": False, "encoder_mode": "max"}
    assert spec.omitted() == suppression | encoder | {"decoding": "top_k", "dynamic_pillars": False}
    assert omitted_default(3).default == 3


def test_one_task_is_asked_for() -> None:
    spec = ModelSpec.from_config(config())
    expected = (
        r"has 6 tasks \(car; truck, construction_vehicle; bus, trailer; .*\), but the node takes a model with one"
    )
    with pytest.raises(ConfigError, match=expected):
        spec.one_task("the node")
    with pytest.raises(ConfigError, match="a change of class_names takes a model with one task"):
        spec.changed(class_names=("car",))


@pytest.mark.parametrize(
    ("nms", "suppression", "message"),
    [
        ("oval", {}, "test_cfg.pts.nms_type is 'oval', but must be 'circle' or 'rotate'"),
        ("rotate", {"nms_thr": ...}, "suppresses by overlap, but there is no nms_thr"),
        ("rotate", {"nms_thr": 20}, "test_cfg.pts.nms_thr is 20, but must be at most 1"),
        ("rotate", {"pre_max_size": 0}, "test_cfg.pts.pre_max_size is 0, but must be at least 1"),
        ("rotate", {"post_center_limit_range": [0, 0]}, "post_center_limit_range has 2 values, but must have 6"),
        ("circle", {"min_radius": [4, 12]}, "min_radius has 2 values, but pts_bbox_head has 6 tasks"),
        ("circle", {"min_radius": [4, 12, -1, 1, 1, 1]}, "min_radius[2] is -1, but must be at least 0"),
    ],
)
def test_a_wrong_suppression_is_named(nms: str, suppression: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelSpec.from_config(config(nms, **suppression))
    assert message in str(caught.value)
    assert "centerpoint_pillar02" in str(caught.value)


def test_a_wrong_head_is_named() -> None:
    cfg = config()
    cfg.model.pts_bbox_head.tasks[2].class_names = ["bus", "car"]
    with pytest.raises(ConfigError, match="a class stands twice"):
        ModelSpec.from_config(cfg)
    cfg = config()
    cfg.model.pts_bbox_head.common_heads["iou"] = (2, 2)
    with pytest.raises(ConfigError, match="output 'iou' of task 0 of the head has 2 channels, but boxes are made of 1"):
        ModelSpec.from_config(cfg)
    cfg.model.pts_bbox_head.common_heads = {"speed": (1, 2)}
    with pytest.raises(ConfigError, match=r"common_heads has \['speed'\]; known outputs are \['heatmap', .*'iou'\]"):
        ModelSpec.from_config(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored["tasks"].pop(), None),
        (lambda stored: stored["tasks"].__delitem__(slice(1, None)), ", but must be at least 2 values long"),
        (lambda stored: stored["tasks"][1].pop("heads"), "tasks[1] lacks 'heads'"),
        (lambda stored: stored["tasks"][1]["heads"].pop(0), "task 1 of the head has the outputs ['reg', 'height'"),
        (lambda stored: stored.update(tasks=None), "tasks is None, but must be a list"),
        (lambda stored: stored.update(class_names=["car"]), "has unknown fields ['class_names'] and lacks []"),
        (lambda stored: stored.pop("tasks"), "lacks ['class_names', 'heads', 'nms_min_radius_m2']"),
    ],
)
def test_stored_tasks_are_checked(change: Any, message: str | None) -> None:
    stored = json.loads(json.dumps(ModelSpec.from_config(config()).to_dict()))
    change(stored)
    if message is None:
        assert len(ModelSpec.from_dict(stored).tasks) == 5
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        ModelSpec.from_dict(stored)
