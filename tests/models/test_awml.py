"""AWML's configs and checkpoints as they are: names, bases, imports, classes, weights, frames."""

from __future__ import annotations

import dataclasses
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from base.boxes import Boxes3D
from base.errors import CheckpointError, ConfigError
from base.untrusted import load_weights_file
from eval.metrics.detection import evaluate_detections
from eval.metrics.objects import FrameResult
from models.build import build_model, load_checkpoint
from models.components import extract_components
from models.config import load_model_config
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec
from runtime.decode import decode
from runtime.preprocess import decorate, voxelize

CONFIGS = Path(__file__).resolve().parents[1] / "data" / "models" / "awml"
FOLDER = Path("projects/CenterPoint/configs/t4dataset/Centerpoint")
SEVEN = ("car", "truck", "bus", "trailer", "motorcycle", "bicycle", "pedestrian")


def _load(name: str = "second_secfpn_seven", root: Path = CONFIGS) -> Any:
    return load_model_config(root / FOLDER / f"{name}.py")


def _copy(tmp_path: Path, replace: dict[str, str]) -> Path:
    root = tmp_path / "awml"
    shutil.copytree(CONFIGS, root)
    file = root / FOLDER / "second_secfpn_seven.py"
    text = file.read_text()
    for old, new in replace.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return root


def awml_state(classes: int, point_features: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of the test model under the keys that AWML's training writes, from the architecture alone."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def weight(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.05

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "running_var"):
            state[f"{name}.{part}"] = torch.rand(channels, generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            state[f"{name}.{part}"] = torch.randn(channels, generator=generator) * 0.05
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    # Layer 0 has half of its 32 units: their maximum is appended.
    for layer, (inputs, outputs) in enumerate([(point_features + 6, 16), (32, 32)]):
        weight(f"pts_voxel_encoder.pfn_layers.{layer}.linear", outputs, inputs)
        norm(f"pts_voxel_encoder.pfn_layers.{layer}.norm", outputs)
    channels = 32
    for block, wide in enumerate((32, 64, 64)):
        for conv in range(2):
            weight(f"pts_backbone.blocks.{block}.{3 * conv}", wide, channels, 3, 3)
            norm(f"pts_backbone.blocks.{block}.{3 * conv + 1}", wide)
            channels = wide
    # Strides 0.5, 1, 2: convolutions (out, in, k, k), then a transposed one (in, out, k, k).
    for index, shape in enumerate([(32, 32, 2, 2), (32, 64, 1, 1), (64, 32, 2, 2)]):
        weight(f"pts_neck.deblocks.{index}.0", *shape)
        norm(f"pts_neck.deblocks.{index}.1", 32)
    weight("pts_bbox_head.shared_conv.conv", 64, 96, 3, 3)
    norm("pts_bbox_head.shared_conv.bn", 64)
    for head, outputs in {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "heatmap": classes}.items():
        name = f"pts_bbox_head.task_heads.0.{head}"
        weight(f"{name}.0.conv", 64, 64, 1, 1)
        norm(f"{name}.0.bn", 64)
        weight(f"{name}.1", outputs, 64, 1, 1)
        state[f"{name}.1.bias"] = torch.randn(outputs, generator=generator)
    return state


def awml_checkpoint(path: Path, state: dict[str, torch.Tensor], classes: tuple[str, ...] = SEVEN) -> Path:
    """As mmengine's runner saves it, with curves and numpy numbers."""
    curve = HistoryBuffer()
    curve.update(1.5)
    hub = {"log_scalars": OrderedDict(loss=curve), "runtime_info": OrderedDict(iter=np.int64(3), lr=np.float64(1e-3))}
    meta = {"epoch": 50, "cfg": "model = …", "dataset_meta": {"classes": list(classes)}}
    torch.save({"meta": meta, "state_dict": OrderedDict(state), "message_hub": hub, "optimizer": {"state": {}}}, path)
    return path


def test_types_and_imports_are_resolved() -> None:
    cfg = _load("second_secfpn_five_onnx")
    head = cfg.model.pts_bbox_head
    assert (cfg.model.type, cfg.model.pts_voxel_encoder.type) == ("CenterPoint", "PillarFeatureNet")
    assert (head.type, head.separate_head.type) == ("CenterHead", "SeparateHead")
    assert head.separate_head.init_bias == -4.595
    assert (head.loss_cls.type, head.loss_cls.reduction) == ("mmdet.GaussianFocalLoss", "mean")
    assert "frozen_stages" not in cfg.model.pts_backbone
    assert "freeze_shared_conv" not in head
    assert "custom_imports" not in cfg
    assert "val_evaluator" not in cfg
    # The folder above the two roots is reached through `_base_`.
    assert cfg.default_scope == "mmdet3d"


def test_seven_classes_from_config_to_boxes(tmp_path: Path) -> None:
    cfg = _load()
    spec = ModelSpec.from_config(cfg)
    assert spec.class_names == SEVEN
    assert spec.encoder_in_features == 10
    state = awml_state(classes=7, point_features=4)
    model = build_model(cfg)
    meta = load_checkpoint(model, awml_checkpoint(tmp_path / "epoch_50.pth", state))
    assert meta["epoch"] == 50
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    parts = extract_components(model, spec)
    with torch.inference_mode():
        pillars = parts[VOXEL_ENCODER](torch.rand(5, 32, 10))
        outputs = parts[BACKBONE_NECK_HEAD](torch.rand(1, 32, 128, 128))
    assert pillars.shape == (5, 1, 32)
    assert [tuple(o.shape[1:]) for o in outputs] == [(c, 64, 64) for c in (7, 2, 1, 3, 2, 2)]
    arrays = {head.name: value.numpy() for head, value in zip(spec.heads, outputs, strict=True)}
    # One peak of each class, five cells apart, on a quiet map.
    arrays["heatmap"] = np.full_like(arrays["heatmap"], -9.0)
    for label in range(7):
        arrays["heatmap"][0, label, 5 * label + 8, 30] = 3.0 - 0.1 * label
    found = decode(arrays, spec)
    assert isinstance(found, Boxes3D)
    assert sorted(found.labels.tolist()) == list(range(7))
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    # What is found counts as ground truth too: every class is scored, and each is perfect.
    truth = dataclasses.replace(found, scores=np.ones_like(found.scores))
    metrics = evaluate_detections([FrameResult("0", found, truth)], spec.class_names, ranges_m=((0.0, 60.0),))
    assert metrics.class_names == SEVEN
    assert metrics.mean_ap == pytest.approx(1.0)


def test_five_classes_load_and_others_do_not(tmp_path: Path) -> None:
    cfg = _load("second_secfpn_five_onnx")
    model = build_model(cfg)
    five = ("car", "truck", "bus", "bicycle", "pedestrian")
    load_checkpoint(model, awml_checkpoint(tmp_path / "five.pth", awml_state(5, 5), five))
    with pytest.raises(CheckpointError, match=r"heatmap\.1\.bias \(7,\), model has \(5,\)"):
        load_checkpoint(model, awml_checkpoint(tmp_path / "seven.pth", awml_state(7, 5)))


def test_awml_weights_compute_what_a_stock_config_computes(tmp_path: Path) -> None:
    """The same architecture written with stock names alone gives the same numbers, bit for bit."""
    root = _copy(
        tmp_path,
        {
            'type="CustomSeparateHead"': 'type="SeparateHead"',
            'type="mmdet.AmpGaussianFocalLoss", reduction="none"': 'type="mmdet.GaussianFocalLoss", reduction="mean"',
        },
    )
    checkpoint = awml_checkpoint(tmp_path / "a.pth", awml_state(7, 4))
    canvas = torch.rand(1, 32, 128, 128, generator=torch.Generator().manual_seed(1))
    results = []
    for cfg in (_load(), _load(root=root)):
        model = build_model(cfg)
        load_checkpoint(model, checkpoint)
        with torch.inference_mode():
            results.append(extract_components(model, ModelSpec.from_config(cfg))[BACKBONE_NECK_HEAD](canvas))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'type="CustomSeparateHead"',
            'type="SeparableHead"',
            r"unknown model type 'SeparableHead' \(model\.pts_bbox_head\.separate_head\)\. The config expects "
            r"projects\.CenterPoint\.models, autoware_ml",
        ),
        (
            'dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range)',
            'dict(type="DropEgoPoints")',
            r"transform 'DropEgoPoints' \(val_dataloader\.dataset\.pipeline\[2\]\)",
        ),
        (
            "            out_size_factor=out_size_factor,\n        ),\n        separate_head",
            "            y_axis_reference=True,\n            out_size_factor=2,\n        ),\n        separate_head",
            r"bbox_coder\.y_axis_reference is True",
        ),
        (
            'imports=["projects.CenterPoint.models"], allow_failed_imports=False',
            "imports=[3]",
            r"custom_imports is .*; it must be dict\(imports=\[module names\]\)",
        ),
    ],
)
def test_what_cannot_be_resolved_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(root=_copy(tmp_path, {old: new}))


def test_a_transform_that_only_training_uses_is_no_obstacle() -> None:
    steps = [step.type for step in _load().train_dataloader.dataset.pipeline]
    assert "ObjectMinPointsFilter" in steps


def test_installed_imports_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "house_of_heads.py").write_text(
        "from mmdet3d.registry import MODELS\n"
        "from mmdet3d.models.dense_heads.centerpoint_head import SeparateHead\n"
        "@MODELS.register_module(force=True)\n"
        "class SeparableHead(SeparateHead):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    root = _copy(
        tmp_path,
        {'type="CustomSeparateHead"': 'type="SeparableHead"', '"autoware_ml.hooks"': '"house_of_heads"'},
    )
    assert _load(root=root).model.pts_bbox_head.separate_head.type == "SeparableHead"


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    root = _copy(tmp_path, {})
    (root / "autoware_ml/configs/detection3d/default_runtime.py").unlink()
    with pytest.raises(ConfigError, match=r"default_runtime\.py.*keep the folders that they came in"):
        _load(root=root)


def test_the_older_encoder(tmp_path: Path) -> None:
    """Nine features: the module's own decoration, and its layers behind the runtime's, give the same."""
    cfg = _load(
        root=_copy(tmp_path, {'type="PillarFeatureNet"': 'type="BackwardPillarFeatureNetONNX", frozen_stages=[0]'})
    )
    spec = ModelSpec.from_config(cfg)
    assert (spec.encoder_in_features, spec.voxel_center_dims) == (9, 2)
    model = build_model(cfg)
    state = awml_state(7, 3)  # 3 + 6 features
    load_checkpoint(model, awml_checkpoint(tmp_path / "a.pth", state))
    rng = np.random.default_rng(0)
    points = rng.uniform([-25, -25, -2, 0], [25, 25, 4, 1], (3000, 4)).astype(np.float32)
    points[::2, :2] *= 0.02  # crowded pillars, so that some are full
    voxels = voxelize(points, spec)
    coords = torch.from_numpy(np.pad(voxels.coords, ((0, 0), (1, 0))))
    encoder: Any = model.pts_voxel_encoder
    with torch.inference_mode():
        whole = encoder(torch.from_numpy(voxels.points), torch.from_numpy(voxels.num_points), coords)
        part = extract_components(model, spec)[VOXEL_ENCODER](torch.from_numpy(decorate(voxels, spec)))
    torch.testing.assert_close(whole, part[:, 0], rtol=1e-5, atol=1e-5)


def test_training_records_are_ignored_and_code_is_refused(tmp_path: Path) -> None:
    state = awml_state(7, 4)
    loaded = load_weights_file(awml_checkpoint(tmp_path / "a.pth", state))
    assert torch.equal(loaded["state_dict"]["pts_neck.deblocks.0.0.weight"], state["pts_neck.deblocks.0.0.weight"])
    assert not isinstance(loaded["message_hub"]["log_scalars"]["loss"], HistoryBuffer)

    class Code:
        def __reduce__(self) -> Any:
            return getattr, (Path, "cwd")

    @dataclasses.dataclass
    class Shell:
        def __reduce__(self) -> Any:
            return eval, ("1 + 1",)

    torch.save({"state_dict": {}, "x": Code()}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"was refused"):
        load_weights_file(tmp_path / "b.pth")
    torch.save({"state_dict": {}, "x": Shell()}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"was refused"):
        load_weights_file(tmp_path / "c.pth")
