"""Which files a run reads although it does not make them."""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from base.errors import ConfigError
from deploy.config import load_deploy_config
from deploy.config.paths import repository_root
from deploy.plan import RunPlan, make_plan
from export.manifest import build_manifest, write_manifest

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment

_ENGINE_DIR = "evaluation.backends.tensorrt.engine_dir"


def plan_of(deployment: Any, work_dir: Path, **overrides: Any) -> RunPlan:
    given = {
        "checkpoint_path": str(deployment.checkpoint),
        "runtime_io.data_root": str(deployment.data_root),
        "export.work_dir": str(work_dir),
        **{f"evaluation.backends.{name}.enabled": name == "tensorrt" for name in ("pytorch", "onnx", "tensorrt")},
        **overrides,
    }
    config = load_deploy_config(repository_root() / "configs/deploy/deploy_config.py", given)
    return make_plan(config, "deploy_config.py", deployment.model_config)


@pytest.mark.parametrize(
    ("mode", "names_a_folder", "reads"),
    [
        ("none", False, True),
        ("none", True, True),
        # New ONNX files outdate the engines of an earlier run in the same folder; others were asked for by name.
        ("onnx", False, False),
        ("onnx", True, True),
        # It makes them itself.
        ("both", False, False),
    ],
)
def test_engines_of_an_earlier_run(
    deployment: Deployment, tmp_path: Path, mode: str, names_a_folder: bool, reads: bool
) -> None:
    folder = tmp_path / ("elsewhere" if names_a_folder else "out/tensorrt")
    folder.mkdir(parents=True)
    source = tmp_path / "source.onnx"
    source.write_bytes(b"what they were built from")
    for component in ("pts_voxel_encoder", "pts_backbone_neck_head"):
        engine = folder / f"{component}.engine"
        engine.write_bytes(b"of an earlier run")
        settings = {"graph_precision": "fp32", "precision_policy": "auto"}
        manifest = build_manifest("engine", {"onnx": source}, {"engine": engine}, settings)
        write_manifest(engine.with_name(engine.name + ".json"), manifest)
    named = {_ENGINE_DIR: str(folder)} if names_a_folder else {}
    plan = plan_of(deployment, tmp_path / "out", **{"export.mode": mode}, **named)
    assert plan.reads_engines is reads
    assert plan.engine_dir == folder


def test_nothing_reads_engines_where_no_step_runs_them(deployment: Deployment, tmp_path: Path) -> None:
    without = {"evaluation.backends.tensorrt.enabled": False, "evaluation.backends.onnx.enabled": True}
    plan = plan_of(deployment, tmp_path / "out", **{"export.mode": "onnx"}, **without)
    assert not plan.reads_engines


def test_deformable_convolutions_need_an_operator_set_that_has_their_samples(
    deployment: Deployment, tmp_path: Path
) -> None:
    config = tmp_path / "deformable.py"
    layer = "dict(type='DCN', in_channels=8, out_channels=8, kernel_size=3, padding=1)"
    head = f"dict(_delete_=True, type='DCNSeparateHead', dcn_config={layer})"
    base = f"_base_ = [{str(deployment.model_config)!r}]\n"
    config.write_text(f"{base}model = dict(pts_bbox_head=dict(separate_head={head}))\n")
    deformable = types.SimpleNamespace(**{**vars(deployment), "model_config": config})
    options = {"export.mode": "onnx", "onnx_config.opset_version": 15}
    with pytest.raises(ConfigError, match=r"is 15, but the model has deformable .* since 16\. Set it to 17"):
        plan_of(deformable, tmp_path / "out", **options)
    assert plan_of(deployment, tmp_path / "out", **options).spec


@pytest.mark.parametrize(
    ("encoder", "layer", "message"),
    [
        ("feat_channels=[16, 16, 32]", "", r"its pillar encoder has 3 layers; this engine's kernels run one or two"),
        ("feat_channels=[80, 32]", "", r"channels of encoder layer 1 of 2: 40; .* take 1 to 32"),
        ("mode='avg'", "", r"takes the mean of a pillar's slots"),
        ("", "max_num_points=200", r"max_points_per_voxel: 200; .* take 1 to 128"),
    ],
)
def test_encoders_that_the_kernels_do_not_take_are_refused_before_any_work(
    deployment: Deployment, tmp_path: Path, encoder: str, layer: str, message: str
) -> None:
    config = tmp_path / "other.py"
    parts = f"pts_voxel_encoder=dict({encoder}), data_preprocessor=dict(voxel_layer=dict({layer}))"
    config.write_text(f"_base_ = [{str(deployment.model_config)!r}]\nmodel = dict({parts})\n")
    other = types.SimpleNamespace(**{**vars(deployment), "model_config": config})
    options = {"export.mode": "onnx", "evaluation.backends.tensorrt.enabled": False}
    with pytest.raises(ConfigError, match=rf"backend 'cuda' cannot run this model.*{message}"):
        plan_of(other, tmp_path / "out", **options, **{"evaluation.backends.cuda.enabled": True})
    assert plan_of(other, tmp_path / "out", **options, **{"evaluation.backends.onnx.enabled": True}).spec
