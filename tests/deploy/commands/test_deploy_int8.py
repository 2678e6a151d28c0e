"""INT8 from the command line: from a float checkpoint, from the quantized one that it made, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from base.files import sha256_file
from deploy.export import main
from export.tools import calibrate, export_onnx

if TYPE_CHECKING:
    from tests.deploy.commands.conftest import Deployment

CONFIG = (
    "evaluation = dict(backends=dict(pytorch=dict(device='cpu'), onnx=dict(device='cpu'),"
    " tensorrt=dict(enabled=False)))\n"
)


@pytest.fixture(scope="module")
def data(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dataset, with its frames as the training split too."""
    root = tmp_path_factory.mktemp("int8") / "data"
    shutil.copytree(deployment.data_root, root)
    shutil.copy(root / "centerpoint_infos_val.pkl", root / "centerpoint_infos_train.pkl")
    return root


def _run(deployment: Deployment, folder: Path, data_root: Path, *options: str, config: str = "") -> int:
    file = folder / "deploy_config.py"
    file.write_text(CONFIG + config)
    defaults = {
        "--mode": "onnx",
        "--deploy-config": file,
        "--model-config": deployment.model_config,
        "--checkpoint": deployment.checkpoint,
        "--data-root": data_root,
        "--num-samples": "-1",
        "--num-verify-samples": "1",
        "--work-dir": folder / "out",
        "--log-level": "WARNING",
    }
    named = {option.split("=")[0] for option in options}
    return main([*options, *(f"{key}={value}" for key, value in defaults.items() if key not in named)])


@pytest.fixture(scope="module")
def run(deployment: Deployment, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of an INT8 deployment from the float checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILD_WORKING_DIRECTORY", str(folder))
        assert _run(deployment, folder, data, "--precision=int8") == 0
    return folder / "out"


def test_a_float_checkpoint_is_calibrated_exported_and_verified(run: Path, deployment: Deployment) -> None:
    results = json.loads((run / "results.json").read_text())
    assert [step["name"] for step in results["steps"]] == [
        "load model",
        "open dataset",
        "quantize",
        "export ONNX",
        "verify onnx against pytorch",
        "evaluate pytorch",
        "evaluate onnx",
    ]
    # The float model is the reference that INT8 is scored against.
    precisions = {item["backend"]: item["precision"] for item in results["evaluations"]}
    assert precisions == {"pytorch": "fp32", "onnx": "int8"}
    manifest = json.loads((run / "manifest.json").read_text())
    facts = manifest["settings"]["quantization"]
    assert facts["num_frames"] == 3
    assert len(facts["scales_sha256"]) == 64
    assert {"quantized/checkpoint.pth", "quantized/calibration.json"} <= set(manifest["outputs"])
    assert manifest["inputs"]["calibration_info_file"]["file"] == "centerpoint_infos_train.pkl"
    layers = manifest["settings"]["quantization_structure"]["layers"]
    assert sum(layer["quantized"] for layer in layers) > 10
    report = (run / "report.html").read_text()
    for anchor in ("int8-precision", "int8-codes", "int8-quantization"):
        assert f'id="{anchor}"' in report


def test_the_quantized_checkpoint_gives_the_same_files(
    run: Path, deployment: Deployment, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    options = ("--precision=int8", f"--checkpoint={run}/quantized/checkpoint.pth", "--mode=onnx")
    assert _run(deployment, tmp_path, data, *options) == 0
    import onnx

    for name in ("pts_voxel_encoder", "pts_backbone_neck_head"):
        ours, theirs = (onnx.load(folder / "onnx" / f"{name}.onnx") for folder in (tmp_path / "out", run))
        assert ours.graph == theirs.graph
    # And the first run's files pass for this checkpoint's.
    reuse = f"evaluation['backends']['onnx']['model_dir'] = '{run}/onnx'\n"
    options = (*options[:2], "--mode=none")
    assert _run(deployment, tmp_path, data, *options, config=reuse) == 0


@pytest.fixture(scope="module")
def bare(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights and scales as `torch.save({'state_dict': model.state_dict()})` leaves them."""
    import torch

    path = tmp_path_factory.mktemp("bare") / "centerpoint_ptq.pth"
    full = torch.load(run / "quantized" / "checkpoint.pth", weights_only=True)
    torch.save({"state_dict": full["state_dict"]}, path)
    return path


def test_a_bare_state_dict_with_scales_gives_the_same_graphs(
    run: Path, bare: Path, deployment: Deployment, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    assert _run(deployment, tmp_path, data, "--precision=int8", f"--checkpoint={bare}", "--mode=onnx") == 0
    import onnx

    for name in ("pts_voxel_encoder", "pts_backbone_neck_head"):
        ours, theirs = (onnx.load(folder / "onnx" / f"{name}.onnx") for folder in (tmp_path / "out", run))
        # The files differ in the checkpoint's sha256 alone, which their metadata name.
        assert ours.graph.SerializeToString() == theirs.graph.SerializeToString()


def test_a_bare_state_dict_with_scales_in_a_float_deployment(
    bare: Path, deployment: Deployment, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(deployment, tmp_path, data, f"--checkpoint={bare}", "--precision=fp32") == 2
    error = capsys.readouterr().err
    assert "is quantized, but" in error
    assert "--precision=int8" in error


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_quantized_checkpoint_in_a_float_deployment(
    run: Path, deployment: Deployment, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    checkpoint = f"--checkpoint={run}/quantized/checkpoint.pth"
    assert _run(deployment, tmp_path, data, checkpoint, f"--precision={precision}") == 2
    error = capsys.readouterr().err
    assert "is quantized, but" in error
    assert "--precision=int8" in error


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("quantization = dict(mode='qat')\n", "is a float checkpoint, but 'quantization.mode' is 'qat'"),
        (
            "quantization = dict(sensitive_layers=['pts_backbone.blocks.0.1'])\n",
            "pts_backbone.blocks.0.0",
        ),
        ("quantization = dict(calibration=dict(cache_file='none.json'))\n", "none.json', which does not exist"),
        ("quantization = dict(calibration=dict(num_batches=0))\n", "quantization.calibration.num_batches"),
    ],
)
def test_wrong_settings(
    deployment: Deployment,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    message: str,
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    assert _run(deployment, tmp_path, data, "--precision=int8", config=config) == 2
    assert message in capsys.readouterr().err


def test_without_a_training_split(deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(deployment, tmp_path, deployment.data_root, "--precision=int8") == 2
    error = capsys.readouterr().err
    assert "Calibration reads split 'train'" in error
    assert "has no 'centerpoint_infos_train.pkl'" in error
    assert not (tmp_path / "out" / "onnx").exists()


def test_a_calibration_of_another_model(
    run: Path, deployment: Deployment, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = json.loads((run / "quantized" / "calibration.json").read_text())
    (tmp_path / "edited.json").write_text(json.dumps({**cache, "weights_sha256": "0" * 64}))
    config = f"quantization = dict(calibration=dict(cache_file='{tmp_path}/edited.json'))\n"
    assert _run(deployment, tmp_path, data, "--precision=int8", config=config) == 2
    assert "edited.json" in capsys.readouterr().err


@pytest.fixture(scope="module")
def calibrated(deployment: Deployment, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build action makes."""
    out = tmp_path_factory.mktemp("calibrated")
    given = ["--model-config", deployment.model_config, "--checkpoint", deployment.checkpoint, "--data-root", data]
    assert calibrate.main([*map(str, given), "--out", str(out), "--num-batches", "2", "--log-level", "ERROR"]) == 0
    return out


def test_the_build_action_calibrates_the_same_bytes_twice(
    calibrated: Path, deployment: Deployment, data: Path, tmp_path: Path
) -> None:
    given = ["--model-config", deployment.model_config, "--checkpoint", deployment.checkpoint, "--data-root", data]
    # Another thread count, and defaults spelled out, as the build does.
    more = ["--num-batches", "2", "--threads", "2", "--log-level", "ERROR", "--split", "train"]
    more += ["--method", "calibrate", "--amax-method", "".join(["m", "se"]), "--engine", "pytorch_quantization"]
    assert calibrate.main([*map(str, given), "--out", str(tmp_path), *more]) == 0
    names = ("calibration.json", "checkpoint.pth", "manifest.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        assert sha256_file(tmp_path / name) == sha256_file(calibrated / name)


def test_the_build_action_keeps_the_layers_of_a_deploy_config_in_floating_point(
    deployment: Deployment, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The layers that a run with that configuration keeps, read from the same file."""
    config = tmp_path / "int8.py"
    config.write_text("quantization = dict(enabled=True, sensitive_layers=['pts_backbone.blocks.0.*'])\n")
    given = ["--model-config", deployment.model_config, "--checkpoint", deployment.checkpoint, "--data-root", data]
    given += ["--num-batches", "1", "--log-level", "ERROR", "--out", tmp_path / "out", "--deploy-config", config]
    assert calibrate.main([str(item) for item in given]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["inputs"]["deploy_config"]["file"] == "int8.py"
    layers = {layer["path"]: layer["quantized"] for layer in manifest["settings"]["structure"]["layers"]}
    first = {path for path in layers if path.startswith("pts_backbone.blocks.0.")}
    assert first
    assert not any(layers[path] for path in first)
    assert any(layers.values())
    for text, place in (("quantization = 3", "quantization"), ("quantization = dict(sensitive_layers=3)", "layers")):
        config.write_text(text + "\n")
        assert calibrate.main([str(item) for item in given]) == 2
        error = capsys.readouterr().err
        assert str(config) in error
        assert place in error


def test_the_build_action_exports_it(
    calibrated: Path, deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model-config", str(deployment.model_config), "--out", str(tmp_path), "--log-level", "ERROR"]
    quantized = ["--quantized-checkpoint", str(calibrated / "checkpoint.pth")]
    assert export_onnx.main([*given, *quantized, "--precision", "int8"]) == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["settings"]["quantization"]["method"] == "checkpoint"
    assert manifest["settings"]["onnx"]["opset_version"] == 19
    for wrong in ([*given, *quantized], [*given, "--precision", "int8"]):
        assert export_onnx.main(wrong) == 2
        assert "--precision int8 and --quantized-checkpoint go together" in capsys.readouterr().err
