"""The components against the whole stock model, and checkpoints against the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from base.errors import CheckpointError
from models.build import build_model, load_checkpoint
from models.components import extract_components
from models.config import load_model_config
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "model"


@pytest.fixture(scope="module")
def stock() -> tuple[Any, ModelSpec]:
    torch.set_num_threads(1)
    cfg = load_model_config(CONFIGS / "centerpoint_t4_demo.py")
    return build_model(cfg, seed=3), ModelSpec.from_config(cfg)


def test_backbone_neck_head_is_the_stock_forward(stock: tuple[Any, ModelSpec]) -> None:
    model, spec = stock
    canvas = torch.randn(1, spec.encoder_channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.pts_bbox_head(model.pts_neck(model.pts_backbone(canvas)))[0][0]
        found = extract_components(model, spec)[BACKBONE_NECK_HEAD](canvas)
    assert list(expected) != [head.name for head in spec.heads], "the stock order differs, or this test proves nothing"
    for head, tensor in zip(spec.heads, found, strict=True):
        assert torch.equal(tensor, expected[head.name])


def test_voxel_encoder_is_the_stock_encoder_after_decoration(stock: tuple[Any, ModelSpec]) -> None:
    model, spec = stock
    generator = torch.Generator().manual_seed(0)
    decorated: list[torch.Tensor] = []
    encoder = model.pts_voxel_encoder
    hook = encoder.pfn_layers[0].register_forward_pre_hook(lambda _module, inputs: decorated.append(inputs[0]))
    points = torch.rand(6, 32, spec.point_features, generator=generator)
    coords = torch.randint(0, 300, (6, 4), generator=generator)
    with torch.inference_mode():
        expected = encoder(points, torch.full((6,), 32), coords)
        hook.remove()
        found = extract_components(model, spec)[VOXEL_ENCODER](decorated[0])
    assert found.shape == (6, 1, spec.encoder_channels)
    assert torch.equal(found.squeeze(1), expected)


def test_seeds_decide_the_weights() -> None:
    cfg = load_model_config(CONFIGS / "centerpoint_t4_demo.py")
    first, again, other = (build_model(cfg, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_checkpoint_round_trip_in_half_precision(stock: tuple[Any, ModelSpec], tmp_path: Path) -> None:
    model, _ = stock
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"seed": 3}}, tmp_path / "m.pth")
    cfg = load_model_config(CONFIGS / "centerpoint_t4_demo.py")
    loaded = build_model(cfg, seed=4)
    assert load_checkpoint(loaded, tmp_path / "m.pth") == {"seed": 3}
    weight = loaded.state_dict()["pts_backbone.blocks.0.0.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["pts_backbone.blocks.0.0.weight"].float())


def test_checkpoint_of_another_architecture_names_keys(stock: tuple[Any, ModelSpec], tmp_path: Path) -> None:
    model, _ = stock
    other = build_model(load_model_config(CONFIGS / "second_secfpn_4xb16_121m_base_amp.py"))
    torch.save({"state_dict": other.state_dict()}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth' belongs to another architecture.*of another shape \(pts_"):
        load_checkpoint(model, tmp_path / "other.pth")
    state = dict(model.state_dict())
    state["extra"] = torch.zeros(1)
    del state["pts_backbone.blocks.0.0.weight"]
    torch.save(state, tmp_path / "keys.pth")
    with pytest.raises(CheckpointError, match=r"1 missing \(pts_backbone.blocks.0.0.weight\); 1 unexpected \(extra\)"):
        load_checkpoint(model, tmp_path / "keys.pth")


def test_checkpoint_with_nan_is_refused(stock: tuple[Any, ModelSpec], tmp_path: Path) -> None:
    cfg = load_model_config(CONFIGS / "centerpoint_t4_demo.py")
    model = build_model(cfg)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["pts_backbone.blocks.0.0.weight"][0] = float("nan")
    torch.save({"state_dict": state}, tmp_path / "nan.pth")
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite values in 1 tensors \(pts_backbone.blocks.0.0.weight\)"
    ):
        load_checkpoint(model, tmp_path / "nan.pth")
