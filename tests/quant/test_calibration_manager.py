"""Calibration of the demo model on small canvases: equal bytes in any number of processes, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from base.errors import ConfigError, DataError
from models.components import BackboneNeckHead
from models.spec import ModelSpec
from quant.calibration.batches import CalibrationFrame
from quant.calibration.calibrator import CalibrationManager
from quant.calibration.weights import weight_amax
from quant.fusion.bn_fusion import fuse_model_bn
from quant.modules.layer import QuantizedLayer
from quant.modules.quant_conv import QuantConv2d
from quant.quantizer import named_quantizers
from quant.quantizer.base import scale_from_amax
from quant.replace import quant_model
from tests.quant.quantized_model import run_network


def canvases(count: int, side: int = 32) -> list[CalibrationFrame]:
    generator = torch.Generator().manual_seed(11)
    frames = []
    for index in range(count):
        features = torch.rand(1, 32, side, side, generator=generator) * (1 + index)
        occupied = torch.rand(1, 1, side, side, generator=generator) < 0.2
        frames.append(CalibrationFrame(f"frame-{index}", features * occupied))
    return frames


@pytest.fixture(scope="module")
def spec(demo_cfg: Any) -> ModelSpec:
    return ModelSpec.from_config(demo_cfg)


@pytest.fixture(scope="module")
def shared_quantized_model(trained_demo_model: nn.Module) -> nn.Module:
    model = copy.deepcopy(trained_demo_model)
    fuse_model_bn(model)
    quant_model(model)
    return model


@pytest.fixture
def quantized_model(shared_quantized_model: nn.Module) -> nn.Module:
    return copy.deepcopy(shared_quantized_model)


def scales(model: nn.Module) -> dict[str, bytes]:
    return {name: q.scale.numpy().tobytes() for name, q in named_quantizers(model).items()}


def test_equal_bytes_with_any_number_of_processes_and_threads(
    shared_quantized_model: nn.Module, spec: ModelSpec, tmp_path: Path
) -> None:
    found = {}
    before = torch.get_num_threads()
    try:
        for workers, threads in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1)):
            torch.set_num_threads(threads)
            model = copy.deepcopy(shared_quantized_model)
            manager = CalibrationManager(model, spec)
            manager.calibrate(
                canvases(5), workers=workers, amax_method="sparse_mse", weight_method="max", progress=False
            )
            assert torch.get_num_threads() == threads
            path = tmp_path / f"{workers}-{threads}.json"
            manager.save_calib_cache(path)
            found[workers, threads] = (scales(model), path.read_bytes())
    finally:
        torch.set_num_threads(before)
    assert all(item == found[1, 1] for item in found.values())


def test_scales_are_those_of_the_float_network(quantized_model: nn.Module, spec: ModelSpec) -> None:
    """max: every scale from the largest magnitude of the float network's own tensors, found with torch's hooks."""
    quantizers = named_quantizers(quantized_model)
    for q in quantizers.values():
        q.enabled = False
    largest: dict[int, float] = {}

    def hook(module: nn.Module, inputs: Any) -> None:
        assert isinstance(module, QuantizedLayer)
        tensors = inputs[0] if isinstance(inputs[0], (list, tuple)) else [inputs[0]]
        for x in tensors:
            key = id(module.input_quantizer)
            largest[key] = max(largest.get(key, 0.0), float(x.abs().max()))

    layers = [module for module in quantized_model.modules() if isinstance(module, QuantizedLayer)]
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    for frame in canvases(3):
        run_network(quantized_model, frame.canvas)
    for handle in handles:
        handle.remove()
    for q in quantizers.values():
        q.enabled = True
    result = CalibrationManager(quantized_model, spec).calibrate(
        canvases(3), method="max", amax_method="entropy", weight_method="max", workers=1, progress=False
    )
    for name, q in quantizers.items():
        entry = result.quantizers[name]
        assert entry.scale == tuple(q.scale.reshape(-1).tolist())
        if entry.kind == "activation":
            assert entry.max_seen == entry.amax[0] == largest[id(q)]
            assert torch.equal(q.scale, scale_from_amax(torch.tensor(largest[id(q)]), up=True))
            assert entry.clipped_share == 0.0
    for layer in layers:
        if isinstance(layer, QuantConv2d):
            expected = scale_from_amax(weight_amax(layer.weight, 0, "max"), up=True)
            assert torch.equal(layer.weight_quantizer.scale, expected)
    assert (result.num_frames, result.amax_method, result.percentile) == (3, "max", None)
    first = result.activations["pts_backbone.blocks.0.0.input_quantizer"]
    zeros = [(frame.canvas == 0).double().mean().item() for frame in canvases(3)]
    assert first.zero_share == pytest.approx(sum(zeros) / 3, abs=1e-12)


def test_state_is_put_back(quantized_model: nn.Module, spec: ModelSpec) -> None:
    quantized_model.train()
    quantized_model.get_submodule("pts_neck").eval()
    quantizers = named_quantizers(quantized_model)
    off = next(iter(quantizers))
    quantizers[off].enabled = False
    training = {name: module.training for name, module in quantized_model.named_modules()}
    weights = {name: value.clone() for name, value in quantized_model.state_dict().items() if "quantizer" not in name}
    result = CalibrationManager(quantized_model, spec).calibrate(canvases(1), weight_method="max", progress=False)
    assert {name: module.training for name, module in quantized_model.named_modules()} == training
    assert [name for name, q in quantizers.items() if not q.enabled] == [off]
    assert all(q.observer is None and q.is_calibrated for q in quantizers.values())
    assert all(torch.equal(value, quantized_model.state_dict()[name]) for name, value in weights.items())
    assert set(result.quantizers) == set(quantizers)


def test_one_pass_serves_every_method(quantized_model: nn.Module, spec: ModelSpec) -> None:
    manager = CalibrationManager(quantized_model, spec)
    statistics = manager.observe(canvases(2), progress=False)
    seen = set()
    for method in ("max", "percentile", "mse", "entropy", "sparse_mse"):
        result = manager.set_scales(statistics, method, "max")
        other = copy.deepcopy(quantized_model)
        again = CalibrationManager(other, spec).calibrate(
            canvases(2), amax_method=method, weight_method="max", workers=1, progress=False
        )
        assert scales(other) == scales(quantized_model)
        assert again.quantizers == result.quantizers
        seen.add(tuple(entry.scale for entry in result.activations.values()))
    assert len(seen) == 5


def test_frames_are_evenly_spaced_or_the_first(quantized_model: nn.Module, spec: ModelSpec) -> None:
    manager = CalibrationManager(quantized_model, spec)
    frames = canvases(9, side=16)
    assert manager.observe(frames, 3, workers=2, progress=False).tokens_sha256 == (
        manager.observe([frames[1], frames[4], frames[7]], workers=1, progress=False).tokens_sha256
    )
    assert manager.observe(iter(frames), 2, progress=False).tokens == ("frame-0", "frame-1")
    assert len(manager.observe([frame.canvas for frame in frames], progress=False).tokens) == 9


def test_layers_in_floating_point_need_no_scale(quantized_model: nn.Module, spec: ModelSpec) -> None:
    layer = quantized_model.get_submodule("pts_backbone.blocks.0.0")
    assert isinstance(layer, QuantizedLayer)
    layer.quantized = False
    result = CalibrationManager(quantized_model, spec).calibrate(
        canvases(1, side=16), weight_method="max", progress=False
    )
    assert "pts_backbone.blocks.0.0.input_quantizer" not in result.quantizers
    assert "pts_backbone.blocks.0.3.input_quantizer" in result.quantizers


class TwoBranches(nn.Module):
    """One branch never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used = QuantConv2d.from_float(nn.Conv2d(2, 2, 1))
        self.unused = QuantConv2d.from_float(nn.Conv2d(2, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, H, W) -> (N, 2, H, W)."""
        result: torch.Tensor = self.used(x)
        return result


@pytest.mark.parametrize("method", ["mse", "percentile", "max"])
def test_a_method_may_name_how_the_histogram_becomes_a_range(
    quantized_model: nn.Module, spec: ModelSpec, method: str
) -> None:
    """As the specification's `calibrate(dataloader, num_batches=100, method='mse')` does."""
    frames = canvases(2, side=16)
    manager = CalibrationManager(quantized_model, spec)
    named = manager.calibrate(frames, method=method, progress=False, workers=1)
    chosen = manager.calibrate(frames, method="histogram", amax_method=method, progress=False, workers=1)
    assert named.amax_method == method
    assert named.quantizers == chosen.quantizers
    with pytest.raises(ConfigError, match="method 'entropy' contradicts amax_method 'mse'; give one of them"):
        manager.calibrate(frames, method="entropy", amax_method="mse")


def test_a_center_point_is_run_without_its_specification(quantized_model: nn.Module, spec: ModelSpec) -> None:
    frames = canvases(2, side=16)
    with_spec = CalibrationManager(quantized_model, spec).calibrate(frames, progress=False, workers=1)
    without = CalibrationManager(quantized_model).calibrate(frames, progress=False, workers=1)
    assert without.quantizers == with_spec.quantizers


def test_what_is_refused(quantized_model: nn.Module, spec: ModelSpec) -> None:
    x = torch.ones(1, 2, 4, 4)
    with pytest.raises(DataError, match=r"1 quantizers never saw .*: unused\.input_quantizer.*skip_layers"):
        CalibrationManager(TwoBranches()).calibrate([x, x], progress=False)
    with pytest.raises(ConfigError, match=r"Conv2d has no quantizer to calibrate; call quant\.quant_model"):
        CalibrationManager(nn.Conv2d(1, 1, 1))
    manager = CalibrationManager(quantized_model, spec)
    nothing: list[Any] = [[], iter(())]
    for empty in nothing:
        with pytest.raises(DataError, match="Zero calibration frames: the batches are empty"):
            manager.calibrate(empty, progress=False)
    with pytest.raises(DataError, match="Zero calibration frames: num_batches is 0"):
        manager.calibrate(canvases(1), 0)
    with pytest.raises(ConfigError, match="method is 'minmax'; it must be one of histogram, max"):
        manager.calibrate(canvases(1), method="minmax")
    with pytest.raises(ConfigError, match="amax_method is 'mes'; it must be one of"):
        manager.calibrate(canvases(1), amax_method="mes")
    with pytest.raises(ConfigError, match="weight_method is 'kl'; it must be one of max, mse"):
        manager.calibrate(canvases(1), weight_method="kl")
    with pytest.raises(ConfigError, match="workers is 0; give 1 or more"):
        manager.calibrate(canvases(1), workers=0)
    with pytest.raises(ConfigError, match="workers is 2, but these batches can only be read one after the other"):
        manager.calibrate(iter(canvases(1)), workers=2)
    with pytest.raises(DataError, match=r"batch 0 is a dict; a canvas .*dataloader_batches"):
        manager.calibrate([{"inputs": 1}], workers=1, progress=False)
    with pytest.raises(ConfigError, match="no calibration to save"):
        manager.save_calib_cache("unused.json")
    assert not any(q.is_calibrated for q in named_quantizers(quantized_model).values())
    assert all(q.enabled and q.observer is None for q in named_quantizers(quantized_model).values())


@pytest.mark.parametrize("workers", [1, 2])
def test_nan_names_the_tensor_and_the_frame(quantized_model: nn.Module, spec: ModelSpec, workers: int) -> None:
    frames = canvases(4, side=16)
    frames[2].canvas[0, 5, 3, 3] = torch.nan
    with pytest.raises(DataError, match=r"'pts_backbone\.blocks\.0\.0\.input_quantizer' holds 1 NaN .*frame 'frame-2'"):
        CalibrationManager(quantized_model, spec).calibrate(frames, workers=workers, progress=False)


def test_a_killed_process_is_reported() -> None:
    import os

    from quant.calibration.processes import in_processes

    def work(share: int) -> Iterator[int]:
        yield share
        if share:
            os._exit(9)
        yield share

    with pytest.raises(RuntimeError, match="ended with exit code 9 before its frames were done"):
        list(in_processes(work, [0, 1]))
    assert sorted(in_processes(work, [0, 0])) == [0, 0, 0, 0]


def test_a_module_without_specification_runs_by_itself() -> None:
    torch.manual_seed(0)
    model = TwoBranches()
    model.unused.quantized = False
    x = torch.randn(1, 2, 8, 8)
    result = CalibrationManager(model).calibrate([x], amax_method="max", progress=False)
    assert result.quantizers["used.input_quantizer"].max_seen == float(x.abs().max())
    assert isinstance(BackboneNeckHead, type)
