"""quantize_ptq: what it does to a model, from which inputs, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from base.errors import ConfigError, DataError
from quant import quantize_ptq, save_ptq_model
from quant.calibration import CalibrationManager
from quant.checkpoint import load_ptq_model
from quant.fusion import fuse_model_bn
from quant.quantizer import named_quantizers
from quant.reconstruction.settings import ReconstructionSettings
from quant.replace import quant_model
from quant.settings import PTQ_METHODS
from quant.stored_frames import StoredFrames
from tests.quant.quantized_model import relative_difference, run_network

QUICK = ReconstructionSettings(frames=3, iterations=4, batch_size=1, window_cells=32, held_out=0.2)


@pytest.fixture(scope="module")
def canvases() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(21)
    features = torch.rand(3, 32, 64, 64, generator=generator) * 4
    sparse = features * (torch.rand(3, 1, 64, 64, generator=generator) < 0.2)
    return [frame[None] for frame in sparse]


def scales(model: Any) -> dict[str, torch.Tensor]:
    return {name: quantizer.scale for name, quantizer in named_quantizers(model).items()}


class _Run(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, canvas: torch.Tensor) -> Any:
        return run_network(self.model, canvas)


def test_the_steps_one_by_one_give_the_same(trained_demo_model: Any, canvases: list[torch.Tensor]) -> None:
    found = quantize_ptq(
        copy.deepcopy(trained_demo_model), canvases, 3, "percentile", skip_layers=["pts_neck"], workers=1
    )
    model = fuse_model_bn(copy.deepcopy(trained_demo_model))
    quant_model(model, ["pts_neck"])
    wrapped = _Run(model)
    CalibrationManager(wrapped).calibrate(canvases, 3, amax_method="percentile", workers=1)
    expected = scales(model)
    assert scales(found).keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in scales(found).items())
    assert not any("pts_neck" in name for name in expected)


@pytest.mark.parametrize("method", PTQ_METHODS)
def test_a_saved_model_computes_the_same(
    trained_demo_model: Any, demo_cfg: Any, canvases: list[torch.Tensor], tmp_path: Path, method: str
) -> None:
    from models.build import build_model

    model = copy.deepcopy(trained_demo_model)
    assert quantize_ptq(model, iter(canvases), 3, method=method, reconstruction=QUICK) is model
    save_ptq_model(model, tmp_path / "q.pth")
    loaded = build_model(demo_cfg, seed=1)
    load_ptq_model(loaded, tmp_path / "q.pth")
    expected, found = run_network(model, canvases[0]), run_network(loaded, canvases[0])
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # It still is the trained network.
    assert relative_difference(found, run_network(trained_demo_model, canvases[0])) < 0.5


def test_equalization_lowers_the_error(demo_model: Any, canvases: list[torch.Tensor]) -> None:
    """Of a network whose channels differ in range, whatever weights are shipped; it computes the same as before."""
    first, normalization, _, second = demo_model.pts_backbone.blocks[0][:4]
    ranges = torch.where(torch.arange(first.out_channels) % 4 == 0, 8.0, 1.0)
    plain = run_network(demo_model, canvases[0])
    with torch.no_grad():
        normalization.weight *= ranges
        normalization.bias *= ranges
        second.weight /= ranges[:, None, None]
    truth = run_network(demo_model, canvases[0])
    assert all(torch.allclose(truth[k], v, rtol=1e-3, atol=1e-3) for k, v in plain.items())

    def error(**options: Any) -> float:
        model = quantize_ptq(copy.deepcopy(demo_model), canvases, 3, "max", reconstruction=QUICK, **options)
        found = run_network(model, canvases[0])
        return sum(float((found[k] - v).square().mean() / v.var()) for k, v in truth.items())

    assert error(equalize=True) < 0.8 * error()


def test_an_mmengine_data_loader(trained_demo_model: Any) -> None:
    """Batches as mmdet3d's data loaders give them, two frames in one; the canvas is the model's own."""
    generator = torch.Generator().manual_seed(1)
    clouds = [
        torch.cat(
            [(torch.rand(400, 3, generator=generator) - 0.5) * 60, torch.rand(400, 2, generator=generator)], dim=1
        )
        for _ in range(2)
    ]
    for cloud in clouds:
        cloud[:, 2] = cloud[:, 2] / 30 + 0.5
    only: Any = [0]  # a list is a dataset, though it does not say so
    loader = DataLoader[Any](
        only, batch_size=1, collate_fn=lambda _: {"inputs": {"points": clouds}, "data_samples": [None] * 2}
    )
    model = quantize_ptq(copy.deepcopy(trained_demo_model), loader, 2, "max")
    folded: Any = fuse_model_bn(copy.deepcopy(trained_demo_model))
    with torch.no_grad():
        data = folded.data_preprocessor({"inputs": {"points": clouds}, "data_samples": [None] * 2}, False)["inputs"][
            "voxels"
        ]
        features = folded.pts_voxel_encoder(data["voxels"], data["num_points"], data["coors"])
        canvas = folded.pts_middle_encoder(features, data["coors"], 2)
    first = scales(model)["pts_backbone.blocks.0.0.input_quantizer"]
    assert float(first) == pytest.approx(float(canvas.abs().max()) / 127, rel=1 / 128)


def test_the_cache_replaces_the_frames(trained_demo_model: Any, canvases: list[torch.Tensor], tmp_path: Path) -> None:
    cache = tmp_path / "scales.json"
    first = quantize_ptq(copy.deepcopy(trained_demo_model), canvases, 3, "max", calib_cache=cache, workers=1)
    second = quantize_ptq(copy.deepcopy(trained_demo_model), [], 3, "max", calib_cache=cache)
    assert all(torch.equal(value, scales(second)[name]) for name, value in scales(first).items())
    with pytest.raises(ConfigError, match="was made with amax_method 'max' and weight_method 'mse', asked for"):
        quantize_ptq(copy.deepcopy(trained_demo_model), [], 3, "mse", calib_cache=cache)
    other = copy.deepcopy(trained_demo_model)
    with torch.no_grad():
        other.pts_backbone.blocks[0][0].weight.mul_(1.5)
    with pytest.raises(DataError, match="made with other weights of this architecture"):
        quantize_ptq(other, [], 3, "max", calib_cache=cache)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lidar-ptq"}, "Unknown PTQ method 'lidar-ptq'.*Did you mean 'lidar_ptq'"),
        ({"skip_layers": ["pts_backbone.blocks.0.1"]}, r"skip_layers: .* Nearest: pts_backbone\.blocks\.0"),
        ({"method": "bias_correction", "fuse_bn": False}, "method bias_correction changes biases"),
        ({"equalize": True, "fuse_bn": False}, "equalize changes biases"),
        ({"amax_method": "mean"}, "mean"),
    ],
)
def test_refused_before_anything_is_changed(
    demo_model: Any, canvases: list[torch.Tensor], options: dict[str, Any], message: str
) -> None:
    before = {name: type(module) for name, module in demo_model.named_modules()}
    with pytest.raises(ConfigError, match=message):
        quantize_ptq(demo_model, canvases, 3, **options)
    if "amax_method" not in options:
        assert {name: type(module) for name, module in demo_model.named_modules()} == before


def test_a_quantized_model_is_refused(demo_model: Any, canvases: list[torch.Tensor]) -> None:
    quantize_ptq(demo_model, canvases, 1, "max", workers=1)
    with pytest.raises(ConfigError, match="quantized already"):
        quantize_ptq(demo_model, canvases, 1, "max")


@pytest.mark.parametrize("method", ["calibrate", "lidar_ptq"])
def test_no_frames(trained_demo_model: Any, canvases: list[torch.Tensor], method: str) -> None:
    for batches, count in (([], 3), (canvases, 0)):
        with pytest.raises(DataError, match="Zero calibration frames"):
            quantize_ptq(copy.deepcopy(trained_demo_model), batches, count, method=method)


@pytest.mark.parametrize("method", ["calibrate", "bias_correction", "lidar_ptq"])
def test_nan_activations(trained_demo_model: Any, canvases: list[torch.Tensor], method: str) -> None:
    broken = canvases[0].clone()
    broken[0, 3, 10, 10] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        quantize_ptq(copy.deepcopy(trained_demo_model), [broken], 1, method=method, reconstruction=QUICK, workers=1)


def test_stored_frames_are_the_frames(canvases: list[torch.Tensor], tmp_path: Path) -> None:
    stored = StoredFrames(canvases, 2)
    stored.save(tmp_path / "frames.pt")
    for frames in (stored, StoredFrames.load(tmp_path / "frames.pt")):
        assert len(frames) == 2
        # Evenly spaced: the middles of two halves of three.
        assert torch.equal(frames[0].canvas, canvases[0])
        assert torch.equal(frames[1].canvas, canvases[2])
    with pytest.raises(DataError, match=r"is \(2, 2\); a canvas"):
        StoredFrames([torch.zeros(2, 2)], 1)
