"""What only training needs: networks are built and deployed without it, and what is missing elsewhere is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from base.errors import ConfigError
from models.build import build_model
from models.config import load_model_config
from models.spec import ModelSpec

DEMO = Path(__file__).parents[2] / "configs/model/centerpoint_t4_demo.py"


def written(folder: Path, text: str) -> Path:
    path = folder / "model.py"
    path.write_text(f"_base_ = [{str(DEMO)!r}]\n{text}\n")
    return path


HEAD = "loss_cls=dict(_delete_=True, type='{kind}', alpha=3), loss_bbox=dict(_delete_=True, type='OwnL1', beta=1)"
TRAINING = f"""
custom_imports = dict(imports=['own_package.losses'], allow_failed_imports=False)
custom_hooks = [dict(type='OwnHook')]
train_dataloader = dict(sampler=dict(type='OwnSampler'), dataset=dict(pipeline=[dict(type='OwnAugmentation')]))
model = dict(
    train_cfg=dict(pts=dict(assigner=dict(type='OwnAssigner'))),
    pts_backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='https://nowhere.invalid/weights.pth')),
    pts_bbox_head=dict({HEAD.format(kind="OwnFocalLoss")}),
)
"""


def test_own_losses_hooks_samplers_and_first_weights_are_not_needed(tmp_path: Path) -> None:
    stock = load_model_config(DEMO)
    cfg = load_model_config(written(tmp_path, TRAINING))
    assert ModelSpec.from_config(cfg).changed(name="x") == ModelSpec.from_config(stock).changed(name="x")
    ours, theirs = build_model(cfg, 3).state_dict(), build_model(stock, 3).state_dict()
    assert all((ours[name] == value).all() for name, value in theirs.items())
    # The config is left as it was: whoever trains it gets what it says.
    assert cfg.model.pts_bbox_head.loss_cls.type == "OwnFocalLoss"
    assert cfg.model.pts_backbone.init_cfg.type == "Pretrained"


def test_a_backbone_of_an_own_package_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_backbone_of_test.py").write_text(
        "from mmdet3d.models.backbones import SECOND\nfrom mmdet3d.registry import MODELS\n\n\n"
        "@MODELS.register_module()\nclass OwnBackboneOfTest(SECOND):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    imports = "custom_imports = dict(imports=['own_backbone_of_test'], allow_failed_imports=False)\n"
    cfg = load_model_config(written(tmp_path, f"{imports}model = dict(pts_backbone=dict(type='OwnBackboneOfTest'))"))
    assert type(build_model(cfg).pts_backbone).__name__ == "OwnBackboneOfTest"


def test_a_backbone_of_an_absent_package_is_named(tmp_path: Path) -> None:
    imports = "custom_imports = dict(imports=['own_package.convnext'], allow_failed_imports=False)\n"
    path = written(tmp_path, f"{imports}model = dict(pts_backbone=dict(type='OwnConvNeXt'))")
    with pytest.raises(ConfigError, match=r"unknown model type 'OwnConvNeXt' \(model\.pts_backbone\)"):
        load_model_config(path)
    path = written(tmp_path, "model = dict(pts_backbone=dict(type='mmpretrain.OwnConvNeXt'))")
    with pytest.raises(ConfigError, match=r"cannot build the model .*OwnConvNeXt"):
        build_model(load_model_config(path))


def test_a_module_that_cannot_be_imported_is_named_where_it_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_package_of_test.py").write_text("raise RuntimeError('no compiled operators here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    imports = "custom_imports = dict(imports=['failing_package_of_test'], allow_failed_imports=False)\n"
    head = f"model = dict(pts_bbox_head=dict({HEAD.format(kind='OwnFocalLoss')}))"
    assert build_model(load_model_config(written(tmp_path, imports + head))) is not None
    path = written(tmp_path, f"{imports}model = dict(pts_neck=dict(type='OwnNeck'))")
    with pytest.raises(
        ConfigError,
        match=r"'OwnNeck' \(model\.pts_neck\)\. Of custom_imports, importing 'failing_package_of_test' failed: "
        r"RuntimeError: no compiled operators here",
    ):
        load_model_config(path)
    assert "failing_package_of_test" not in sys.modules
