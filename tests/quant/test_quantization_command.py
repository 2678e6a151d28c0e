"""The command `centerpoint_quantization`: what it writes, and what it says to wrong input."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.synthetic.dataset_writer import DatasetConfig, generate
from models.build import build_model
from quant import load_ptq_model, quant_model
from quant.calibration import CalibrationManager
from quant.centerpoint_quantization import main
from quant.fusion import fuse_model_bn
from tests.quant.quantized_model import run_network

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "model" / "centerpoint_t4_demo.py"
CHECKPOINT = ROOT / "models" / "zoo" / "centerpoint_t4_demo" / "checkpoint.pth"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t4") / "data"
    generate(DatasetConfig({"train": 1, "val": 1}, 1, 3), folder, 1, False)
    return folder


def ptq(dataset: Path, output: Path, *options: str, checkpoint: Path = CHECKPOINT) -> int:
    arguments = ["ptq", "--config", str(CONFIG), "--checkpoint", str(checkpoint), "--data-root", str(dataset)]
    return main([*arguments, "--output", str(output), "--workers", "1", "--amax-method", "max", *options])


@pytest.fixture(scope="module")
def quantized(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command that succeeds."""
    output = tmp_path_factory.mktemp("out") / "centerpoint_ptq.pth"
    skipped = ("--skip-layers", "pts_neck.deblocks.0.0", "pts_backbone.blocks.2.*")
    assert ptq(dataset, output, *skipped, "--calib-cache", str(output.with_suffix(".json"))) == 0
    return output


def float_checkpoint(path: Path, model: Any) -> Path:
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)
    return path


def test_the_checkpoint_holds_the_structure(quantized: Path, demo_cfg: Any, canvas: torch.Tensor) -> None:
    model = build_model(demo_cfg, seed=3)
    structure = load_ptq_model(model, quantized)
    skipped = {layer.path for layer in structure.layers if not layer.quantized}
    assert "pts_neck.deblocks.0.0" in skipped
    assert {f"pts_backbone.blocks.2.{index}" for index in (0, 3, 6, 9)} <= skipped
    assert "pts_backbone.blocks.1.0" not in skipped
    assert all(bool(value.isfinite().all()) for value in run_network(model, canvas).values())
    meta = torch.load(quantized, weights_only=True)["meta"]
    assert meta["calibration_frames"] == 1
    assert meta["method"] == "calibrate"


def test_a_second_run_writes_the_same_bytes(dataset: Path, quantized: Path, tmp_path: Path) -> None:
    """With the cache of the first in place of its frames."""
    skipped = ("--skip-layers", "pts_neck.deblocks.0.0", "pts_backbone.blocks.2.*")
    cache = ("--calib-cache", str(quantized.with_suffix(".json")))
    assert ptq(dataset, tmp_path / "again.pth", *skipped, *cache) == 0
    assert (tmp_path / "again.pth").read_bytes() == quantized.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--skip-layers", "pts_backbone.blocks.0.01"),
            "error (configuration): --skip-layers: 'pts_backbone.blocks.0.01' names no layer that can be quantized. "
            "Nearest: pts_backbone.blocks.0.",
        ),
        (("--calibrate-batches", "0"), "error (input): Zero calibration frames: max_frames is 0"),
        (("--output", "quantized.onnx"), "--output is 'quantized.onnx'; give a file name that ends in '.pth'"),
        (("--device", "cuda:7"), "--device is 'cuda:7', but torch finds no such device"),
        (("--checkpoint", "nowhere.pth"), "nowhere.pth' does not exist"),
    ],
)
def test_wrong_arguments(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert ptq(dataset, tmp_path / "q.pth", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "q.pth").exists()


def test_a_quantized_checkpoint(
    dataset: Path, quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ptq(dataset, tmp_path / "q.pth", checkpoint=quantized) == 2
    assert f"Checkpoint '{quantized}' is quantized already" in capsys.readouterr().err


def test_nan_activations(dataset: Path, demo_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that are finite, but too large for their sums."""
    with torch.no_grad():
        demo_model.pts_backbone.blocks[0][0].weight.mul_(1e38)
    broken = float_checkpoint(tmp_path / "broken.pth", demo_model)
    assert ptq(dataset, tmp_path / "q.pth", checkpoint=broken) == 2
    error = capsys.readouterr().err
    assert "NaN" in error or "infinite" in error
    assert not (tmp_path / "q.pth").exists()


def test_a_cache_of_another_model(
    dataset: Path, trained_demo_model: Any, canvas: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy.deepcopy(trained_demo_model)
    with torch.no_grad():
        other.pts_backbone.blocks[0][0].weight.mul_(2)
    fuse_model_bn(other)
    quant_model(other)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = other

        def forward(self, x: torch.Tensor) -> Any:
            return run_network(other, x)

    manager: Any = CalibrationManager(other)
    manager._network = Network
    manager.calibrate([canvas], 1, amax_method="max", workers=1)
    manager.save_calib_cache(tmp_path / "other.json")
    assert ptq(dataset, tmp_path / "q.pth", "--calib-cache", str(tmp_path / "other.json")) == 2
    assert "was made with other weights of this architecture" in capsys.readouterr().err


def test_every_command_explains_itself() -> None:
    for command in ("ptq", "sensitivity", "qat"):
        found = subprocess.run(
            [sys.executable, "-m", "quant.centerpoint_quantization", command, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for option in ("--config", "--checkpoint", "--calibrate-batches", "--skip-layers", "--output", "--log-level"):
            assert option in found.stdout, (command, option)


def test_ptq_needs_neither_sensitivity_nor_qat() -> None:
    code = (
        "import sys; sys.modules['quant.sensitivity'] = sys.modules['quant.hooks'] = None\n"
        "from quant.centerpoint_quantization import main\n"
        "main(['ptq', '--help'])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "--method" in found.stdout
