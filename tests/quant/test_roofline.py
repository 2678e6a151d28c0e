"""The roofline against published totals of these networks, and against the network that mmdet3d builds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from base.errors import ConfigError, DataError
from models.build import build_model
from models.components import BackboneNeckHead
from models.config import load_model_config
from models.spec import ModelSpec
from quant.roofline import (
    DEVICES,
    ConvLayer,
    Device,
    conv_layers,
    layer_time_s,
    network_time_s,
    plan_time_s,
    read_layer_times,
    roofline_times,
)

CONFIGS = Path(__file__).parents[2] / "configs/model"
BASE, GEN2, DEMO = (
    CONFIGS / f"{name}.py"
    for name in ("second_secfpn_4xb16_121m_base_amp", "second_secfpn_8xb16_121m_j6gen2_base_amp", "centerpoint_t4_demo")
)
# Worked out by hand for these networks: GFLOP, millions of weights, and milliseconds of the layers' rooflines.
KNOWN: dict[Path, tuple[float, float, dict[str, tuple[float | None, float]]]] = {
    BASE: (968.7, 5.029, {"h100": (1.483, 0.741), "h200": (1.289, 0.645), "orin-agx-64": (30.083, 15.041)}),
    GEN2: (1283.2, 4.61, {"h100": (1.599, 0.799), "h200": (None, 0.731), "orin-agx-64": (34.1, 17.052)}),
}


@pytest.mark.parametrize("path", [BASE, GEN2], ids=["760", "1020"])
def test_totals(path: Path) -> None:
    layers = conv_layers(load_model_config(path))
    gflop, weights, times = KNOWN[path]
    assert sum(layer.flop for layer in layers) / 1e9 == pytest.approx(gflop, abs=0.05)
    assert sum(layer.weights for layer in layers) / 1e6 == pytest.approx(weights, abs=0.005)
    for device, known in times.items():
        for precision, expected in zip(("fp16", "int8"), known, strict=True):
            if expected is not None:
                milliseconds = 1e3 * network_time_s(layers, DEVICES[device], precision)  # type: ignore[arg-type]
                assert milliseconds == pytest.approx(expected, rel=2e-3), (device, precision)


def test_single_layers_of_the_base_model() -> None:
    """Microseconds of computing and of memory on an H100, INT8."""
    layers = {layer.path: layer for layer in conv_layers(load_model_config(BASE))}
    for path, compute_us, memory_us in (
        ("pts_backbone.blocks.0.0", 10.8, 16.6),
        ("pts_backbone.blocks.2.9", 21.5, 5.7),
        ("pts_neck.deblocks.2.0", 19.1, 25.0),
        ("pts_bbox_head.shared_conv.conv", 129.1, 77.3),
        ("pts_bbox_head.task_heads.0.heatmap.1", 0.2, 11.9),
    ):
        time_us = 1e6 * layer_time_s(layers[path], DEVICES["h100"], "int8")
        assert time_us == pytest.approx(max(compute_us, memory_us), abs=0.06), path


@pytest.mark.parametrize("path", [DEMO, GEN2], ids=["demo", "1020"])
def test_layers_are_those_of_the_built_network(path: Path) -> None:
    """Paths, shapes and order, from a run of the stock network on the meta device."""
    cfg = load_model_config(path)
    spec = ModelSpec.from_config(cfg)
    network = BackboneNeckHead(build_model(cfg), spec).eval().to("meta")
    assert _run(network, spec) == [_key(layer) for layer in conv_layers(cfg)]


def test_deconvolution_without_stride() -> None:
    """The neck's default: a stride of 1 is a transposed convolution too."""
    cfg = load_model_config(DEMO)
    cfg.model.pts_neck.use_conv_for_no_stride = False
    spec = ModelSpec.from_config(cfg)
    network = BackboneNeckHead(build_model(cfg), spec).eval().to("meta")
    assert _run(network, spec) == [_key(layer) for layer in conv_layers(cfg)]


def _run(network: nn.Module, spec: ModelSpec) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []

    def record(path: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            transposed = isinstance(module, nn.ConvTranspose2d)
            kernel = module.kernel_size[0]
            rows.append(
                (
                    path,
                    inputs[0].shape[1],
                    output.shape[1],
                    kernel,
                    tuple(inputs[0].shape[2:]),
                    tuple(output.shape[2:]),
                    transposed,
                    module.weight.numel(),
                )
            )

        return hook

    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(record(path))
    network(torch.empty(spec.canvas_shape, device="meta"))
    return rows


def _key(layer: ConvLayer) -> tuple[Any, ...]:
    shape = layer.path, layer.in_channels, layer.out_channels, layer.kernel, layer.in_size, layer.out_size
    return *shape, layer.transposed, layer.weights


SLOW_MEMORY = Device("toy", 1e30, 1e30, 1.0)  # One byte a second: a time is a number of bytes.


def _chain() -> tuple[ConvLayer, ...]:
    """a feeds b and c, which are concatenated into d; 2 x 2 maps, 1 x 1 kernels of one channel each."""

    def layer(path: str, inputs: tuple[str, ...]) -> ConvLayer:
        return ConvLayer(path, inputs, max(len(inputs), 1), 1, 1, (2, 2), (2, 2))

    return layer("a", ()), layer("b", ("a",)), layer("c", ("a",)), layer("d", ("b", "c"))


def test_plan_in_one_precision_is_the_sum_of_the_layers() -> None:
    layers = _chain()
    for device in (*DEVICES.values(), SLOW_MEMORY):
        assert plan_time_s(layers, device, {"a", "b", "c", "d"}) == network_time_s(layers, device, "int8")
        assert plan_time_s(layers, device, ()) == network_time_s(layers, device, "fp16")


@pytest.mark.parametrize(
    ("quantized", "expected"),
    [
        # Bytes of (input + weights) · own size + output · what its consumers read.
        # b in FP16: a writes 1 + 2 bytes, b reads and weighs in 2, but d still reads INT8.
        ("acd", (4 + 1 + 4 * 3) + (2 * 5 + 4) + (5 + 4) + (8 + 2 + 4)),
        # d in FP16: both inputs of its concat are written in FP16, whatever made them.
        ("abc", (4 + 1 + 4) + (5 + 8) + (5 + 8) + 2 * (8 + 2 + 4)),
        # a in FP16, its consumers in INT8: it writes what they read.
        ("bcd", (2 * 5 + 4) + (5 + 4) + (5 + 4) + (8 + 2 + 4)),
    ],
)
def test_mixed_plan_counts_the_bytes_that_consumers_read(quantized: str, expected: int) -> None:
    assert plan_time_s(_chain(), SLOW_MEMORY, set(quantized)) == expected


def test_other_networks_are_refused() -> None:
    cfg = copy.deepcopy(load_model_config(DEMO))
    cfg.model.pts_neck.type = "FPN"
    with pytest.raises(ConfigError, match=r"pts_neck\.type is 'FPN'; the roofline knows 'SECONDFPN'"):
        conv_layers(cfg)


def test_measured_times(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"a": {"int8": 0.5, "fp16": 1}}))
    assert read_layer_times(path).seconds == {"a": {"int8": 0.0005, "fp16": 0.001}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no layer times"),
        ({}, "holds no layer times"),
        ({"a": {"int8": 1}}, "layer 'a' has {'int8': 1}; it needs 'int8' and 'fp16'"),
        ({"a": {"int8": 1, "fp16": -2}}, "layer 'a', fp16: -2 is no time"),
        ({"a": {"int8": "1", "fp16": 2}}, "layer 'a', int8: '1' is no time"),
        ({"a": {"int8": True, "fp16": 2}}, "layer 'a', int8: True is no time"),
        ({"a": {"int8": 10**4000, "fp16": 2}}, "layer 'a', int8: an integer of 13288 bits is no time"),
        ({"a": {"int8": 1, "fp16": 1e300}}, "layer 'a', fp16: 1e.300 is no time"),
        ({"a": 5}, "layer 'a' has 5; it needs 'int8' and 'fp16'"),
    ],
)
def test_bad_times_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message.replace("{", r"\{")):
        read_layer_times(path)


def test_roofline_times_hold_both_precisions() -> None:
    layers = _chain()
    times = roofline_times(layers, DEVICES["h100"])
    assert times.source == "the roofline of H100 SXM"
    assert list(times.seconds) == ["a", "b", "c", "d"]
    # The same bytes at twice the size take twice as long; both are bound by memory here.
    assert times.seconds["d"]["fp16"] == pytest.approx(2 * times.seconds["d"]["int8"])
