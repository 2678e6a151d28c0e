"""The plan's arithmetic on the CPU: against torch, and against ONNX Runtime on the same Q/DQ graph."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from base.errors import DataError
from models.spec import ModelSpec
from runtime.cuda_engine.checks import reference
from runtime.cuda_engine.checks.reference import run_heads, run_layer, run_plan, store
from runtime.cuda_engine.from_onnx import plan_from_onnx
from runtime.cuda_engine.plan import FusedConv, NetworkPlan, PlanMap
from tests.runtime.qdq_graphs import canvas, graph_spec, run_with_codes, small_graph

# Of `compare`: (node, share of equal codes, largest difference in steps), and ours and theirs of each output.
Table = list[tuple[str, float, int]]
Outputs = dict[str, tuple[NDArray[Any], NDArray[Any]]]

HEAD = "pts_backbone_neck_head"
TINY_CONFIG = Path(__file__).parents[1] / "data" / "deploy" / "tiny_centerpoint.py"
# Of a layer's codes, from equal codes in front of it.
MIN_EQUAL_SHARE, MAX_STEPS = 0.999, 1
# Where the ONNX graph rounds to float16 in front of a quantizer, and the plan does not: 127 steps are held to 0.03.
MIN_EQUAL_SHARE_FP16 = 0.98


def plan_of_one(conv: FusedConv, source: PlanMap, target: PlanMap) -> NetworkPlan:
    return NetworkPlan(source, {source.name: source, target.name: target}, (conv,), (), {})


def layer(weight: NDArray[Any], **changes: Any) -> FusedConv:
    channels = len(weight)
    values = {
        "node": "/x/Conv",
        "source": "in",
        "target": "out",
        "target_channel": 0,
        "weight": weight,
        "weight_scale": np.linspace(0.5, 2, channels, dtype=np.float32) * 2**-10 if weight.dtype == np.int8 else None,
        "bias": np.linspace(-1, 1, channels, dtype=np.float32),
        "stride": 1,
        "padding": 0,
        "upsample": 1,
        "relu": False,
    }
    return FusedConv(**{**values, **changes})


def test_codes_are_rounded_half_to_even_and_saturated() -> None:
    values = np.array([[[0.25, 0.75, -0.25, -0.75, 1.25, 63.5, 64, 1e9, -64, -64.25, -1e9, 0.3]]], np.float32)
    codes = store(values, PlanMap("x", 1, 1, 12, 0.5))
    assert codes.dtype == np.int8
    assert codes.ravel().tolist() == [0, 2, 0, -2, 2, 127, 127, 127, -128, -128, -128, 1]
    halves = store(values, PlanMap("x", 1, 1, 12, None))
    assert halves.dtype == np.float16
    assert halves.ravel()[7] == np.inf


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 1), (2, 2, 0), (1, 2, 0), (3, 1, 0)]
)
@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_convolutions_against_torch(
    kernel: int, stride: int, padding: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    rng = np.random.default_rng(0)
    source: NDArray[Any]
    weight: NDArray[Any]
    if kind == "int8":
        source = rng.integers(-128, 128, (32, 9, 11), dtype=np.int8)
        weight = rng.integers(-128, 128, (16, 32, kernel, kernel), dtype=np.int8)
    else:
        source, weight = (
            rng.normal(0, 1, shape).astype(np.float16) for shape in ((32, 9, 11), (16, 32, kernel, kernel))
        )
    conv = layer(weight, stride=stride, padding=padding)
    scale = 0.0625 if kind == "int8" else None
    total = torch.nn.functional.conv2d(
        torch.from_numpy(source.astype(np.float64))[None],
        torch.from_numpy(weight.astype(np.float64)),
        stride=stride,
        padding=padding,
    )[0].numpy()
    factors: NDArray[Any] = np.ones(16, np.float32)
    if scale is not None:
        assert conv.weight_scale is not None
        factors = scale * conv.weight_scale
    y = total.astype(np.float32) * factors[:, None, None] + conv.bias[:, None, None]
    for target_scale in (0.125, None):
        maps = (
            PlanMap("in", 32, 9, 11, scale),
            PlanMap("out", total.shape[0], total.shape[1], total.shape[2], target_scale),
        )
        expected = y.astype(np.float16) if target_scale is None else np.clip(np.rint(y / 0.125), -128, 127)
        found = run_layer(plan_of_one(conv, *maps), conv, source)
        if kind == "int8":
            np.testing.assert_array_equal(found, expected)
        else:
            # The order of float64 sums may move a float32 sum by one rounding.
            np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=1e-3, atol=1e-5)
        monkeypatch.setattr(reference, "_BAND_ELEMENTS", 1)
        np.testing.assert_array_equal(run_layer(plan_of_one(conv, *maps), conv, source), found)
        monkeypatch.undo()


@pytest.mark.parametrize("factor", [2, 4])
def test_transposed_convolutions_against_torch(factor: int) -> None:
    import torch

    rng = np.random.default_rng(0)
    source = rng.integers(-128, 128, (32, 3, 5), dtype=np.int8)
    weight = rng.integers(-128, 128, (16, 32, factor, factor), dtype=np.int8)
    conv = layer(weight, upsample=factor, relu=True)
    # torch's layout has input channels first.
    total = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(source.astype(np.float64))[None],
        torch.from_numpy(weight.astype(np.float64).transpose(1, 0, 2, 3)),
        stride=factor,
    )[0].numpy()
    maps = PlanMap("in", 32, 3, 5, 0.0625), PlanMap("out", total.shape[0], total.shape[1], total.shape[2], None)
    assert conv.weight_scale is not None
    y = total.astype(np.float32) * (0.0625 * conv.weight_scale)[:, None, None] + conv.bias[:, None, None]
    np.testing.assert_array_equal(
        run_layer(plan_of_one(conv, *maps), conv, source), np.maximum(y, 0).astype(np.float16)
    )


def test_a_canvas_of_another_size_is_refused(tmp_path: Path) -> None:
    spec = graph_spec()
    onnx.save(small_graph(spec), tmp_path / "x.onnx")
    plan = plan_from_onnx(tmp_path / "x.onnx", spec)
    with pytest.raises(DataError, match=r"shape \(1, 32, 16, 20\); the plan's is \(32, 16, 20\)"):
        run_plan(plan, canvas(spec))


def compare(path: Path, spec: ModelSpec, image: NDArray[np.float32], *, end_to_end: bool) -> tuple[Table, Outputs]:
    """(node, share of equal codes, largest difference in steps) of each layer that writes codes, and the outputs."""
    plan = plan_from_onnx(path, spec)
    found = run_with_codes(onnx.load(path), image)
    theirs = {name: array[0] for name, array in found.items() if array.dtype == np.int8}
    ours = run_plan(plan, image[0], keep_maps=True)
    table = [("canvas", *_agreement(ours[plan.canvas.name], theirs.get(plan.canvas.name)))]
    outputs: dict[str, NDArray[Any]] = {}
    for conv in plan.convs:
        if conv.target in plan.outputs and not end_to_end:
            outputs[conv.target] = run_layer(plan, conv, theirs.get(conv.source, ours[conv.source]))[None]
        # What several layers became has no counterpart in the graph.
        if plan.target(conv).scale is None or "(+" in conv.node:
            continue
        channels = slice(conv.target_channel, conv.target_channel + conv.out_channels)
        codes = ours[conv.target][channels]
        if not end_to_end:
            codes = run_layer(plan, conv, theirs.get(conv.source, ours[conv.source]))
        table.append((conv.node, *_agreement(codes, theirs[conv.target][channels])))
    for layer in plan.heads:
        outputs |= run_heads(plan, layer, theirs.get(layer.source, ours[layer.source]))
    outputs = ours if end_to_end else outputs
    return table, {head.name: (outputs[head.name], found[head.name]) for head in spec.heads}


def _agreement(ours: NDArray[Any], theirs: NDArray[Any] | None) -> tuple[float, int]:
    if theirs is None:
        return 1.0, 0
    steps = np.abs(ours.astype(np.int32) - theirs.astype(np.int32))
    assert np.count_nonzero(theirs) > theirs.size // 20
    return float(np.mean(steps == 0)), int(steps.max())


def assert_agrees(table: Table, from_fp16: Collection[str] = ()) -> None:
    for name, share, steps in table:
        least = MIN_EQUAL_SHARE_FP16 if any(part in name for part in from_fp16) else MIN_EQUAL_SHARE
        assert share >= least, table
        assert steps <= MAX_STEPS, table


def assert_outputs_agree(outputs: Outputs, tolerance: float = 2.0**-10) -> None:
    for name, (ours, theirs) in outputs.items():
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape
        # Two layers of operands rounded to float16, each by 2**-12 on average.
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), name


@pytest.mark.parametrize("seed", range(3))
def test_a_small_graph_against_onnx_runtime(seed: int, tmp_path: Path) -> None:
    spec = graph_spec()
    onnx.save(small_graph(spec, seed=seed), tmp_path / "x.onnx")
    table, outputs = compare(tmp_path / "x.onnx", spec, canvas(spec, seed), end_to_end=False)
    assert len(table) == 6
    assert_agrees(table)
    assert_outputs_agree(outputs)


@pytest.mark.parametrize(
    "form",
    [
        {"head_kernels": (3, 3)},
        {"head_kernels": (3, 1)},
        {"head_kernels": (3,)},
        {"head_kernels": (1, 3, 1)},
        {"head_relu": False},
        {"head_kernels": (3, 3), "quantized_last": True},
        {"head_kernels": (3, 3), "floats": ("hidden",)},
    ],
    ids=str,
)
def test_heads_of_every_form_against_onnx_runtime(form: dict[str, Any], tmp_path: Path) -> None:
    spec = graph_spec()
    onnx.save(small_graph(spec, **form), tmp_path / "x.onnx")
    _, outputs = compare(tmp_path / "x.onnx", spec, canvas(spec), end_to_end=True)
    # Where a head's map is INT8, a code may fall on the other side of a border.
    tolerance = 2.0**-6 if "quantized_last" in form else 2.0**-8
    assert_outputs_agree(outputs, tolerance)


@pytest.mark.parametrize(
    "floats",
    [("block0",), ("up",), ("side", "block1"), ("shared",), ("hidden",), ("side",), ("block1",), ("hidden_reg",)],
)
def test_small_graphs_of_two_precisions_against_onnx_runtime(floats: tuple[str, ...], tmp_path: Path) -> None:
    spec = graph_spec()
    onnx.save(small_graph(spec, floats), tmp_path / "x.onnx")
    table, outputs = compare(tmp_path / "x.onnx", spec, canvas(spec), end_to_end=False)
    # ONNX Runtime computes these layers in FP32 here, and the plan in float16.
    assert_agrees(table, from_fp16=("block0", "up", "side", "block1", "shared"))
    assert_outputs_agree(outputs, 2.0**-8)


@pytest.fixture(scope="module")
def tiny() -> tuple[nn.Module, ModelSpec]:
    """The tiny CenterPoint of the export's tests with numbers of channels that the engine takes; its specification."""
    import torch

    from models.build import build_model
    from models.config import load_model_config

    torch.set_num_threads(1)
    cfg = load_model_config(TINY_CONFIG)
    model = cfg.model
    model.pts_backbone.out_channels = [32, 32, 64]
    model.pts_neck.update(in_channels=[32, 32, 64], out_channels=[32, 32, 32])
    model.pts_bbox_head.update(in_channels=96, share_conv_channel=32)
    return build_model(cfg, seed=3), ModelSpec.from_config(cfg)


@pytest.fixture(scope="module")
def tiny_canvases(tiny: tuple[nn.Module, ModelSpec]) -> list[torch.Tensor]:
    import torch

    shape, generator = tiny[1].canvas_shape, torch.Generator().manual_seed(0)
    return [
        torch.rand(shape, generator=generator) * (torch.rand((1, 1, *shape[2:]), generator=generator) > 0.6)
        for _ in range(2)
    ]


def export_int8(
    tiny: tuple[nn.Module, ModelSpec],
    canvases: list[torch.Tensor],
    folder: Path,
    skip: tuple[str, ...] = (),
    **settings: Any,
) -> Path:
    from export.onnx_export import OnnxExportSettings, export_components
    from export.quantized_model import planned_layers, quantize_float_model
    from quant.settings import PtqSettings

    model, spec = tiny
    how = PtqSettings(num_batches=2, skip_layers=skip)
    quantized = quantize_float_model(copy.deepcopy(model), spec, canvases, how)
    export = OnnxExportSettings(
        opset_version=19, precision="int8", quantized_layers=planned_layers(quantized.structure), **settings
    )
    export_components(quantized.model, spec, folder, export)
    return folder / f"{HEAD}.onnx"


@pytest.mark.parametrize("float_precision", ["fp16", "fp32"])
def test_an_int8_export_against_onnx_runtime(
    float_precision: str, tiny: tuple[nn.Module, ModelSpec], tiny_canvases: list[torch.Tensor], tmp_path: Path
) -> None:
    path = export_int8(tiny, tiny_canvases, tmp_path, float_precision=float_precision)
    image = tiny_canvases[1].numpy()
    table, outputs = compare(path, tiny[1], image, end_to_end=False)
    assert len(table) == 11
    # An exported transposed convolution is FP16 between its sum and its quantizer.
    assert_agrees(table, from_fp16=("ConvTranspose",) if float_precision == "fp16" else ())
    assert_outputs_agree(outputs)
    # A difference travels: a code on the border of two, taken the other way, moves others behind it.
    travelled, _ = compare(path, tiny[1], image, end_to_end=True)
    assert min(share for _, share, _ in travelled) >= 0.95
    assert max(steps for _, _, steps in travelled) <= 2


@pytest.mark.parametrize(
    "skip",
    [
        ("pts_backbone.blocks.0.0",),
        ("pts_backbone.blocks.1.3",),
        ("pts_neck.deblocks.2.0",),
        ("pts_bbox_head.shared_conv.*",),
        ("pts_bbox_head.*",),
    ],
)
def test_an_int8_export_with_layers_in_fp16_against_onnx_runtime(
    skip: tuple[str, ...], tiny: tuple[nn.Module, ModelSpec], tiny_canvases: list[torch.Tensor], tmp_path: Path
) -> None:
    path = export_int8(tiny, tiny_canvases, tmp_path, skip)
    table, outputs = compare(path, tiny[1], tiny_canvases[1].numpy(), end_to_end=False)
    assert_agrees(table, from_fp16=("ConvTranspose", "blocks.0.0", "blocks.1.0", "blocks.1.3", "shared_conv"))
    assert_outputs_agree(outputs, 2.0**-7)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_float_export_against_onnx_runtime(
    precision: str, tiny: tuple[nn.Module, ModelSpec], tiny_canvases: list[torch.Tensor], tmp_path: Path
) -> None:
    from export.onnx_export import OnnxExportSettings, export_components

    export_components(*tiny, tmp_path, OnnxExportSettings(precision=precision))
    table, outputs = compare(tmp_path / f"{HEAD}.onnx", tiny[1], tiny_canvases[1].numpy(), end_to_end=True)
    assert table == [("canvas", 1.0, 0)]
    assert_outputs_agree(outputs, 2.0**-7)
