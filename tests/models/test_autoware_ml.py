"""autoware-ml's configs and checkpoints: the same network, the same boxes, and what is refused.

`tests/data/autoware_ml/small.npz` holds what autoware-ml's own modules (commit 04952df, torch 2.13 on a CPU, float32)
made of the small model: its config is that of `autoware_ml_files`, the weights are `their_state()`, the clouds
`small_cloud(0)` and `small_cloud(1)`. The points went through `hard_voxelize`, `PillarFeatureNet`,
`PointPillarsScatter`, `SECONDBackbone`, `SECONDFPN`, `CenterHead.forward` and `CenterHead.predict`, built with the
config's arguments; kept are the cells and features of the pillars of cloud 0, and each cloud's outputs and boxes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from base.composed_yaml import compose_yaml
from base.errors import CheckpointError, ConfigError
from models.build import build_model, load_checkpoint
from models.components import extract_components
from models.config import load_model_config
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec
from runtime.decode import decode
from runtime.preprocess import decorate, voxelize
from runtime.scatter import scatter
from tests.models.autoware_ml_files import CLASSES, small_cloud, their_state, write_checkpoint, write_configs

GOLDEN = Path(__file__).parents[1] / "data" / "autoware_ml" / "small.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, ModelSpec]:
    root = tmp_path_factory.mktemp("autoware_ml")
    cfg = load_model_config(write_configs(root / "configs"))
    model = build_model(cfg, seed=3)
    load_checkpoint(model, write_checkpoint(root / "best.ckpt"))
    return model, ModelSpec.from_config(cfg)


@pytest.fixture(autouse=True)
def _nothing_of_theirs_is_imported() -> Iterator[None]:
    yield
    assert not [name for name in sys.modules if name.split(".")[0] in ("autoware_ml", "lightning", "hydra")]


def test_the_specification(loaded: tuple[torch.nn.Module, ModelSpec]) -> None:
    spec = loaded[1]
    assert (spec.name, spec.class_names) == ("voxel040_small", CLASSES)
    assert (spec.grid_size, spec.head_size, spec.max_voxels) == ((32, 32), (16, 16), 2000)
    assert spec.point_columns == ("x", "y", "z", "intensity", "time_lag")
    assert (spec.decoding, spec.score_threshold, spec.post_max_size) == ("class_peaks", 0.1, 20)
    assert (spec.nms_type, spec.tasks[0].nms_min_radius_m2, spec.rot_y_axis_reference) == ("circle", 1.0, False)
    assert ModelSpec.from_dict(spec.to_dict()) == spec


def test_pillars_are_theirs(loaded: tuple[torch.nn.Module, ModelSpec], golden: dict[str, NDArray[Any]]) -> None:
    """In another order: theirs comes by cell, ours by the first point."""
    model, spec = loaded
    voxels = voxelize(small_cloud(0), spec)
    features = torch.from_numpy(np.asarray(decorate(voxels, spec)))
    with torch.no_grad():
        found = extract_components(model, spec)[VOXEL_ENCODER](features)[:, 0].numpy()
    coords = np.asarray(voxels.coords)
    order = np.lexsort((coords[:, 2], coords[:, 1], coords[:, 0]))
    np.testing.assert_array_equal(coords[order], golden["coords"])
    np.testing.assert_allclose(found[order], golden["pillar_features"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_outputs_and_boxes_are_theirs(
    loaded: tuple[torch.nn.Module, ModelSpec], golden: dict[str, NDArray[Any]], seed: int
) -> None:
    model, spec = loaded
    components = extract_components(model, spec)
    voxels = voxelize(small_cloud(seed), spec)
    with torch.no_grad():
        pillars = components[VOXEL_ENCODER](torch.from_numpy(np.asarray(decorate(voxels, spec))))[:, 0]
        canvas = scatter(pillars, torch.from_numpy(np.asarray(voxels.coords)), spec)
        outputs = components[BACKBONE_NECK_HEAD](canvas)
    named = {head.name: value.numpy() for head, value in zip(spec.heads, outputs, strict=True)}
    for name, value in named.items():
        np.testing.assert_allclose(value, golden[f"{name}_{seed}"], rtol=0, atol=5e-5, err_msg=name)
        assert golden[f"{name}_{seed}"].std() > 0.1
    boxes = decode(named, spec)
    assert len(boxes) == 20
    np.testing.assert_array_equal(boxes.labels, golden[f"labels_3d_{seed}"])
    np.testing.assert_allclose(boxes.scores, golden[f"scores_3d_{seed}"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(boxes.boxes, golden[f"bboxes_3d_{seed}"], rtol=0, atol=2e-4)


def test_a_resolved_config_is_the_same_model(
    loaded: tuple[torch.nn.Module, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its runs leave beside their checkpoints is one file without defaults or references."""
    from omegaconf import OmegaConf

    monkeypatch.setenv("AUTOWARE_ML_DATA_PATH", "/data")
    values = compose_yaml(write_configs(tmp_path / "configs"), "Model config").values
    values.pop("hydra")
    resolved = tmp_path / "voxel040_small.yaml"
    resolved.write_text(yaml.safe_dump(OmegaConf.to_container(OmegaConf.create(values), resolve=True)))
    cfg = load_model_config(resolved)
    assert ModelSpec.from_config(cfg) == loaded[1]
    assert (
        cfg.val_dataloader
        == load_model_config(tmp_path / "configs/tasks/detection3d/centerpoint/voxel040_small.yaml").val_dataloader
    )
    assert (cfg.val_dataloader.dataset.data_root, cfg.val_dataloader.dataset.ann_file) == (
        "/data/drives",
        "info/small_infos_val.pkl",
    )


def test_without_the_variable_the_folder_is_for_whoever_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOWARE_ML_DATA_PATH", raising=False)
    dataset = load_model_config(write_configs(tmp_path)).val_dataloader.dataset
    assert "data_root" not in dataset
    assert (dataset.type, dataset.ann_file, dataset.metainfo.classes) == (
        "T4Dataset",
        "info/small_infos_val.pkl",
        list(CLASSES),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "centerpoint.CenterPointDetectionModel",
            "transfusion.TransFusion",
            "model._target_ is .*TransFusion.*'CenterPointDetectionModel'",
        ),
        ("backbones.second.SECONDBackbone", "backbones.convnext.ConvNeXt", "model.pts_backbone._target_ is .*ConvNeXt"),
        (
            "autoware_ml.models.detection3d.heads.centerpoint.CenterHead",
            "mine.CenterHead",
            "model.bbox_head._target_ is 'mine.CenterHead'",
        ),
        (
            "_target_: autoware_ml.models.detection3d.necks.second_fpn.SECONDFPN",
            "x: 1",
            "model.pts_neck._target_ is missing",
        ),
        ("use_velocity: true", "use_iou: true", "model.bbox_head.*use_iou"),
        ("feat_channels: [32, 32]", "feat_channels: [0]", r"model.pts_voxel_encoder.feat_channels"),
        ("num_classes: 4", "num_classes: 5", "num_classes is 5, but class_names has 4"),
        ("in_channels: 24", "in_channels: 25", "model.bbox_head.in_channels is 25, but the part before it gives 24"),
        ("upsample_strides: [0.5, 1, 2]", "upsample_strides: [0.5, 1.5, 2]", "upsample_strides has 1.5"),
        ("output_shape: [32, 32]", "output_shape: [32, 31]", "output_shape"),
        ("layer_strides: [1, 2, 2]", "layer_nums: [1, 2, 1]", r"model.pts_backbone.layer_strides is '\?\?\?'"),
        ("detection3d.point_pillar.PointPillarPreprocessor", "voxel.Voxels", "data_preprocessing.pipeline.0._target_"),
        (
            "voxel_size: ${voxel_size}\n      point",
            "voxel_size: [0.2, 0.2, 8.0]\n      point",
            "model.pts_voxel_encoder.voxel_size is",
        ),
        (
            "point_cloud.crop.PointsRangeFilter",
            "point_cloud.sampling.PointShuffle",
            r"pipeline.2._target_ is .*PointShuffle.*not known here",
        ),
        ("time_dim: 4", "time_dim: 3", "time_dim is 3, but must be 4"),
        ("sweeps_num: 2", "sweeps_num: 0", "sweeps_num"),
        ("has_twist: true", "release: v1.0.0", "metainfo is .*without .*release"),
        ("has_twist: true", "names: ['a,b']", r"metainfo.names is \['a,b'\], but must be a text without commas"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec.from_config(load_model_config(write_configs(tmp_path, **{old: new})))


def test_frames_of_an_unknown_kind_are_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_model_config(write_configs(tmp_path, T4Detection3DDataModule="OwnDataModule"))
    assert "val_dataloader" not in cfg
    assert "OwnDataModule', which is not known here: it can be exported, and reads no frames" in caplog.text


class _Callback:
    """Of a package that is not here."""

    def __init__(self) -> None:
        raise AssertionError("an object of a checkpoint was made")

    def __reduce__(self) -> Any:
        return _Callback, ()


def test_nothing_in_a_checkpoint_is_made_but_weights(tmp_path: Path, loaded: tuple[torch.nn.Module, ModelSpec]) -> None:
    path = tmp_path / "last.ckpt"
    hyper_parameters = {"optimizer": functools.partial(torch.optim.AdamW, lr=1.0)}
    torch.save(
        {"state_dict": their_state(), "hyper_parameters": hyper_parameters, "callback": _Callback.__new__(_Callback)},
        path,
    )
    model = build_model(load_model_config(write_configs(tmp_path)), seed=1)
    load_checkpoint(model, path)
    for name, value in loaded[0].state_dict().items():
        assert value.equal(model.state_dict()[name]), name


def test_checkpoints_by_either_name(tmp_path: Path, loaded: tuple[torch.nn.Module, ModelSpec]) -> None:
    """Its own names with what wrappers put before them, or this project's."""
    model = build_model(load_model_config(write_configs(tmp_path)), seed=1)
    wrapped = {f"model._orig_mod.{name}": value for name, value in their_state().items()}
    for state in (wrapped, loaded[0].state_dict()):
        torch.save({"state_dict": state}, tmp_path / "weights.ckpt")
        load_checkpoint(model, tmp_path / "weights.ckpt")
        for name, value in loaded[0].state_dict().items():
            assert value.equal(model.state_dict()[name]), name
        build = build_model(load_model_config(write_configs(tmp_path)), seed=2)
        model.load_state_dict(build.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bbox_head.rot.1.bias"), r"1 missing \(bbox_head.rot.1.bias\)"),
        (lambda s: s.update({"bbox_head.iou.1.bias": torch.zeros(1)}), r"1 unexpected \(bbox_head.iou.1.bias\)"),
        (
            lambda s: s.update({"pts_neck.blocks.0.0.weight": torch.zeros(8, 8, 1, 1)}),
            r"1 of another shape \(pts_neck.blocks.0.0.weight \(8, 8, 1, 1\), model has \(8, 8, 2, 2\)",
        ),
        (lambda s: s.update({"bbox_head.dim.1.bias": torch.full((3,), torch.nan)}), "NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: Any, message: str) -> None:
    state = their_state()
    change(state)
    model = build_model(load_model_config(write_configs(tmp_path)))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, write_checkpoint(tmp_path / "best.ckpt", state))


def test_a_checkpoint_of_mmdet3d_is_another_architecture(tmp_path: Path) -> None:
    model = build_model(load_model_config(write_configs(tmp_path)))
    write_checkpoint(tmp_path / "a.pth", {"pts_bbox_head.shared_conv.conv.weight": torch.zeros(16, 24, 3, 3)})
    with pytest.raises(CheckpointError, match="another architecture"):
        load_checkpoint(model, tmp_path / "a.pth")
