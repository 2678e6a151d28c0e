"""What `deploy.inspect` says of configs and checkpoints, held against what the commands do with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deploy.inspect import main

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec

STEPS = ["load", "build", "weights", "onnx", "fp16", "int8", "tensorrt", "cuda", "bundle"]


def told(path: Path, out: Path, *options: str) -> tuple[int, dict[str, Any], dict[str, dict[str, str]]]:
    """Exit code, the model, and step -> ability, of one run."""
    code = main([str(path), "--json", str(out), *options])
    (model,) = json.loads(out.read_text(encoding="utf-8"))["files"].values()
    assert [ability["step"] for ability in model["abilities"]] == STEPS
    return code, model, {ability["step"]: ability for ability in model["abilities"]}


@pytest.fixture(scope="module")
def checkpoint(tiny: tuple[nn.Module, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("inspect") / "tiny.pth"
    meta = {"dataset_meta": {"classes": list(tiny[1].class_names)}}
    torch.save({"state_dict": tiny[0].state_dict(), "meta": meta}, path)
    return path


def test_a_model_with_its_weights(
    tiny_config_path: Path,
    tiny: tuple[nn.Module, ModelSpec],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, model, can = told(checkpoint, tmp_path / "out.json", f"--model-config={tiny_config_path}", "--strict")
    assert code == 1
    assert {step: ability["status"] for step, ability in can.items()} == {**dict.fromkeys(STEPS, "yes"), "cuda": "no"}
    # The kernels' own words, of the file that was made and is gone.
    assert can["cuda"]["reason"].startswith("int8/pts_backbone_neck_head.onnx: Node ")
    assert "the engine takes a multiple of 32" in can["cuda"]["reason"]
    assert model["spec"] == tiny[1].to_dict()
    assert model["checkpoint"]["parameters"] == sum(value.numel() for value in tiny[0].state_dict().values())
    assert model["checkpoint"]["class_names"] == list(tiny[1].class_names)
    text = capsys.readouterr().out
    assert "bundle for Autoware's node  yes" in text
    assert "5 columns, offsets to the cluster's mean, offsets to the pillar's centre and their maximum" in text


def test_a_checkpoint_alone(checkpoint: Path, tmp_path: Path) -> None:
    code, model, can = told(checkpoint, tmp_path / "out.json")
    assert code == 0
    assert model["spec"] is None
    assert {ability["status"] for ability in can.values()} == {"unknown"}
    assert "--model-config" in can["onnx"]["reason"]


def test_what_is_refused_is_said_with_the_message_of_what_refuses(
    tiny_config_path: Path, checkpoint: Path, tmp_path: Path
) -> None:
    voxels = tmp_path / "voxels.py"
    encoder = "dict(_delete_=True, type='HardSimpleVFE')"
    voxels.write_text(f"_base_ = [{str(tiny_config_path)!r}]\nmodel = dict(pts_voxel_encoder={encoder})\n")
    code, model, can = told(voxels, tmp_path / "out.json")
    assert code == 0
    assert model["spec"] is None
    assert "is a 'HardSimpleVFE': a network on voxels" in can["load"]["reason"]
    assert can["build"] == {"step": "build", "status": "no", "reason": "needs 'load'"}
    assert {ability["status"] for ability in can.values()} == {"no"}

    other = tmp_path / "other.py"
    other.write_text(
        f"_base_ = [{str(tiny_config_path)!r}]\nmodel = dict(pts_voxel_encoder=dict(with_distance=True))\n"
    )
    _, _, can = told(checkpoint, tmp_path / "out.json", f"--model-config={other}")
    assert can["build"]["status"] == "yes"
    assert "pts_voxel_encoder.pfn_layers.0.linear.weight" in can["weights"]["reason"]
    assert can["onnx"]["reason"] == "needs 'weights'"
    # Nothing of the weights decides what the node feeds.
    assert "an encoder of 5 columns" in can["bundle"]["reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.py"], "does not exist"),
        (["CONFIG", "--model-config=x.py"], "is a model config itself"),
        (["CONFIG", "--diff=x"], "models are not compared"),
        (["x.onnx", "--model-config=x.py"], "--model-config belongs to a checkpoint"),
    ],
)
def test_wrong_questions(
    words: list[str], message: str, tiny_config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("CONFIG", str(tiny_config_path)) for word in words]) == 2
    assert message in capsys.readouterr().err
