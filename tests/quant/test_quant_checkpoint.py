"""Quantized checkpoints: the same network after loading, the same bytes after saving, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from base.errors import CheckpointError, ConfigError
from models.build import build_model, load_checkpoint
from models.config import load_model_config
from quant.checkpoint import is_quantized_checkpoint, load_ptq_model, save_ptq_model
from quant.fusion import fuse_model_bn
from quant.quantizer import ENGINES
from quant.replace import quant_model
from quant.structure import quantization_structure
from tests.quant.quantized_model import calibrate_by_max, run_network

ROOT = Path(__file__).resolve().parents[2]
FLOAT = ROOT / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth"


@pytest.fixture
def quantized(demo_model: Any, canvas: torch.Tensor) -> Any:
    quant_model(fuse_model_bn(demo_model), ["pts_backbone.blocks.0.0"])
    calibrate_by_max(demo_model, canvas)
    return demo_model


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fuse_bn", [True, False])
def test_round_trip(
    demo_model: Any, demo_cfg: Any, canvas: torch.Tensor, tmp_path: Path, engine: str, fuse_bn: bool
) -> None:
    if fuse_bn:
        fuse_model_bn(demo_model)
    structure = quant_model(demo_model, ["pts_backbone.blocks.0.0"], engine=engine)
    assert structure.fuse_bn == fuse_bn
    calibrate_by_max(demo_model, canvas)
    path = save_ptq_model(demo_model, tmp_path / "model.pth", meta={"frames": 3})
    assert is_quantized_checkpoint(path)

    loaded: Any = build_model(demo_cfg, seed=11)
    assert load_ptq_model(loaded, path) == structure == quantization_structure(loaded)
    expected = run_network(demo_model, canvas)
    found = run_network(loaded, canvas)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    head = loaded.pts_bbox_head.task_heads[0]
    assert head.reg[0].conv.input_quantizer is head.vel[0].conv.input_quantizer
    assert torch.load(path, weights_only=True)["meta"] == {"frames": 3}


def test_same_model_same_bytes(quantized: Any, demo_cfg: Any, tmp_path: Path) -> None:
    first = save_ptq_model(quantized, tmp_path / "first.pth")
    loaded = build_model(demo_cfg)
    load_ptq_model(loaded, first)
    second = save_ptq_model(loaded, tmp_path / "other_name.pth")
    assert first.read_bytes() == second.read_bytes()
    quantized.pts_backbone.blocks[0][3].input_quantizer.set_scale(torch.tensor(1.0))
    third = save_ptq_model(quantized, tmp_path / "third.pth")
    assert first.read_bytes() != third.read_bytes()


def test_uncalibrated_and_float_models_are_not_saved(demo_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="This CenterPoint is not quantized"):
        save_ptq_model(demo_model, tmp_path / "m.pth")
    quant_model(demo_model)
    with pytest.raises(ConfigError, match=r"\d+ quantizers have no scale \(pts_backbone.blocks.0.0.input_quantizer, "):
        save_ptq_model(demo_model, tmp_path / "m.pth")
    assert not list(tmp_path.iterdir())


def test_float_and_quantized_are_told_apart(quantized: Any, demo_cfg: Any, tmp_path: Path) -> None:
    assert not is_quantized_checkpoint(FLOAT)
    fresh = build_model(demo_cfg)
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.pth' is a float checkpoint, and a quantized one was expected"
    ):
        load_ptq_model(fresh, FLOAT)
    load_checkpoint(fresh, FLOAT)  # nothing was changed by the refusal
    path = save_ptq_model(quantized, tmp_path / "int8.pth")
    with pytest.raises(CheckpointError, match=r"int8\.pth' is a quantized checkpoint.*load_ptq_model"):
        load_checkpoint(fresh, path)


def test_another_model_is_refused_before_anything_changes(quantized: Any, demo_cfg: Any, tmp_path: Path) -> None:
    path = save_ptq_model(quantized, tmp_path / "int8.pth")
    cfg = load_model_config(Path(demo_cfg.filename).with_name("second_secfpn_8xb16_121m_j6gen2_base_amp.py"))
    other = build_model(cfg)
    keys = list(other.state_dict())
    with pytest.raises(CheckpointError, match=r"int8\.pth': The quantization belongs to another model"):
        load_ptq_model(other, path)
    assert list(other.state_dict()) == keys


def changed(path: Path, **changes: Any) -> Path:
    checkpoint = torch.load(path, weights_only=True)
    for key, change in changes.items():
        checkpoint[key] = change(checkpoint[key])
    target = path.with_name("changed.pth")
    torch.save(checkpoint, target)
    return target


def test_damaged_checkpoints(quantized: Any, demo_cfg: Any, tmp_path: Path) -> None:
    path = save_ptq_model(quantized, tmp_path / "int8.pth")

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(CheckpointError, match=match):
            load_ptq_model(build_model(demo_cfg), changed(path, **changes))

    scale = "pts_backbone.blocks.0.3.input_quantizer.scale"
    refused(f"does not fit the model config.*{scale}", state_dict=lambda s: {k: v for k, v in s.items() if k != scale})
    refused(f"{scale} is int8, the model has float32", state_dict=lambda s: {**s, scale: s[scale].to(torch.int8)})
    refused("holds NaN or infinite values in " + scale, state_dict=lambda s: {**s, scale: torch.tensor(torch.nan)})
    refused("broken quantization structure", quantization=lambda _: "{")
    refused("'quantization' or 'state_dict' is not what save_ptq_model writes", quantization=lambda _: 5)
    refused(
        "belongs to another model",
        quantization=lambda text: json.dumps({**json.loads(text), "model_fingerprint": "0" * 64}),
    )
    refused("unknown engine 'x'; known: py", quantization=lambda text: json.dumps({**json.loads(text), "engine": "x"}))
    refused(
        r"\['nowhere'\] share a quantizer, but are no quantized layers",
        quantization=lambda text: json.dumps({**json.loads(text), "shared": [["nowhere", "pts_neck.concat"]]}),
    )
    with pytest.raises(CheckpointError, match="does not exist"):
        load_ptq_model(build_model(demo_cfg), tmp_path / "absent.pth")
