"""A checkpoint that contradicts the model config in what shapes do not show, and sound ones that must pass."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from base.checks import checking
from base.errors import CheckpointError
from models.build import build_model, load_checkpoint
from models.config import load_model_config
from models.config_text import read_config_text
from models.consistency import class_list

CONFIG = "configs/model/centerpoint_t4_demo.py"
CLASSES = ["car", "truck", "bus", "bicycle", "pedestrian"]
REORDERED = ["car", "truck", "bus", "pedestrian", "bicycle"]


@cache
def demo() -> tuple[nn.Module, Any]:
    cfg = load_model_config(CONFIG)
    return build_model(cfg), cfg


def load(folder: Path, meta: Any, accept: tuple[str, ...] = (), **more: Any) -> list[str]:
    """Outcomes of the checks that found something."""
    model, _ = demo()
    torch.save({"state_dict": model.state_dict(), "meta": meta, **more}, folder / "m.pth")
    with checking(accept) as record:
        load_checkpoint(model, folder / "m.pth")
    return [f"{item.check} {item.outcome}" for item in record.results()]


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset_meta": {"classes": CLASSES}},
        {"dataset_meta": {"classes": tuple(CLASSES), "version": "t4"}},
        {"dataset_meta": {"CLASSES": CLASSES}},
        {"dataset_meta": {"classes": {name: label for label, name in reversed(list(enumerate(CLASSES)))}}},
        {"CLASSES": tuple(CLASSES), "mmdet3d_version": "1.0.0rc6"},
        {"class_names": CLASSES, "mmdet3d_version": "1.4.0"},
    ],
)
def test_sound_checkpoints_of_every_trainer_pass(tmp_path: Path, meta: Any) -> None:
    assert load(tmp_path, meta) == []
    assert load(tmp_path, {}, hyper_parameters=meta.get("dataset_meta", {}) | {"class_names": CLASSES}) == []


@pytest.mark.parametrize(
    ("meta", "place"),
    [
        ({"dataset_meta": {"classes": REORDERED}}, "meta.dataset_meta.classes"),
        ({"dataset_meta": {"CLASSES": tuple(REORDERED)}}, "meta.dataset_meta.CLASSES"),
        ({"dataset_meta": {"classes": {name: i for i, name in enumerate(REORDERED)}}}, "meta.dataset_meta.classes"),
        ({"CLASSES": REORDERED}, "meta.CLASSES"),
        ({"class_names": REORDERED}, "meta.class_names"),
    ],
)
def test_classes_in_another_order(tmp_path: Path, meta: Any, place: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, meta)
    message = str(caught.value)
    assert place in message
    assert "[car, truck, bus, pedestrian, bicycle]" in message
    assert "the model config's head says [car, truck, bus, bicycle, pedestrian]" in message
    assert "The same classes in another order" in message
    assert load(tmp_path, meta, ("checkpoint-classes",)) == ["checkpoint-classes accepted"]


def test_other_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Only the first has \['person'\], only the second \['pedestrian'\]"):
        load(tmp_path, {"dataset_meta": {"classes": [*CLASSES[:-1], "person"]}})
    with pytest.raises(CheckpointError, match=r"Only the first has \['cone'\], only the second \[\]"):
        load(tmp_path, {"CLASSES": [*CLASSES, "cone"]})


def test_a_checkpoint_that_does_not_say_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for meta in ({}, None, {"dataset_meta": {"version": "t4"}}):
        assert load(tmp_path, meta) == ["checkpoint-classes-unknown warning"]
    assert "it does not say which classes it was trained on" in caplog.text


@pytest.mark.parametrize(
    ("version", "is_old"), [("0.17.1", True), ("0.6.1", True), ("1.0.0rc0", False), ("1.4.0", False)]
)
def test_versions_before_boxes_changed_their_meaning(tmp_path: Path, version: str, is_old: bool) -> None:
    meta = {"class_names": CLASSES, "mmdet3d_version": version}
    if is_old:
        with pytest.raises(CheckpointError, match=rf"meta.mmdet3d_version, says '{re.escape(version)}'"):
            load(tmp_path, meta)
        assert load(tmp_path, meta, ("checkpoint-version",)) == ["checkpoint-version accepted"]
    else:
        assert load(tmp_path, meta) == []


@pytest.mark.parametrize(
    ("key", "was", "trained", "place"),
    [
        ("cfg", "voxel_size=[", "voxel_size=[0.2, 0.2, 8.0], old=[", "voxel_layer.voxel_size"),
        (
            "config",
            "point_cloud_range=[",
            "point_cloud_range=[-9, -9, -1, 9, 9, 5], old=[",
            "voxel_layer.point_cloud_range",
        ),
        ("cfg", "norm_bbox=True", "norm_bbox=False", "pts_bbox_head.norm_bbox"),
        ("cfg", "out_size_factor=", "out_size_factor=4, old=", "bbox_coder.out_size_factor"),
        ("cfg", "type='PillarFeatureNet'", "type='BackwardPillarFeatureNetONNX'", "pts_voxel_encoder.type"),
        (
            "cfg",
            "data_preprocessor=dict(",
            "data_preprocessor=dict(voxel_type='dynamic', ",
            "data_preprocessor.voxel_type",
        ),
    ],
)
def test_the_config_that_was_trained_is_held_against_the_one_that_is_deployed(
    tmp_path: Path, key: str, was: str, trained: str, place: str
) -> None:
    text = demo()[1].pretty_text
    assert load(tmp_path, {"class_names": CLASSES, key: text}) == []
    changed = re.sub(re.escape(was), trained, text)
    assert changed != text
    with pytest.raises(CheckpointError, match=rf"meta\.{key}: model\.[\w.]*{re.escape(place)}, says") as caught:
        load(tmp_path, {"class_names": CLASSES, key: changed})
    assert "but the model config says" in str(caught.value)
    assert load(tmp_path, {"class_names": CLASSES, key: changed}, ("checkpoint-config",)) == [
        "checkpoint-config accepted"
    ]


def test_the_config_that_was_trained_says_its_classes_too(tmp_path: Path) -> None:
    text = demo()[1].pretty_text
    assert load(tmp_path, {"cfg": text}) == []  # nothing else has to
    changed = re.sub(r"'bicycle',(\s*)'pedestrian'", r"'pedestrian',\1'bicycle'", text)
    assert changed != text
    with pytest.raises(CheckpointError, match=r"meta\.cfg: model\.pts_bbox_head\.tasks, says \[car, truck, bus, ped"):
        load(tmp_path, {"cfg": changed})


def test_configs_of_before_mmdet3d_1_have_voxels_elsewhere(tmp_path: Path) -> None:
    text = "model = dict(pts_voxel_layer=dict(voxel_size=[0.2, 0.2, 8]), pts_bbox_head=dict(tasks=None))"
    with pytest.raises(CheckpointError, match=r"meta\.config: model\.data_preprocessor\.voxel_layer\.voxel_size, says"):
        load(tmp_path, {"class_names": CLASSES, "config": text})


def test_what_a_network_works_with_all_the_same_is_a_warning(tmp_path: Path) -> None:
    text = demo()[1].pretty_text
    for was, trained in (
        ("max_num_points=", "max_num_points=20, old="),
        ("point_cloud_range=[", "point_cloud_range=[-9, -9, -3.0, 9, 9, 5.0], old=["),
    ):
        meta = {"class_names": CLASSES, "cfg": text.replace(was, trained)}
        assert load(tmp_path, meta) == ["checkpoint-range warning"]


def test_a_text_that_is_no_config_is_not_run_and_says_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for text in (f"open({str(marker)!r}, 'w')", "model = dict(", "x" * 10, "model = " + "[" * 5000, "\0"):
        assert load(tmp_path, {"class_names": CLASSES, "cfg": text}) == []
    assert not marker.exists()


def test_values_of_a_config_text() -> None:
    text = read_config_text("a = dict(b=[-1, 2.5, (True, None)], c={'d': 'e', 1: 2}, f=g(), h=['x', g()])\nb: int = 3")
    assert text is not None
    assert text.at("a.b") == [-1, 2.5, [True, None]]
    assert text.at("a.c") == {"d": "e"}
    assert [text.at(path) for path in ("a.f", "a.h", "a.z", "z.z", "b", "a.b.c")] == [None] * 6


def test_lists_of_classes() -> None:
    assert class_list(("a", "b")) == ["a", "b"]
    assert class_list({"a": 1, "b": 0}) == ["b", "a"]
    assert class_list({"a": 5, "b": 9}) == ["a", "b"]  # labels of something else: the order is all there is
    others: list[object] = [[], {}, "car", ["a", 1], 3, None]
    assert [class_list(value) for value in others] == [None] * 6
