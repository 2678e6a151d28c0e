"""Quantization-aware training under torchrun: two processes on the CPU, each with its own frames, and one result."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from quant.quantizer import named_quantizers
from tests.base.forked_torchrun import run_forked_torchrun
from tests.quant.qat_process import train_and_record

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "model" / "centerpoint_t4_demo.py"
CHECKPOINT = REPOSITORY / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth"
FRAMES = 4


@pytest.fixture(scope="module")
def trained(four_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of one epoch with two processes of one frame a step, with an averaged model and a scored frame."""
    root = tmp_path_factory.mktemp("distributed")
    work_dir = root / "work"
    work_dir.mkdir()
    options = {
        "--config": CONFIG,
        "--checkpoint": CHECKPOINT,
        "--data-root": four_frames,
        "--calibrate-batches": 2,
        "--epochs": 1,
        "--lr": "1e-4",
        "--batch-size": 1,
        "--workers": 0,
        "--range-m": 6.4,
        "--eval-frames": 1,
        "--ema": 0.5,
        "--work-dir": work_dir,
        "--output": work_dir / "qat.pth",
        "--launcher": "pytorch",
    }
    arguments = [str(part) for pair in options.items() for part in pair]
    done = run_forked_torchrun(partial(train_and_record, work_dir), ["qat", *arguments], root)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return work_dir


def test_processes_share_the_frames_and_end_with_one_model(trained: Path) -> None:
    first, second = (json.loads((trained / f"process_{rank}.json").read_text()) for rank in range(2))
    assert first["processes"] == second["processes"] == 2
    assert first["wrapped"]
    assert second["wrapped"]
    assert sorted(first["frames"] + second["frames"]) == list(range(FRAMES))
    # Half of the frames each, so that equal weights can only come from averaged gradients.
    assert first["steps"] == second["steps"] == FRAMES // 2
    assert first["scales"] == second["scales"]
    assert first["parameters"] == second["parameters"]


def test_the_first_process_writes_a_complete_checkpoint(trained: Path) -> None:
    from models.build import build_model, load_checkpoint
    from models.config import load_model_config
    from quant.checkpoint import load_ptq_model
    from quant.fusion.bn_fusion import fuse_model_bn

    cfg = load_model_config(CONFIG)
    model: Any = build_model(cfg)
    assert load_ptq_model(model, trained / "qat.pth").fuse_bn
    assert all(quantizer.is_calibrated for quantizer in named_quantizers(model).values())
    before: Any = build_model(cfg)
    load_checkpoint(before, CHECKPOINT)
    fuse_model_bn(before)
    old, new = before.pts_backbone.blocks[0][0].weight, model.pts_backbone.blocks[0][0].weight
    assert 0 < float((new - old).detach().abs().max()) < 4e-4
    assert torch.isfinite(new).all()
    assert [point["epoch"] for point in json.loads((trained / "curve.json").read_text())["map"]] == [0, 1]
