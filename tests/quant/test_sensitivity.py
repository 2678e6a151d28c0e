"""The analysis against runs of the whole network, and against quantization written out by hand."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from base.shares import Share
from eval.metrics import FrameResult, evaluate_detections
from models.build import build_model
from models.components import BackboneNeckHead
from models.config import load_model_config
from models.spec import ModelSpec
from quant.fusion import fuse_model_bn
from quant.modules.layer import QuantizedLayer
from quant.replace import quant_model
from quant.roofline import conv_layers
from quant.sensitivity import SensitivityFrame, build_sensitivity_profile
from quant.sensitivity.parts import merge_sensitivity_parts, write_sensitivity_part
from quant.sensitivity.segments import SegmentGraph
from runtime.decode import decode
from tests.quant.quantized_model import calibrate_by_max

CONFIGS = Path(__file__).parents[2] / "configs/model"
CONCAT, SHARED = "pts_neck.concat", "pts_bbox_head.shared_conv.conv"
BRANCH = "pts_bbox_head.task_heads.0.dim.0.conv"
HEADS = ("heatmap", "reg", "height", "dim", "rot", "vel")


@pytest.fixture(scope="module")
def spec(demo_cfg: Any) -> ModelSpec:
    """The demo model on 64 x 64 pillars; low scores count, so that canvases without objects have detections."""
    limits = (-10.24, -10.24, -3.0, 10.24, 10.24, 5.0)
    return dataclasses.replace(
        ModelSpec.from_config(demo_cfg), point_cloud_range=limits, score_threshold=0.001, post_max_size=20
    )


@pytest.fixture(scope="module")
def folded(trained_demo_model: nn.Module) -> nn.Module:
    model = copy.deepcopy(trained_demo_model)
    fuse_model_bn(model)
    return model


@pytest.fixture(scope="module")
def model(folded: nn.Module, canvas: torch.Tensor) -> nn.Module:
    quantized = copy.deepcopy(folded)
    quant_model(quantized)
    calibrate_by_max(quantized, canvas)
    return quantized


@pytest.fixture(scope="module")
def network(model: nn.Module, spec: ModelSpec) -> nn.Module:
    return BackboneNeckHead(model, spec).eval()


@pytest.fixture(scope="module")
def layers(network: nn.Module) -> tuple[str, ...]:
    return tuple(path for path, m in network.named_modules() if isinstance(m, QuantizedLayer) and path != CONCAT)


@pytest.fixture(scope="module")
def frames(canvas: torch.Tensor, network: nn.Module, spec: ModelSpec) -> list[SensitivityFrame]:
    """Frames whose objects are what the float network finds, some of them moved; the last two have some in range."""
    made = []
    for index in range(3):
        shifted = torch.roll(canvas, 5 * index, dims=3)
        found = decode(_arrays(whole_run(network, shifted, ())), spec)
        boxes = found.boxes.copy()
        boxes[::3, 0] += 0.7
        truth = Boxes3D(boxes, np.ones(len(boxes), np.float32), found.labels)
        made.append(SensitivityFrame(f"frame{index}", f"scene{index}", shifted, truth))
    return made


def whole_run(network: nn.Module, canvas: torch.Tensor, enabled: Collection[str]) -> tuple[torch.Tensor, ...]:
    """The network as it is, with exactly these layers quantized; the concat with the convolution that reads it."""
    switches = [(path, m) for path, m in network.named_modules() if isinstance(m, QuantizedLayer)]
    for path, module in switches:
        module.quantized = (SHARED if path == CONCAT else path) in enabled
    try:
        with torch.inference_mode():
            outputs: tuple[torch.Tensor, ...] = network(canvas)
    finally:
        for _, module in switches:
            module.quantized = True
    return outputs


def _arrays(outputs: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in zip(HEADS, outputs, strict=True)}


@pytest.fixture(scope="module")
def graph(network: nn.Module, canvas: torch.Tensor) -> SegmentGraph:
    return SegmentGraph(network, canvas)


@pytest.fixture
def clean(graph: SegmentGraph) -> Iterator[None]:
    with graph.layers.restored(), torch.inference_mode():
        yield


@pytest.mark.usefixtures("clean")
def test_every_layer_in_both_directions_equals_whole_runs(
    graph: SegmentGraph, network: nn.Module, canvas: torch.Tensor, layers: tuple[str, ...]
) -> None:
    assert graph.layers.paths == layers
    assert len(layers) == 4 + 6 + 4 + 3 + 1 + 6
    everything = frozenset(layers)
    plain, quantized = graph.run(canvas, ()), graph.run(canvas, everything)
    kept = {name: value.clone() for name, value in plain.items()}
    for layer in layers:
        for values, before, enabled in (
            (plain, frozenset(), frozenset([layer])),
            (quantized, everything, everything - {layer}),
        ):
            found = graph.rerun(values, before, enabled)
            for one, other in zip(found, whole_run(network, canvas, enabled), strict=True):
                assert torch.equal(one, other), (layer, len(enabled))
    # What is kept for the frame is never written to.
    assert all(torch.equal(kept[name], value) for name, value in plain.items())


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("layer", ["pts_backbone.blocks.1.0", "pts_neck.deblocks.0.0", "pts_neck.deblocks.1.0", SHARED])
def test_one_layer_is_its_weight_and_its_own_view_of_the_input(
    layer: str, graph: SegmentGraph, model: nn.Module, folded: nn.Module, spec: ModelSpec, canvas: torch.Tensor
) -> None:
    """The float network with one convolution's weight and input rounded by hand; other readers see the input itself."""
    plain = copy.deepcopy(folded)
    convolution: Any = plain.get_submodule(layer)
    reference: Any = model.get_submodule(layer)

    def rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch.clamp(torch.round(x / scale), -128, 127) * scale

    axis = 1 if isinstance(convolution, nn.ConvTranspose2d) else 0
    shape = [-1 if dim == axis else 1 for dim in range(4)]
    convolution.weight.data = rounded(convolution.weight.data, reference.weight_quantizer.scale.view(shape))
    convolution.register_forward_pre_hook(lambda _, inputs: rounded(inputs[0], reference.input_quantizer.scale))
    untouched = graph.run(canvas, ())
    found = graph.rerun(untouched, (), [layer])
    expected = BackboneNeckHead(plain, spec).eval()(canvas)
    for one, other, before in zip(found, expected, graph.outputs(untouched), strict=True):
        # x / s against x · (1 / s) may round to the other side of a half: a step in a few cells.
        assert (one - other).abs().mean() < 0.02 * (one - before).abs().mean()


@pytest.mark.usefixtures("clean")
def test_only_what_lies_behind_a_layer_runs(graph: SegmentGraph) -> None:
    def ran(layer: str) -> set[str]:
        return {path for index in graph.affected((), [layer]) for path in graph.segments[index].modules}

    assert ran(BRANCH) >= {BRANCH, "pts_bbox_head.task_heads.0.dim.1"}
    assert all(".dim." in path for path in ran(BRANCH))
    last_block = ran("pts_backbone.blocks.2.6")
    assert "pts_neck.deblocks.2.0" in last_block
    assert not last_block & {"pts_neck.deblocks.0.0", "pts_neck.deblocks.1.0", "pts_backbone.blocks.2.3"}
    # The concat is quantized for the shared convolution, and so runs with it.
    assert CONCAT in ran(SHARED)
    assert "pts_neck.deblocks.0.0" not in ran(SHARED)


def test_cost_is_the_macs_behind_every_layer(
    graph: SegmentGraph,
    demo_cfg: Any,
    layers: tuple[str, ...],
    frames: list[SensitivityFrame],
    model: nn.Module,
    spec: Any,
) -> None:
    """From the layers of the model config: everything that can be reached from each layer, in two directions."""
    cfg = copy.deepcopy(demo_cfg)
    cfg.model.pts_middle_encoder.output_shape = [64, 64]
    convolutions = {layer.path: layer for layer in conv_layers(cfg)}
    total = sum(layer.flop for layer in convolutions.values()) // 2
    assert graph.macs == total
    expected = 2 * total
    for layer in layers:
        reached: set[str] = {layer}
        for path, item in convolutions.items():  # In the order in which they run.
            if reached.intersection(item.inputs):
                reached.add(path)
        expected += 2 * sum(convolutions[path].flop for path in reached) // 2
    profile = build_sensitivity_profile(model, frames[:1], spec=spec, num_resamples=40, show_progress=False)
    assert profile.cost.analysis_macs == expected
    assert profile.cost.num_runs == 2 + 2 * len(layers)
    # Whole runs would cost 50 evaluations.
    assert 20 < profile.cost.multiple < 25


@pytest.fixture(scope="module")
def profile(model: nn.Module, frames: list[SensitivityFrame], spec: ModelSpec) -> Any:
    return build_sensitivity_profile(model, frames, spec=spec, num_resamples=60, workers=1, show_progress=False)


def test_numbers_are_those_of_whole_runs(
    profile: Any, network: nn.Module, frames: list[SensitivityFrame], spec: ModelSpec, layers: tuple[str, ...]
) -> None:
    def scored(enabled: Collection[str]) -> tuple[float, dict[str, float]]:
        results, signal, noise = [], np.zeros(6), np.zeros(6)
        for frame in frames:
            outputs = whole_run(network, frame.canvas, enabled)
            plain = whole_run(network, frame.canvas, ())
            results.append(FrameResult(frame.token, decode(_arrays(outputs), spec), frame.ground_truth))
            signal += [float((x.double() ** 2).sum()) for x in plain]
            noise += [float(((x - y).double() ** 2).sum()) for x, y in zip(plain, outputs, strict=True)]
        with np.errstate(divide="ignore"):
            sqnr = dict(zip(HEADS, 10 * np.log10(signal / noise), strict=True))
        return evaluate_detections(results, spec.class_names, ranges_m=((0.0, 10.0),)).total.mean_ap, sqnr

    everything = frozenset(layers)
    float_map, quantized_map = scored(())[0], scored(everything)[0]
    assert profile.float_map == pytest.approx(float_map)
    assert 0.1 < float_map < 1.0
    assert profile.quantized.mean_ap == quantized_map
    assert profile.map_drop == pytest.approx(float_map - quantized_map)
    for layer in ("pts_backbone.blocks.0.3", "pts_backbone.blocks.1.0", BRANCH):
        item = profile.of(layer)
        for effect, enabled, baseline in (
            (item.alone, {layer}, float_map),
            (item.all_but, everything - {layer}, quantized_map),
        ):
            mean_ap, sqnr = scored(enabled)
            assert effect.mean_ap == mean_ap
            assert effect.difference == pytest.approx(mean_ap - baseline)
            assert effect.low <= effect.high
            for head in HEADS:
                assert effect.sqnr_db[head] == pytest.approx(sqnr[head], rel=1e-6), (layer, head)
    alone = profile.of(BRANCH).alone
    assert [head for head in HEADS if math.isfinite(alone.sqnr_db[head])] == ["dim"]


def test_profile_repeats(profile: Any, model: nn.Module, frames: list[SensitivityFrame], spec: ModelSpec) -> None:
    """Whatever the number of processes, and from an iterable too."""
    again = build_sensitivity_profile(model, iter(frames), spec=spec, num_resamples=60, show_progress=False)
    assert again == profile
    shared = build_sensitivity_profile(model, frames, spec=spec, num_resamples=60, workers=2, show_progress=False)
    assert shared == profile
    assert again.to_csv() == profile.to_csv()
    assert again.measured is not None
    assert again.measured.analysis_s > again.measured.evaluation_s > 0


def test_stages_cost_less(
    model: nn.Module, frames: list[SensitivityFrame], spec: ModelSpec, profile: Any, tmp_path: Path
) -> None:
    stages = build_sensitivity_profile(
        model, frames[:1], spec=spec, granularity="stage", num_resamples=40, show_progress=False
    )
    names = [layer.name for layer in stages.layers]
    assert names[:4] == [
        "pts_backbone.blocks.0",
        "pts_backbone.blocks.1",
        "pts_backbone.blocks.2",
        "pts_neck.deblocks.0",
    ]
    assert "pts_bbox_head.shared_conv" in names
    assert "pts_bbox_head.task_heads.0.vel" in names
    assert stages.of("pts_backbone.blocks.2").layers == tuple(f"pts_backbone.blocks.2.{i}" for i in (0, 3, 6, 9))
    assert sum(layer.macs for layer in stages.layers) == sum(layer.macs for layer in profile.layers)
    assert stages.cost.multiple < profile.cost.multiple / 2
    # Two machines that share the stages find the same to the byte, and what they cost.
    parts = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, path in enumerate(parts, 1):
        share = Share(number, 2)
        part = build_sensitivity_profile(
            model, frames[:1], spec=spec, granularity="stage", num_resamples=40, show_progress=False, share=share
        )
        write_sensitivity_part(part, model, 0, share, path, spec=spec)
    merged = merge_sensitivity_parts(parts)
    assert merged == stages
    assert merged.to_csv() == stages.to_csv()


def test_layers_in_floating_point_are_left_out(
    folded: nn.Module, canvas: torch.Tensor, frames: list[SensitivityFrame], spec: ModelSpec
) -> None:
    skipped = copy.deepcopy(folded)
    quant_model(skipped, skip_names=["pts_backbone.blocks.0.*", SHARED, "pts_neck"])
    calibrate_by_max(skipped, canvas)
    off: Any = skipped.get_submodule("pts_backbone.blocks.2.9")
    off.quantized = False
    profile = build_sensitivity_profile(skipped, frames[:1], spec=spec, num_resamples=40, show_progress=False)
    names = {layer.name for layer in profile.layers}
    assert len(names) == 24 - 4 - 1 - 3 - 1
    assert not any(name.startswith("pts_backbone.blocks.0.") for name in names)
    assert off.quantized is False


def test_switches_are_restored_after_an_error(
    model: nn.Module, frames: list[SensitivityFrame], spec: ModelSpec
) -> None:
    bad = dataclasses.replace(frames[1], canvas=frames[1].canvas[:, :, :32])
    with pytest.raises(
        DataError, match=r"Frame 'frame1': canvas \(1, 32, 32, 64\); model '.*' needs \(1, 32, 64, 64\)"
    ):
        build_sensitivity_profile(model, [frames[0], bad], spec=spec, show_progress=False)
    assert all(m.quantized for m in model.modules() if isinstance(m, QuantizedLayer))


def test_bad_input(folded: nn.Module, model: nn.Module, frames: list[SensitivityFrame], spec: ModelSpec) -> None:
    with pytest.raises(DataError, match="was given no frames"):
        build_sensitivity_profile(model, [], spec=spec)
    with pytest.raises(ConfigError, match="workers is 2; several processes need a model on the CPU and a sequence"):
        build_sensitivity_profile(model, iter(frames), spec=spec, workers=2, show_progress=False)
    with pytest.raises(ConfigError, match="workers is 0"):
        build_sensitivity_profile(model, frames, spec=spec, workers=0, show_progress=False)
    with pytest.raises(ConfigError, match="granularity is 'block'; it is 'layer' or 'stage'"):
        build_sensitivity_profile(model, frames, spec=spec, granularity="block", show_progress=False)
    with pytest.raises(ConfigError, match="no quantized layer that is switched on"):
        build_sensitivity_profile(copy.deepcopy(folded), frames, spec=spec, show_progress=False)
    bare = copy.deepcopy(folded)
    quant_model(bare)
    with pytest.raises(ConfigError, match=r"Layer 'pts_backbone.blocks.0.0': its \w+_quantizer has no scale"):
        build_sensitivity_profile(bare, frames, spec=spec, show_progress=False)
    with pytest.raises(ConfigError, match="Linear has no 'pts_backbone'"):
        build_sensitivity_profile(nn.Linear(1, 1), frames, spec=spec, show_progress=False)


def test_a_network_that_depends_on_more_than_its_input_is_refused(network: nn.Module, canvas: torch.Tensor) -> None:
    stateful = copy.deepcopy(network)
    convolution: Any = stateful.get_submodule("pts_backbone.blocks.0.3")
    calls = iter(range(1000))
    convolution.register_forward_hook(lambda _module, _inputs, output: output * (1 + next(calls)))
    with pytest.raises(ConfigError, match=r"output 0 differs from the network's own by up to .*cannot be cut"):
        SegmentGraph(stateful, canvas)


def test_work_in_place_on_a_kept_value_is_refused(network: nn.Module, canvas: torch.Tensor) -> None:
    shared = copy.deepcopy(network)
    neck: Any = shared.get_submodule("pts_neck")
    neck.deblocks[0].insert(0, nn.ReLU(inplace=True))
    with pytest.raises(ConfigError, match=r"'pts_neck.deblocks.0.0' works in place on a value that the segments keep"):
        SegmentGraph(shared, canvas)


def test_another_neck_is_cut_as_well(canvas: torch.Tensor) -> None:
    """Strides 1, 2, 2 and a deblock that shrinks its input; the segments compare themselves with the network."""
    cfg = load_model_config(CONFIGS / "second_secfpn_8xb16_121m_j6gen2_base_amp.py")
    spec = ModelSpec.from_config(cfg)
    cfg.model.pts_middle_encoder.output_shape = [64, 64]
    detector = build_model(cfg)
    fuse_model_bn(detector)
    quant_model(detector)
    calibrate_by_max(detector, canvas)
    graph = SegmentGraph(BackboneNeckHead(detector, spec).eval(), canvas)
    assert graph.macs == sum(layer.flop for layer in conv_layers(cfg)) // 2
    assert len(graph.layers.paths) == 4 + 6 + 6 + 3 + 1 + 6
