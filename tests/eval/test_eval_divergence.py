"""A deliberately broken ONNX file: verification names the output, bisection names the layer and the weight."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import DataError
from eval.comparison import default_tolerances
from eval.divergence import Bisection, OnnxGraph, TorchModules, find_divergences
from eval.divergence.weights import describe_weight_difference
from eval.verification import VerificationResult, verify
from export.onnx_export import OnnxExportSettings, export_components
from models.build import build_model
from models.components import extract_components
from models.config import load_model_config
from models.spec import ModelSpec
from quant.ptq import quantize_ptq
from runtime.backends import open_backend
from runtime.pipeline import Pipeline

torch = pytest.importorskip("torch")

CONFIG = Path(__file__).parents[1] / "data" / "deploy" / "tiny_centerpoint.py"
ENCODER, NETWORK = "pts_voxel_encoder", "pts_backbone_neck_head"
HEADS = ["heatmap", "reg", "height", "dim", "rot", "vel"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The tiny model with lively BatchNorms, its ONNX files in FP32 and FP16, and two frames."""
    torch.set_num_threads(1)
    cfg = load_model_config(CONFIG)
    spec = ModelSpec.from_config(cfg)
    model = build_model(cfg, seed=3)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for value in (module.weight, module.running_var):
                value.data.uniform_(0.5, 1.5, generator=generator)
            for value in (module.bias, module.running_mean):
                value.data.uniform_(-0.3, 0.3, generator=generator)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("fp32", "fp16")}
    for precision, folder in folders.items():
        export_components(model, spec, folder, OnnxExportSettings(precision=precision))
    low, high = np.array(spec.point_cloud_range[:3]), np.array(spec.point_cloud_range[3:])
    frames = []
    for index in range(2):
        rng = np.random.default_rng(index)
        points = rng.uniform(0, 1, (800, spec.point_features)).astype(np.float32)
        points[:, :3] = rng.uniform(low, high, (800, 3))
        frames.append(SimpleNamespace(token=f"frame-{index}", points=points, ground_truth=Boxes3D.empty()))
    return SimpleNamespace(model=model, spec=spec, frames=frames, **folders)


def components(network: SimpleNamespace) -> dict[str, Any]:
    return extract_components(copy.deepcopy(network.model), network.spec)


def break_file(source: Path, target: Path, component: str, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Copies the ONNX files of a folder, one of them changed."""
    target.mkdir(exist_ok=True)
    for path in source.glob("*.onnx"):
        model = onnx.load(path)
        if path.stem == component:
            change(model)
        onnx.save(model, target / path.name)
    return target


def edit_weight(name: str, edit: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = [item for item in model.graph.initializer if item.name == name]
        values = edit(onnx.numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))

    return change


def flip_one(weight: NDArray[Any]) -> NDArray[Any]:
    place = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    weight[place] *= -1
    return weight


def swap_channels(weight: NDArray[Any]) -> NDArray[Any]:
    weight[[1, 3]] = weight[[3, 1]]
    return weight


def double(weight: NDArray[Any]) -> NDArray[Any]:
    return weight * 2


def check(network: SimpleNamespace, tested: Path, precision: str = "fp32") -> VerificationResult:
    pytest.importorskip("onnxruntime")
    with (
        open_backend("pytorch", spec=network.spec, device="cpu", components=components(network)) as reference,
        open_backend("onnx", spec=network.spec, device="cpu", onnx_dir=tested) as test,
    ):
        return verify(
            Pipeline(network.spec, reference),
            Pipeline(network.spec, test),
            network.frames,
            num_frames=2,
            precision=precision,
            show_progress=False,
        )


def failed_outputs(result: VerificationResult) -> list[str]:
    return [item.comparison.name for item in result.outputs if not item.passed]


BROKEN = [
    # component, node, slot, edit, outputs that must fail, words of the description
    (NETWORK, "/pts_backbone/blocks.0/blocks.0.0/Conv", "weight", flip_one, HEADS, "the sign is turned"),
    (NETWORK, "/pts_backbone/blocks.1/blocks.1.3/Conv", "weight", flip_one, HEADS, "1 of"),
    (
        NETWORK,
        "/pts_backbone/blocks.1/blocks.1.0/Conv",
        "weight",
        swap_channels,
        HEADS,
        "channels 1 and 3 of axis 0 are",
    ),
    (NETWORK, "/pts_bbox_head/shared_conv/conv/Conv", "weight", double, HEADS, "all elements: 2 times the reference's"),
    (NETWORK, "/pts_bbox_head/task_heads.0/rot/rot.0/conv/Conv", "weight", flip_one, ["rot"], "the sign is turned"),
    (NETWORK, "/pts_bbox_head/task_heads.0/vel/vel.1/Conv", "bias", lambda x: x + 0.5, ["vel"], "elements differ"),
    (
        ENCODER,
        "/pfn_layers.0/norm/BatchNormalization",
        "weight",
        double,
        ["pillar_features"],
        "2 times the reference's",
    ),
    (ENCODER, "/pfn_layers.0/linear/MatMul", "input_1", flip_one, ["pillar_features"], "the sign is turned"),
]


@pytest.mark.parametrize(("component", "node", "slot", "edit", "outputs", "words"), BROKEN)
@pytest.mark.parametrize("kind", ["pytorch", "onnx"])
def test_a_broken_weight_is_found(
    network: SimpleNamespace,
    tmp_path: Path,
    kind: str,
    component: str,
    node: str,
    slot: str,
    edit: Callable[[NDArray[Any]], NDArray[Any]],
    outputs: list[str],
    words: str,
) -> None:
    name = f"{node}.{slot}"
    tested = break_file(network.fp32, tmp_path / "broken", component, edit_weight(name, edit))
    result = check(network, tested)
    assert not result.passed
    # A broken encoder spoils the heads too.
    assert set(outputs) <= set(failed_outputs(result))
    if component == NETWORK:
        assert failed_outputs(result) == [item for item in HEADS if item in outputs]
    reference = components(network) if kind == "pytorch" else network.fp32
    found = find_divergences(result, reference, tested, network.spec, network.frames)
    assert [(item.component, item.node) for item in found] == [(component, node)]
    (divergence,) = found
    assert divergence.outputs == tuple(outputs)
    assert [weight.name for weight in divergence.weights] == [name]
    assert words in divergence.weights[0].description
    assert divergence.relative_l2 > divergence.limit
    assert f"first differs at node '{node}'" in divergence.summary()
    # Bisection, not a walk over all of the graph.
    assert divergence.tensors_compared < 25


def test_two_broken_heads_are_two_divergences(network: SimpleNamespace, tmp_path: Path) -> None:
    nodes = [f"/pts_bbox_head/task_heads.0/{head}/{head}.1/Conv" for head in ("rot", "dim")]
    middle = break_file(network.fp32, tmp_path / "a", NETWORK, edit_weight(f"{nodes[0]}.weight", double))
    tested = break_file(middle, tmp_path / "b", NETWORK, edit_weight(f"{nodes[1]}.weight", double))
    result = check(network, tested)
    found = find_divergences(result, components(network), tested, network.spec, network.frames)
    assert {item.outputs: item.node for item in found} == {("rot",): nodes[0], ("dim",): nodes[1]}


def test_a_branch_that_agrees_does_not_hide_an_earlier_fault(network: SimpleNamespace, tmp_path: Path) -> None:
    # The first deblock ends before later blocks begin in the order of the graph; its fault must be found all the same.
    node = "/pts_neck/deblocks.0/deblocks.0.0"
    graph = OnnxGraph(network.fp32 / f"{NETWORK}.onnx")
    (name,) = [item for item in graph.weights if item.startswith(node) and item.endswith(".weight")]
    tested = break_file(network.fp32, tmp_path / "broken", NETWORK, edit_weight(name, flip_one))
    found = find_divergences(check(network, tested), components(network), tested, network.spec, network.frames)
    assert [item.node for item in found] == [name.removesuffix(".weight")]


def test_fp16_agrees_and_its_broken_weight_is_found(network: SimpleNamespace, tmp_path: Path) -> None:
    assert check(network, network.fp16, "fp16").passed
    node = "/pts_backbone/blocks.1/blocks.1.0/Conv"
    tested = break_file(network.fp16, tmp_path / "broken", NETWORK, edit_weight(f"{node}.weight", double))
    result = check(network, tested, "fp16")
    found = find_divergences(result, components(network), tested, network.spec, network.frames)
    assert [item.node for item in found] == [node]
    assert found[0].weights[0].description == "all elements: 2 times the reference's"


def test_a_doubled_quantization_scale_is_found(network: SimpleNamespace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    canvases = [
        torch.from_numpy(np.maximum(rng.normal(size=network.spec.canvas_shape), 0).astype(np.float32)) for _ in range(2)
    ]
    model = quantize_ptq(copy.deepcopy(network.model), canvases, num_calibration_batches=2)
    right, wrong = tmp_path / "int8", tmp_path / "broken"
    export_components(model, network.spec, right, OnnxExportSettings(precision="int8", opset_version=19))
    node = "/pts_backbone/blocks.1/blocks.1.0/Conv"
    scale = f"{node}.weight/DequantizeLinear.scale"
    break_file(right, wrong, NETWORK, edit_weight(scale, double))
    graphs = [OnnxGraph(folder / f"{NETWORK}.onnx") for folder in (right, wrong)]
    inputs = {"spatial_features": canvases[0].numpy()}
    limits = default_tolerances("int8", ["tensor"])["tensor"]
    modules = [TorchModules(extract_components(model, network.spec)[NETWORK], graph, inputs) for graph in graphs]
    known = [[name for name in graph.order if name in modules[0].names or name in graph.outputs] for graph in graphs]
    # Fake-quantized PyTorch and the Q/DQ graph agree in every layer; with a wrong scale they part at its layer.
    assert all(Bisection(graphs[0], modules[0], known[0], inputs, limits).first(name) is None for name in HEADS)
    found = Bisection(graphs[1], modules[1], known[1], inputs, limits).first("rot")
    assert found is not None
    assert found.node == node
    assert scale in [weight.name for weight in found.weights]
    # Against the right file, tensor by tensor, it is the scale itself.
    found = Bisection(graphs[1], graphs[0], graphs[1].order, inputs, limits).first("rot")
    assert found is not None
    assert found.node == f"{node}.weight/DequantizeLinear"
    assert [(weight.name, weight.description) for weight in found.weights] == [
        (scale, "all elements: 2 times the reference's")
    ]


def test_a_changed_operator_is_found(network: SimpleNamespace, tmp_path: Path) -> None:
    node = "/pts_backbone/blocks.0/blocks.0.0/Conv"

    def widen(model: onnx.ModelProto) -> None:
        (found,) = [item for item in model.graph.node if item.name == node]
        for attribute in found.attribute:
            if attribute.name == "dilations":
                attribute.ints[:] = [2, 2]
            if attribute.name == "pads":
                attribute.ints[:] = [2, 2, 2, 2]

    tested = break_file(network.fp32, tmp_path / "broken", NETWORK, widen)
    found = find_divergences(check(network, tested), components(network), tested, network.spec, network.frames)
    assert [item.node for item in found] == [node]
    # The weights are right, so nothing is said against them.
    assert all(weight.description == "" for weight in found[0].weights)


def test_nothing_is_found_where_nothing_is_wrong(network: SimpleNamespace) -> None:
    result = check(network, network.fp32)
    assert result.passed
    assert find_divergences(result, components(network), network.fp32, network.spec, network.frames) == ()


def test_every_module_with_weights_has_its_tensor(network: SimpleNamespace) -> None:
    modules = components(network)
    for component, module in modules.items():
        graph = OnnxGraph(network.fp32 / f"{component}.onnx")
        rng = np.random.default_rng(0)
        (shape,) = [item.inputs[0].shape for item in network.spec.components if item.name == component]
        name = next(item.inputs[0].name for item in network.spec.components if item.name == component)
        inputs = {name: rng.normal(size=[size or 40 for size in shape]).astype(np.float32)}
        source = TorchModules(module, graph, inputs)
        with_weights = {path for path, child in module.named_modules() if getattr(child, "weight", None) is not None}
        folded = {path for path in with_weights if path in source.names.values()}
        makers = {graph.producer(tensor).name for tensor in (*source.names, *graph.outputs)}
        layers = {node.name for node in graph.nodes if node.op_type in ("Conv", "ConvTranspose", "MatMul")}
        assert layers <= makers, "every layer's result can be compared"
        assert folded
        names = [*source.names, *graph.outputs]
        a, b = source.tensors(inputs, names), graph.tensors(inputs, names)
        for tensor in names:
            scale = np.linalg.norm(a[tensor])
            assert np.linalg.norm(a[tensor] - b[tensor]) <= 1e-5 * scale, tensor


def test_unknown_tensors_and_files(network: SimpleNamespace, tmp_path: Path) -> None:
    graph = OnnxGraph(network.fp32 / f"{NETWORK}.onnx")
    with pytest.raises(DataError, match=r"makes no tensor \['nothing'\]"):
        graph.tensors({}, ["nothing"])
    with pytest.raises(DataError, match="cannot be read as ONNX"):
        OnnxGraph(tmp_path / "none.onnx")
    (tmp_path / "torn.onnx").write_bytes((network.fp32 / f"{NETWORK}.onnx").read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read as ONNX"):
        OnnxGraph(tmp_path / "torn.onnx")
    limits = default_tolerances("fp32", ["tensor"])["tensor"]
    with pytest.raises(DataError, match=r"output 'rot' of .* is no tensor that both sides have"):
        Bisection(graph, graph, ["reg"], {}, limits).first("rot")


RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(6, 4, 3, 3))


def changed(edit: Callable[[NDArray[Any]], None]) -> NDArray[Any]:
    weight = WEIGHT.copy()
    edit(weight)
    return weight


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (WEIGHT, ""),
        (WEIGHT * (1 + 1e-7), ""),
        (WEIGHT * 2, "all elements: 2 times the reference's"),
        (WEIGHT * -1, "all elements: -1 times the reference's"),
        (WEIGHT[[0, 4, 2, 3, 1, 5]], "channels 1 and 4 of axis 0 are exchanged"),
        (WEIGHT[:, [2, 1, 0, 3]], "channels 0 and 2 of axis 1 are exchanged"),
        (changed(lambda w: w.__setitem__(2, w[2] * 0.5)), "channel 2 of axis 0: 0.5 times the reference's"),
        (changed(lambda w: w.__setitem__((1, 2, 0, 0), -w[1, 2, 0, 0])), "1 of 216 elements differ: [1, 2, 0, 0] is "),
        (changed(lambda w: w.__setitem__((1, 2, 0, 0), np.nan)), "1 of 216 elements differ: [1, 2, 0, 0] is nan"),
        (WEIGHT[:5], "shape [5, 4, 3, 3] instead of [6, 4, 3, 3]"),
        (WEIGHT + RNG.normal(size=WEIGHT.shape), "216 of 216 elements differ: "),
    ],
)
def test_descriptions(test: NDArray[Any], words: str) -> None:
    description = describe_weight_difference(WEIGHT, test)
    assert description.startswith(words) if words else description == ""
    assert ("the sign is turned" in description) == words.endswith("[1, 2, 0, 0] is ")
