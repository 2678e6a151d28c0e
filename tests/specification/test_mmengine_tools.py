"""mmengine's and mmdet3d's own tools on this project's model configs, as the specification uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from datasets.frames import open_frames
from eval.evaluator import evaluate
from models.build import build_model, load_checkpoint
from models.components import extract_components
from models.config import load_model_config
from models.spec import ModelSpec
from quant.checkpoint import load_ptq_model
from runtime.backends.pytorch import PyTorchBackend
from runtime.pipeline import Pipeline

if TYPE_CHECKING:
    from tests.specification.conftest import Project

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "configs" / "model").glob("*.py"))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _in_the_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY", raising=False)
    torch.set_num_threads(1)


@pytest.fixture
def own(project: Project) -> tuple[Any, Pipeline]:
    """The same model on this project's own runtime: its config and its pipeline."""
    cfg = load_model_config(project.model_config)
    model, spec = build_model(cfg), ModelSpec.from_config(cfg)
    load_checkpoint(model, project.checkpoint)
    return cfg, Pipeline(spec, PyTorchBackend(spec=spec, components=extract_components(model, spec), device="cpu"))


def test_init_model_and_inference_detector(project: Project, own: tuple[Any, Pipeline]) -> None:
    from mmdet3d.apis import inference_detector, init_model

    model = init_model(str(project.model_config), str(project.checkpoint), device="cpu")
    cfg, pipeline = own
    for index, frame in enumerate(open_frames(cfg, "val")):
        cloud = project.data_root / "lidar" / f"{index + 4:05d}.bin"
        found = inference_detector(model, str(cloud))[0].pred_instances_3d
        expected = pipeline(frame.points).detections
        assert len(expected) > 5
        centers = found.bboxes_3d.gravity_center.numpy()
        assert centers == pytest.approx(expected.boxes[:, :3], abs=1e-4)
        assert found.scores_3d.numpy() == pytest.approx(expected.scores, abs=1e-5)
        assert np.array_equal(found.labels_3d.numpy(), expected.labels)


def test_init_model_asks_for_no_dataset(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdet3d.apis import init_model

    monkeypatch.chdir(tmp_path)
    model = init_model(str(project.model_config), str(project.checkpoint), device="cpu")
    assert tuple(model.dataset_meta["classes"]) == ("car", "truck", "bus", "bicycle", "pedestrian")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_names_what_mmengine_needs(path: Path) -> None:
    """A Runner is made of each, up to the data, which is the user's."""
    from mmdet3d.registry import DATASETS, HOOKS, METRICS

    cfg = Config.fromfile(path)
    assert DATASETS.get(cfg.train_dataloader.dataset.type).__module__ == "datasets.t4"
    assert METRICS.build(cfg.val_evaluator).default_prefix == "detection"
    assert HOOKS.get("QATHook").__module__ == "quant.hooks.qat_hook"
    schedule = cfg.param_scheduler[0]
    assert schedule.total_steps == cfg.train_cfg.max_epochs
    # One half of a Runner's three loops cannot be made without the other.
    for split in ("val", "test"):
        assert {f"{split}_dataloader", f"{split}_cfg", f"{split}_evaluator"} <= set(cfg)


def test_the_runner_scores_what_this_project_scores(
    project: Project, own: tuple[Any, Pipeline], tmp_path: Path
) -> None:
    cfg = Config.fromfile(project.model_config)
    cfg.work_dir, cfg.load_from = str(tmp_path), str(project.checkpoint)
    runner = Runner.from_cfg(cfg)
    scores = runner.test()
    own_cfg, pipeline = own
    expected = evaluate(pipeline, open_frames(own_cfg, "val")).metrics
    assert expected.mean_ap > 0
    assert scores["detection/mAP"] == pytest.approx(expected.mean_ap, abs=1e-4)
    for item in expected.total.classes:
        assert scores[f"detection/AP_{item.class_name}"] == pytest.approx(item.mean_ap, abs=1e-4)


def test_a_runner_fine_tunes_in_int8(project: Project, tmp_path: Path) -> None:
    """What mmdet3d's tools/train.py does with a config that names QATHook."""
    config = tmp_path / "qat.py"
    config.write_text(
        f"_base_ = [{str(project.model_config)!r}]\n"
        "custom_hooks = [dict(type='QATHook', calibration_batches=2, freeze_bn=True)]\n"
        "optim_wrapper = dict(optimizer=dict(lr=0.0001))\n"
        "train_cfg = dict(max_epochs=2, val_interval=2)\n"
        f"load_from = {str(project.checkpoint)!r}\n"
    )
    cfg = Config.fromfile(config)
    cfg.work_dir = str(tmp_path / "work")
    runner = Runner.from_cfg(cfg)
    rates: list[float] = []
    step = OptimWrapper.step

    def recorded(self: Any, **kwargs: Any) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptimWrapper, "step", recorded)
        runner.train()
    assert len(rates) == 4
    # The config's own schedule climbs to 3e-3 and is 50 epochs long.
    assert max(rates) <= 1e-4 * (1 + 1e-6)
    assert rates[-1] < max(rates) / 10
    model = build_model(load_model_config(project.model_config))
    structure = load_ptq_model(model, tmp_path / "work" / "quantized.pth")
    assert structure.fuse_bn
    # Every epoch's own checkpoint is one, too: the last one holds the result before its BatchNorms are folded.
    before = load_ptq_model(build_model(load_model_config(project.model_config)), tmp_path / "work" / "epoch_2.pth")
    assert before.quantized_paths() == structure.quantized_paths()
    assert not before.fuse_bn


def test_calibration_after_the_last_epoch_is_refused(project: Project, tmp_path: Path) -> None:
    from base.errors import ConfigError

    cfg = Config.fromfile(project.model_config)
    cfg.custom_hooks = [{"type": "QATHook", "calibration_epoch": 2}]
    cfg.train_cfg.max_epochs = 2
    cfg.work_dir, cfg.load_from = str(tmp_path), str(project.checkpoint)
    with pytest.raises(ConfigError, match="calibration_epoch is 2, but the training ends after 2 epochs"):
        Runner.from_cfg(cfg).train()


def test_a_model_config_is_read_without_what_it_names(project: Project) -> None:
    """Light commands (deploy.inspect, the plan of an export) pay for no mmdet3d."""
    code = (
        "import sys\nfrom models.config import load_model_config\nfrom models.spec import ModelSpec\n"
        f"spec = ModelSpec.from_config(load_model_config({str(SHIPPED[0])!r}))\n"
        "heavy = {'torch', 'mmdet3d', 'datasets.t4', 'quant', 'eval'} & set(sys.modules)\n"
        "print(spec.name, sorted(heavy))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(" []\n"), found.stdout
