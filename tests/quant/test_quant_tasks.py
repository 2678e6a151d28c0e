"""What INT8 does to a network, on heads with several tasks; runs of the whole network say what is right."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch

from models.components import BackboneNeckHead
from models.spec import ModelSpec
from quant.bias_correction import correct_biases
from quant.equalization import ChannelRanges, equalization_sites
from quant.fusion import fuse_model_bn
from quant.reconstruction.blocks import CANVAS, partition, run_blocks
from quant.reconstruction.losses import joined_heatmaps, task_loss
from quant.replace import quant_model
from quant.roofline import conv_layers
from tests.quant.quantized_model import calibrate_by_max
from tests.runtime.small_model import small_config, small_network, small_spec, tasks_of

HEAD = {"final_kernel": 3, "num_convs": 3}
SPEC = small_spec(
    tasks=tasks_of((("car",), 4.0), (("truck", "bus"), 1.0), branches=("heatmap", "height", "dim", "rot", "iou")),
    point_cloud_range=(-5.12, -5.12, -3.0, 5.12, 5.12, 5.0),
)


@pytest.fixture(scope="module")
def network() -> Any:
    config = small_config(SPEC, **HEAD)
    assert ModelSpec.from_config(config) == SPEC
    model = small_network(SPEC, seed=2, **HEAD)
    fuse_model_bn(model)
    return model


@pytest.fixture(scope="module")
def canvas() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    filled = torch.rand(2, 1, *SPEC.canvas_shape[2:], generator=generator) < 0.3
    return torch.rand(2, *SPEC.canvas_shape[1:], generator=generator) * filled


def outputs_of(model: Any, canvas: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = BackboneNeckHead(model, SPEC).eval()(canvas)
    return dict(zip([head.name for head in SPEC.heads], found, strict=True))


@pytest.mark.parametrize("layers", [None, 1])
def test_blocks_compute_what_the_network_does(network: Any, canvas: torch.Tensor, layers: int | None) -> None:
    expected = outputs_of(network, canvas)
    with torch.no_grad():
        blocks = partition(network, layers_per_block=layers)
        found = run_blocks(blocks, {CANVAS: canvas})
    assert set(blocks[-1].outputs) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value)


def test_the_layers_of_the_roofline_are_the_networks() -> None:
    """Each convolution of the built network, and the channels, kernel and size that it runs with."""
    model = small_network(SPEC, **HEAD)
    seen = {}
    for path, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and not path.startswith("pts_voxel"):
            layer.register_forward_hook(
                lambda layer, _args, out, path=path: seen.update(
                    {path: (layer.in_channels, layer.out_channels, layer.kernel_size[0], tuple(out.shape[2:]))}
                )
            )
    outputs_of(model, torch.zeros(SPEC.canvas_shape))
    layers = {
        layer.path: (layer.in_channels, layer.out_channels, layer.kernel, layer.out_size)
        for layer in conv_layers(small_config(SPEC, **HEAD))
    }
    heads = [path for path in layers if path.startswith("pts_bbox_head.task_heads.")]
    assert len(heads) == 2 * 5 * 3
    assert layers == seen


def test_equalized_channels_leave_every_output_what_it_was(network: Any, canvas: torch.Tensor) -> None:
    model = copy.deepcopy(network)
    site = next(site for site in equalization_sites(model) if site.path.startswith("pts_bbox_head.shared_conv"))
    assert len(site.consumers) == 2 * 5
    before = outputs_of(model, canvas)
    weights = [cast(Any, layer).weight.clone() for layer, _ in site.consumers]
    with ChannelRanges(model) as ranges:
        outputs_of(model, canvas)
    ranges.equalize()
    after = outputs_of(model, canvas)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    for old, (layer, _) in zip(weights, site.consumers, strict=True):
        assert not torch.equal(old, cast(Any, layer).weight)


def test_biases_of_all_tasks_are_corrected(network: Any, canvas: torch.Tensor) -> None:
    model = copy.deepcopy(network)
    structure = quant_model(model)
    quantized = {layer.path for layer in structure.layers if layer.quantized}
    for task in range(2):
        for name in ("heatmap", "height", "dim", "rot", "iou"):
            paths = {path for path in quantized if path.startswith(f"pts_bbox_head.task_heads.{task}.{name}.")}
            assert len(paths) == 2, "all but the last"
    calibrate_by_max(model, canvas[:1], run=outputs_of)
    corrections = correct_biases(model, network, canvas)
    assert {path for path in corrections if "task_heads" in path} == {p for p in quantized if "task_heads" in p}
    assert all(np.isfinite(value) for value in corrections.values())


def test_the_loss_of_several_tasks_is_the_sum_of_theirs(network: Any, canvas: torch.Tensor) -> None:
    target = outputs_of(network, canvas)
    generator = torch.Generator().manual_seed(1)
    noisy = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in target.items()}
    both = task_loss(noisy, target, 0.2)
    parts = []
    for task in range(2):
        own, truth = (
            {name.removesuffix(f"_{task}"): value for name, value in of.items() if name.endswith(f"_{task}")}
            for of in (noisy, target)
        )
        parts.append(task_loss(own, truth, 0.2))
    assert float(both.heatmap) == pytest.approx(sum(float(part.heatmap) for part in parts), rel=1e-6)
    assert float(both.regression) == pytest.approx(sum(float(part.regression) for part in parts), rel=1e-6)
    assert all(float(part.regression) > 0 for part in parts)
    assert joined_heatmaps(target).shape[1] == 3
