"""Which layers are replaced, which share a quantizer, and the way back."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import quant.modules.quant_concat
from base.errors import CheckpointError, ConfigError
from models.build import build_model
from models.components import VoxelEncoder
from models.spec import ModelSpec
from quant.fusion import fuse_model_bn
from quant.modules import QuantConv2d, QuantConvTranspose2d, QuantLinear
from quant.modules.layer import QuantizedLayer
from quant.modules.quant_add import Add
from quant.modules.quant_concat import Concat
from quant.quantizer import ENGINES, named_quantizers
from quant.replace import DEFAULT_SCOPE, apply_structure, quant_model, quantizable_layers, unquant_model
from quant.structure import quantization_structure
from tests.quant.quantized_model import calibrate_by_max, relative_difference, run_network


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    return {path: module for path, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def conv_paths(model: nn.Module) -> set[str]:
    return {p for p, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))}


def test_default_scope(demo_model: Any) -> None:
    convolutions = conv_paths(demo_model)
    last = {f"pts_bbox_head.task_heads.0.{head}.1" for head in ("reg", "height", "dim", "rot", "vel", "heatmap")}
    structure = quant_model(fuse_model_bn(demo_model))
    expected = convolutions - last | {"pts_neck.concat"}
    assert set(structure.quantized_paths()) == set(quantized_layers(demo_model)) == expected
    assert last < convolutions
    kinds = {layer.path: layer.kind for layer in structure.layers}
    assert kinds["pts_backbone.blocks.0.0"] == "conv2d"
    assert kinds["pts_neck.deblocks.1.0"] == "conv_transpose2d"
    assert kinds["pts_neck.concat"] == "concat"
    assert kinds["pts_voxel_encoder.pfn_layers.0.linear"] == "linear"
    assert structure.fuse_bn
    assert quantization_structure(demo_model) == structure


def test_one_quantizer_for_one_tensor(demo_model: Any) -> None:
    structure = quant_model(fuse_model_bn(demo_model))
    heads = ("reg", "height", "dim", "rot", "vel", "heatmap")
    assert structure.shared == (
        ("pts_backbone.blocks.1.0", "pts_neck.deblocks.0.0"),
        ("pts_backbone.blocks.2.0", "pts_neck.deblocks.1.0"),
        ("pts_neck.concat", "pts_bbox_head.shared_conv.conv"),
        tuple(f"pts_bbox_head.task_heads.0.{head}.0.conv" for head in heads),
    )
    layers = quantized_layers(demo_model)
    for first, *others in structure.shared:
        assert all(layers[path].input_quantizer is layers[first].input_quantizer for path in others)
    # Independently of the groups: as many input quantizers as there are different tensors that quantized layers read.
    tensors: dict[int, torch.Tensor] = {}

    def keep(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        tensors[args[0].data_ptr()] = args[0]

    for layer in layers.values():
        layer.quantized = False
        if isinstance(layer, (QuantConv2d, QuantConvTranspose2d)):
            layer.register_forward_pre_hook(keep)
    run_network(demo_model, torch.rand(1, 32, 64, 64))
    per_tensor = [q for q in named_quantizers(demo_model).values() if q.spec.axis is None]
    assert len(per_tensor) == len(tensors)


@pytest.mark.parametrize("engine", ENGINES)
def test_quantized_network_is_near_the_float_one_and_the_way_back(
    demo_model: Any, canvas: torch.Tensor, engine: str
) -> None:
    expected = run_network(fuse_model_bn(demo_model), canvas)
    weights = dict(demo_model.named_parameters())
    types = {path: type(module) for path, module in demo_model.named_modules()}
    quant_model(demo_model, engine=engine)
    assert {k for k in demo_model.state_dict() if "quantizer" not in k} == set(weights) | {
        k for k, _ in demo_model.named_buffers() if "quantizer" not in k
    }
    calibrate_by_max(demo_model, canvas)
    difference = relative_difference(run_network(demo_model, canvas), expected)
    assert 1e-4 < difference < 0.25
    unquant_model(demo_model)
    assert {path: type(module) for path, module in demo_model.named_modules()} == types
    assert all(parameter is weights[name] for name, parameter in demo_model.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in run_network(demo_model, canvas).items())
    with pytest.raises(ConfigError, match="is not quantized; call quant_model"):
        quantization_structure(demo_model)


def test_engines_give_the_same_network(demo_model: Any, canvas: torch.Tensor) -> None:
    fuse_model_bn(demo_model)
    found = []
    for engine in ENGINES:
        quant_model(demo_model, engine=engine)
        calibrate_by_max(demo_model, canvas)
        scales = {name: q.scale.clone() for name, q in named_quantizers(demo_model).items()}
        found.append((scales, run_network(demo_model, canvas)))
        unquant_model(demo_model)
    for first, second in zip(found[0], found[1], strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_and_pickles_stand_alone(demo_model: Any, canvas: torch.Tensor, engine: str) -> None:
    """Moving averages of weights copy the model; worker processes get it by pickle."""
    quant_model(fuse_model_bn(demo_model), engine=engine)
    calibrate_by_max(demo_model, canvas)
    expected = run_network(demo_model, canvas)
    for twin in (copy.deepcopy(demo_model), pickle.loads(pickle.dumps(demo_model))):
        assert list(named_quantizers(twin)) == list(named_quantizers(demo_model)), "still shared"
        assert quantization_structure(twin) == quantization_structure(demo_model)
        assert all(torch.equal(value, expected[name]) for name, value in run_network(twin, canvas).items())
        for quantizer in named_quantizers(twin).values():
            quantizer.set_scale(torch.full_like(quantizer.scale, 0.5))
        assert not torch.equal(run_network(twin, canvas)["reg"], expected["reg"])
        unquant_model(twin)
    assert torch.equal(run_network(demo_model, canvas)["reg"], expected["reg"])


def test_skipping(demo_model: Any) -> None:
    fuse_model_bn(demo_model)
    everything = set(quant_model(demo_model).quantized_paths())
    unquant_model(demo_model)
    skipped = quant_model(demo_model, {"pts_backbone.blocks.0.0", "pts_bbox_head.task_heads.*.heatmap"})
    assert everything - set(skipped.quantized_paths()) == {
        "pts_backbone.blocks.0.0",
        "pts_bbox_head.task_heads.0.heatmap.0.conv",
    }
    assert not isinstance(demo_model.pts_backbone.blocks[0][0], QuantizedLayer)
    unquant_model(demo_model)
    # Without a quantized consumer the concat would be turned back at once.
    structure = quant_model(demo_model, ["pts_bbox_head.shared_conv"])
    assert "pts_neck.concat" not in structure.quantized_paths()
    assert isinstance(demo_model.pts_neck.concat, Concat)
    unquant_model(demo_model)
    structure = quant_model(demo_model, ["pts_neck.concat"])
    assert "pts_bbox_head.shared_conv.conv" in structure.quantized_paths()
    assert "pts_neck.concat" not in structure.quantized_paths()
    assert not any("pts_bbox_head.shared_conv.conv" in group for group in structure.shared)


def test_unknown_names_leave_the_model_alone(demo_model: Any) -> None:
    types = {path: type(module) for path, module in demo_model.named_modules()}
    with pytest.raises(
        ConfigError, match=r"skip_names: 'pts_backbon.blocks.0.0' names no .*Nearest: pts_backbone.blocks"
    ):
        quant_model(demo_model, ["pts_backbon.blocks.0.0"])
    with pytest.raises(ConfigError, match=r"include: 'pts_neck.deblock' names no layer.*Nearest: pts_neck.deblocks"):
        quant_model(demo_model, include=["pts_neck.deblock"])
    with pytest.raises(ConfigError, match="must be a list, got the string 'pts_neck'"):
        quant_model(demo_model, "pts_neck")
    with pytest.raises(ConfigError, match="Nothing of CenterPoint is left to quantize"):
        quant_model(demo_model, ["pts_*"])
    assert {path: type(module) for path, module in demo_model.named_modules()} == types
    quant_model(demo_model)
    with pytest.raises(ConfigError, match="quantized already; call unquant_model first"):
        quant_model(demo_model)


def test_voxel_encoder_and_last_layers_on_request(demo_model: Any, canvas: torch.Tensor) -> None:
    fuse_model_bn(demo_model)
    include = (*DEFAULT_SCOPE, "pts_voxel_encoder.pfn_layers.0.linear", "pts_bbox_head.task_heads.*.heatmap")
    structure = quant_model(demo_model, include=include)
    linear = demo_model.pts_voxel_encoder.pfn_layers[0].linear
    assert isinstance(linear, QuantLinear)
    assert "pts_voxel_encoder.pfn_layers.1.linear" not in structure.quantized_paths()
    assert "pts_bbox_head.task_heads.0.heatmap.1" in structure.quantized_paths()
    points = torch.rand(20, 32, linear.in_features)
    encoder = VoxelEncoder(demo_model)
    linear.quantized = False
    with torch.no_grad():
        expected = encoder(points)
        linear.quantized = True
        calibrate_by_max(linear, points, run=lambda module, x: module(x))
        found = encoder(points)
    assert 0 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["second_secfpn_4xb16_121m_base_amp", "second_secfpn_8xb16_121m_j6gen2_base_amp"])
def test_larger_configs(name: str, demo_cfg: Any) -> None:
    from pathlib import Path

    from models.config import load_model_config

    cfg = load_model_config(Path(demo_cfg.filename).with_name(f"{name}.py"))
    model: Any = fuse_model_bn(build_model(cfg))
    structure = quant_model(model)
    assert len(structure.quantized_paths()) > 20
    assert ("pts_neck.concat", "pts_bbox_head.shared_conv.conv") in structure.shared
    assert ("pts_backbone.blocks.1.0", "pts_neck.deblocks.0.0") in structure.shared
    assert ModelSpec.from_config(cfg).encoder_channels == model.pts_backbone.blocks[0][0].in_channels


def test_training_mode_and_statistics_survive(demo_model: Any) -> None:
    """Training quantizes before BatchNorm is folded; looking for shared tensors must not touch its statistics."""
    demo_model.train()
    demo_model.pts_bbox_head.eval()
    modes = {path: module.training for path, module in demo_model.named_modules()}
    before = {key: value.clone() for key, value in demo_model.state_dict().items()}
    structure = quant_model(demo_model)
    assert not structure.fuse_bn
    assert all(torch.equal(demo_model.state_dict()[key], value) for key, value in before.items())
    assert all(demo_model.get_submodule(path).training == mode for path, mode in modes.items())


def test_apply_structure_rebuilds(demo_model: Any, canvas: torch.Tensor, demo_cfg: Any) -> None:
    structure = quant_model(fuse_model_bn(demo_model), ["pts_backbone.blocks.1"])
    calibrate_by_max(demo_model, canvas)
    other = fuse_model_bn(build_model(demo_cfg, seed=9))
    apply_structure(other, structure)
    assert quantized_layers(other).keys() == quantized_layers(demo_model).keys()
    assert list(named_quantizers(other)) == list(named_quantizers(demo_model))
    other.load_state_dict(demo_model.state_dict())
    expected = run_network(demo_model, canvas)
    assert all(torch.equal(value, expected[name]) for name, value in run_network(other, canvas).items())
    with pytest.raises(ConfigError, match="quantized already"):
        apply_structure(other, structure)


def test_structure_of_another_model_is_refused(demo_model: Any) -> None:
    structure = quant_model(fuse_model_bn(demo_model))
    toy = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(
        CheckpointError, match=r"belongs to another model than this Sequential: .*it lacks pts_voxel_enc"
    ):
        apply_structure(toy, structure)
    assert type(toy[0]) is nn.Conv2d


class Residual(nn.Module):
    """Two convolutions read x; its ReLU works in place; the sum adds the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.side = nn.Conv2d(4, 4, 1)
        self.activation = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 1)
        self.third = nn.Conv2d(4, 4, 1)
        self.add = Add()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = self.side(x)
        y = self.first(x)
        z = self.second(y)
        # The same tensor object as y, with other values.
        z = z + self.third(self.activation(y))
        out: torch.Tensor = self.add(z, x) + side
        return out


def test_any_model_with_example_inputs() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    x = torch.randn(1, 4, 6, 6)
    expected = model(x).detach()
    structure = quant_model(model, include=["*"], example_inputs=(x,))
    assert structure.shared == (("side", "first", "add.second_quantizer"),)
    assert model.add.second_quantizer is model.first.input_quantizer
    assert model.second.input_quantizer is not model.third.input_quantizer
    calibrate_by_max(model, x, run=lambda module, x: module(x))
    assert 0 < float((model(x).detach() - expected).abs().max()) < 0.1 * float(expected.abs().max())
    unquant_model(model)
    assert torch.equal(model(x), expected)


def test_models_that_cannot_be_quantized() -> None:
    with pytest.raises(ConfigError, match=r"Sequential has no pts_backbone, pts_neck, pts_bbox_head.*example_inputs"):
        quant_model(nn.Sequential(nn.Conv2d(3, 4, 1)), include=["0"])
    conv = nn.Conv2d(3, 3, 1)
    with pytest.raises(ConfigError, match="'1' is also at another path of the model"):
        quantizable_layers(nn.Sequential(conv, conv))

    class Standardized(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(input, self.weight - self.weight.mean())

    assert quantizable_layers(nn.Sequential(Standardized(3, 3, 1))) == {}, "replacement would lose what it computes"


def test_a_failing_run_leaves_the_model_alone(demo_model: Any) -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        quant_model(demo_model.pts_backbone, include=["blocks"], example_inputs=(torch.zeros(1, 3, 64, 64),))
    stock = type(demo_model.pts_neck)
    wrong: Any = (1, 2, 3, 4, 5, 6)
    with pytest.raises(TypeError):
        quant_model(demo_model, example_inputs=wrong)
    assert type(demo_model.pts_neck) is stock
    assert quant.modules.quant_concat._SUBCLASSES.keys() <= {stock}
