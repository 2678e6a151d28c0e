"""Quantization-aware training of the real demo network on a small square, through the command a user types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from quant.centerpoint_quantization import main
from quant.quantizer import named_quantizers

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs" / "model" / "centerpoint_t4_demo.py"
CHECKPOINT = REPOSITORY / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth"


@pytest.fixture(scope="module")
def dataset(four_frames: Path) -> Path:
    return four_frames


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _arguments(dataset: Path, work_dir: Path, *more: str) -> list[str]:
    fixed = {
        "--config": CONFIG,
        "--checkpoint": CHECKPOINT,
        "--data-root": dataset,
        "--calibrate-batches": 1,
        "--epochs": 2,
        "--lr": "1e-4",
        "--batch-size": 2,
        "--workers": 0,
        "--device": "cpu",
        "--range-m": 6.4,
        "--work-dir": work_dir,
        "--output": work_dir / "qat.pth",
    }
    return ["qat", *(str(part) for pair in fixed.items() for part in pair), *more]


def _load(path: Path) -> tuple[Any, Any]:
    from models.build import build_model
    from models.config import load_model_config
    from quant.checkpoint import load_ptq_model

    model = build_model(load_model_config(CONFIG))
    return model, load_ptq_model(model, path)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of a training of two epochs with an averaged model."""
    work_dir = tmp_path_factory.mktemp("trained")
    assert main(_arguments(dataset, work_dir, "--eval-frames", "1", "--ema", "0.5")) == 0
    return work_dir


def test_the_result_is_a_complete_quantized_checkpoint(trained: Path) -> None:
    model, structure = _load(trained / "qat.pth")
    assert structure.fuse_bn
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.pts_backbone.modules())
    quantizers = named_quantizers(model)
    assert quantizers
    assert all(quantizer.is_calibrated for quantizer in quantizers.values())


def test_training_reaches_every_parameter_and_only_a_little(trained: Path) -> None:
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from quant.fusion.bn_fusion import fuse_model_bn

    before = build_model(load_model_config(CONFIG))
    load_checkpoint(before, CHECKPOINT)
    fuse_model_bn(before)
    after = dict(_load(trained / "qat.pth")[0].named_parameters())
    for name, old in before.named_parameters():
        change = float((after[name] - old).detach().abs().max())
        # Folded biases are parameters that the float optimizer never knew. Two steps of AdamW move a value by at most
        # about twice the learning rate, beside the weight decay.
        assert 0 < change < 4e-4, name


def test_the_curve_holds_calibration_and_every_epoch(trained: Path) -> None:
    curve = json.loads((trained / "curve.json").read_text())
    assert [point["epoch"] for point in curve["map"]] == [0, 1, 2]
    assert all(0 <= point["map"] <= 1 for point in curve["map"])
    assert (trained / "qat.curve.svg").read_text().lstrip().startswith("<?xml")


def test_the_rate_climbs_no_higher_than_asked_and_comes_down(dataset: Path, tmp_path: Path) -> None:
    from mmengine.optim import OneCycleLR

    from quant.centerpoint_quantization import _parser
    from quant.hooks.qat_command import qat_config

    arguments = _arguments(dataset, tmp_path)
    (schedule,) = qat_config(_parser(arguments).parse_args(arguments)).param_scheduler
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    assert (schedule.pop("type"), schedule.pop("convert_to_iter_based")) == ("OneCycleLR", True)
    scheduler = OneCycleLR.build_iter_from_epoch(optimizer=optimizer, epoch_length=50, **schedule)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # The model config's own schedule climbs to 2e-3.
    assert max(rates) == pytest.approx(1e-4, rel=1e-3)
    assert rates[0] == pytest.approx(1e-5)
    assert rates.index(max(rates)) < 10
    assert rates[-1] == pytest.approx(1e-6, rel=0.1)


def test_training_can_be_resumed_with_its_own_settings_only(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [*_arguments(dataset, tmp_path), "--epochs", "1"]
    assert main(short) == 0
    first = _load(tmp_path / "qat.pth")[0].state_dict()
    again = [*_arguments(dataset, tmp_path), "--resume"]
    assert main([*again, "--skip-layers", "pts_backbone.blocks.0.0"]) == 2
    assert "another quantization" in capsys.readouterr().err
    assert main(again) == 0
    second = _load(tmp_path / "qat.pth")[0].state_dict()
    scales = [key for key in first if key.endswith("scale")]
    assert scales
    # Calibration is the first run's; the weights moved on.
    assert all(torch.equal(first[key], second[key]) for key in scales)
    assert not torch.equal(first["pts_backbone.blocks.0.0.weight"], second["pts_backbone.blocks.0.0.weight"])


def test_batch_norm_that_was_trained_is_folded_at_the_end(dataset: Path, tmp_path: Path) -> None:
    assert main([*_arguments(dataset, tmp_path), "--bn", "train", "--epochs", "1"]) == 0
    model, structure = _load(tmp_path / "qat.pth")
    assert structure.fuse_bn
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.pts_backbone.modules())


def test_averaged_weights_are_folded_like_any(dataset: Path, tmp_path: Path) -> None:
    """The average is kept of the unfolded weights. Of weights that do not move it is the weights."""
    options = ("--bn", "freeze", "--epochs", "1", "--lr", "1e-30")
    assert main([*_arguments(dataset, tmp_path / "plain"), *options]) == 0
    assert main([*_arguments(dataset, tmp_path / "averaged"), *options, "--ema", "0.5"]) == 0
    plain, averaged = (_load(tmp_path / name / "qat.pth")[0].state_dict() for name in ("plain", "averaged"))
    assert plain.keys() == averaged.keys()
    for name, value in plain.items():
        torch.testing.assert_close(averaged[name], value, rtol=1e-5, atol=1e-7)


def test_folding_a_trained_batch_norm_keeps_the_function() -> None:
    from quant.hooks.batch_norm import fold_trained_bn
    from quant.replace import quant_model

    generator = torch.Generator().manual_seed(0)
    convolution, norm = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.copy_(torch.randn(8, generator=generator))
    assert norm.running_var is not None
    norm.running_var.abs_().add_(0.5)
    model = torch.nn.Sequential(convolution, norm).eval()
    x = torch.randn(1, 3, 9, 9, generator=generator)
    structure = quant_model(model, include=["0"], example_inputs=(x,))
    layer: Any = model[0]
    layer.input_quantizer.set_scale(x.abs().max() / 127)
    layer.weight_quantizer.set_scale(layer.weight.abs().amax((1, 2, 3)) / 127)
    codes = torch.round(layer.weight / layer.weight_quantizer.scale[:, None, None, None]).abs().clamp(max=128)
    before = model(x)
    assert fold_trained_bn(model, structure).fuse_bn
    after = model(x)
    kept = torch.round(layer.weight / layer.weight_quantizer.scale[:, None, None, None]).abs()
    assert torch.equal(kept, codes)
    # The new scales are rounded to eight bits: half a step of 2**-8 at most.
    assert float((after - before).detach().abs().max()) <= 2**-8 * float(before.detach().abs().max()) * 1.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--epochs", "0"), "--epochs is 0"),
        (("--lr", "-1"), "--lr is -1"),
        (("--skip-layers", "pts_backbone.blocks.0.1"), "pts_backbone.blocks.0."),
        (("--checkpoint", "nowhere.pth"), "nowhere.pth"),
    ],
)
def test_wrong_input_is_told(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str], message: str
) -> None:
    assert main([*_arguments(dataset, tmp_path), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "qat.pth").exists()


def test_bn_options_that_contradict_each_other_are_refused() -> None:
    from base.errors import ConfigError
    from quant.hooks import QATHook

    assert QATHook(freeze_bn=True).bn == "freeze"
    assert QATHook(freeze_bn=False).bn == "train"
    with pytest.raises(ConfigError, match="contradicts"):
        QATHook(bn="train", freeze_bn=True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [(None, "no 'inputs'"), (["gt_bboxes_3d", "gt_labels_3d"], "no 'points'"), (["points"], "no 'gt_bboxes_3d'")],
)
def test_a_pipeline_that_does_not_pack_is_told(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: list[str] | None, message: str
) -> None:
    from mmengine.config import Config

    config = tmp_path / "own.py"  # not in the work dir, where mmengine puts a copy of that name
    own = Config.fromfile(CONFIG)
    pipeline = own.train_dataloader.dataset.pipeline
    pipeline.pop()
    if keys is not None:
        pipeline.append({"type": "Pack3DDetInputs", "keys": keys})
    own.dump(config)
    arguments = _arguments(dataset, tmp_path / "work")
    arguments[arguments.index("--config") + 1] = str(config)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Pack3DDetInputs" in said
    assert str(config) in said
