"""The commands that build actions run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from export.tools import build_engines, export_onnx
from models.spec import ModelSpec

FILES = ("pts_backbone_neck_head.onnx", "pts_voxel_encoder.onnx")


@pytest.fixture(autouse=True)
def _keep_global_settings() -> Iterator[None]:
    """The commands set torch's determinism for their process; this one goes on."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def _export(config: Path, out: Path, *more: str) -> int:
    return export_onnx.main(["--model-config", str(config), "--out", str(out), "--log-level", "ERROR", *more])


def test_export_writes_both_files_and_a_manifest(tiny_config_path: Path, tmp_path: Path) -> None:
    assert _export(tiny_config_path, tmp_path) == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", *FILES]
    for name in FILES:
        data = (tmp_path / name).read_bytes()
        assert manifest["outputs"][name]["sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["inputs"]["model_config"]["sha256"] == hashlib.sha256(tiny_config_path.read_bytes()).hexdigest()
    assert manifest["settings"]["weights"] == "seed 0"
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0] or manifest["versions"]["torch"]
    assert "environment" not in manifest


def test_a_checkpoint_s_weights_are_exported(
    tiny: tuple[Any, ModelSpec], tiny_config_path: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    torch.save({"state_dict": tiny[0].state_dict()}, tmp_path / "weights.pth")
    assert _export(tiny_config_path, tmp_path / "out", "--checkpoint", str(tmp_path / "weights.pth")) == 0
    for name in FILES:
        found, expected = onnx.load(tmp_path / "out" / name), onnx.load(tiny_onnx / name)
        assert found.graph == expected.graph
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    assert {p.key: p.value for p in found.metadata_props}["centerpoint.weights"] == f"sha256 {digest}"


def test_static_voxels_zero_takes_the_model_s_limit(tiny_config_path: Path, tmp_path: Path) -> None:
    assert _export(tiny_config_path, tmp_path, "--static-voxels", "0", "--precision", "fp16") == 0
    shape = onnx.load(tmp_path / FILES[1]).graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [48, 32, 11]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--opset", "99"], "opset_version is 99"),
        (["--checkpoint", "/nonexistent.pth"], "/nonexistent.pth"),
        (["--static-voxels", "-3"], "static_voxels is -3"),
    ],
)
def test_wrong_input_is_exit_code_2_with_one_line(
    tiny_config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert _export(tiny_config_path, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error (")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.glob("out/*.onnx"))


def test_a_missing_model_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _export(tmp_path / "nothing.py", tmp_path) == 2
    assert "nothing.py' does not exist" in capsys.readouterr().err


def _build(onnx_dir: Path, out: Path, *more: str) -> int:
    arguments = ["--onnx-dir", str(onnx_dir), "--out", str(out), "--builder", "tensorrt_rtx", "--log-level", "ERROR"]
    return build_engines.main([*arguments, *more])


def test_profiles_of_a_file_reach_the_engine(tiny_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    shapes = {"min": [2, 32, 11], "opt": [4, 32, 11], "max": [8, 32, 11]}
    (tmp_path / "profiles.json").write_text(json.dumps({"input_features": shapes}))
    assert _build(tiny_onnx, tmp_path / "out", "--profiles", str(tmp_path / "profiles.json")) == 0
    manifest = json.loads((tmp_path / "out" / "pts_voxel_encoder.engine.json").read_text())
    assert manifest["settings"]["profiles"] == {"input_features": shapes}
    assert sorted(json.loads((tmp_path / "out" / "manifest.json").read_text())["outputs"]) == [
        "pts_backbone_neck_head.engine",
        "pts_voxel_encoder.engine",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"input_features": {"min": [1]}}', "is no profile file (KeyError"),
        ("[1]", "is no profile file"),
        ("{", "is not valid JSON"),
        ('{"input_features": {"min": [3], "opt": [2], "max": [4]}}', "1 <= min <= opt <= max"),
    ],
)
def test_bad_profile_files(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "profiles.json").write_text(text)
    assert _build(tiny_onnx, tmp_path / "out", "--profiles", str(tmp_path / "profiles.json")) == 2
    assert message in capsys.readouterr().err


def test_engines_of_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _build(tmp_path / "nowhere", tmp_path / "out") == 2
    assert "nowhere' does not exist" in capsys.readouterr().err
