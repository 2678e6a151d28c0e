"""The backend `openvino` against ONNX Runtime and numpy: the same files, the same clouds."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from models.spec import BACKBONE_NECK_HEAD, INPUT_FEATURES, PILLAR_FEATURES, SPATIAL_FEATURES, VOXEL_ENCODER, ModelSpec
from runtime import open_backend, open_detector
from runtime.backends.openvino_graph import suit_openvino
from runtime.counts import BoxCounts
from runtime.decode import Decoded
from runtime.decoders import Decoder
from runtime.packed_pipeline import PackedPipeline
from runtime.pillar_weights import PillarWeights
from runtime.pipeline import Pipeline
from runtime.preprocess import preprocess
from runtime.scatter import scatter
from tests.runtime.encoder_graphs import encoder_weights, write_encoder
from tests.runtime.qdq_graphs import CANVAS_SCALE, canvas, graph_spec, node, small_graph
from tests.runtime.small_model import cloud

pytest.importorskip("openvino")


@pytest.fixture
def quantized_dir(tmp_path: Path) -> Path:
    """A backbone, neck and head with Q/DQ pairs behind an encoder."""
    import onnx

    spec = graph_spec()
    weights = encoder_weights(spec.encoder_in_features, (8, spec.encoder_channels))
    write_encoder(tmp_path / f"{VOXEL_ENCODER}.onnx", weights, slots_per_pillar=spec.max_points_per_voxel)
    onnx.save(small_graph(spec), str(tmp_path / f"{BACKBONE_NECK_HEAD}.onnx"))
    return tmp_path


def _copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


@pytest.mark.parametrize("count", [1, 40, 4000])
def test_frames_are_those_of_onnx_runtime(spec: ModelSpec, onnx_dir: Path, count: int) -> None:
    with (
        open_detector("openvino", spec=spec, onnx_dir=onnx_dir) as found,
        open_detector("onnx", spec=spec, onnx_dir=onnx_dir) as expected,
    ):
        assert isinstance(found, PackedPipeline)
        for seed in range(3):
            points = cloud(seed, count)
            ours, theirs = found.inspect(points), expected.inspect(points)
            assert ours.inference.counts == theirs.inference.counts
            np.testing.assert_array_equal(ours.pillars.coords, theirs.pillars.coords)
            np.testing.assert_allclose(ours.pillars.features, theirs.pillars.features, rtol=1e-4, atol=1e-5)
            assert list(ours.outputs) == list(theirs.outputs)
            for name, values in theirs.outputs.items():
                # bfloat16, which OpenVINO prefers on some CPUs, is 0.4 % off.
                np.testing.assert_allclose(ours.outputs[name], values, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(ours.inference.detections.scores, theirs.inference.detections.scores, atol=1e-4)


def test_a_cloud_without_points_in_range_has_no_boxes(spec: ModelSpec, onnx_dir: Path) -> None:
    with open_detector("openvino", spec=spec, onnx_dir=onnx_dir) as detector:
        for points in (np.zeros((0, 5), np.float32), np.full((9, 5), np.nan, np.float32), cloud(0, 5) + 1e6):
            seen = detector.inspect(points)
            assert (len(seen.inference.detections), dict(seen.outputs), len(seen.pillars.features)) == (0, {}, 0)
            assert list(seen.inference.stages_ms) == ["preprocess", "decode"]
        assert len(detector(cloud(0, 4000)).outputs or {}) == len(spec.heads)


def test_components_run_alone(spec: ModelSpec, onnx_dir: Path) -> None:
    frame = preprocess(cloud(3, 900), spec)
    with open_backend("openvino", spec=spec, onnx_dir=onnx_dir) as backend:
        features = backend.run(VOXEL_ENCODER, {INPUT_FEATURES: frame.features})[PILLAR_FEATURES]
        weights = PillarWeights.from_onnx(onnx_dir / f"{VOXEL_ENCODER}.onnx")
        np.testing.assert_allclose(features[:, 0], weights.apply(frame.features), rtol=1e-4, atol=1e-5)
        whole = {name: value.copy() for name, value in backend.infer(frame.features, frame.coords).outputs.items()}
    with open_detector("openvino", spec=spec, onnx_dir=onnx_dir) as detector:
        seen = detector.inspect(cloud(3, 900))
        for name, value in whole.items():
            np.testing.assert_allclose(seen.outputs[name], value, rtol=1e-4, atol=1e-4)


def test_int8_is_exact_but_for_single_steps(quantized_dir: Path) -> None:
    """Codes are sums of whole numbers; a product that lies on the border of two steps may be rounded either way."""
    spec = graph_spec()
    import onnxruntime

    path = quantized_dir / f"{BACKBONE_NECK_HEAD}.onnx"
    session = onnxruntime.InferenceSession(str(path))
    found: dict[str, list[NDArray[np.float32]]] = {}
    expected: dict[str, list[NDArray[np.float32]]] = {}
    with open_backend("openvino", spec=spec, onnx_dir=quantized_dir) as backend:
        for seed in range(4):
            values = canvas(spec, seed)
            for name, value in backend.run(BACKBONE_NECK_HEAD, {SPATIAL_FEATURES: values}).items():
                found.setdefault(name, []).append(value)
            names = [output.name for output in session.get_outputs()]
            for name, value in zip(names, session.run(names, {SPATIAL_FEATURES: values}), strict=True):
                expected.setdefault(name, []).append(value)
    for name, theirs in expected.items():
        ours, right = np.concatenate(found[name]), np.concatenate(theirs)
        assert np.linalg.norm(ours - right) <= 0.02 * np.linalg.norm(right), name


def _bias_apart(model: Any) -> None:
    """The transposed convolution's bias in an Add of its own, as exports have it."""
    import onnx

    up = node(model, "/up/ConvTranspose")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    bias = onnx.numpy_helper.to_array(constants[up.input[2]]).reshape(1, -1, 1, 1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "apart"))
    inner, outer = "product", up.output[0]
    del up.input[2]
    up.output[0] = inner
    place = [item.name for item in model.graph.node].index(up.name)
    model.graph.node.insert(place + 1, onnx.helper.make_node("Add", [inner, "apart"], [outer], "bias"))


@pytest.mark.parametrize("apart", [False, True])
def test_graphs_that_suit_openvino_compute_the_same(apart: bool) -> None:
    """Of ONNX Runtime both times: a transposed convolution of stride 4 in blocks, and codes in place of the canvas."""
    import onnxruntime

    spec = graph_spec(point_cloud_range=(-5.12, -5.12, -3.0, 5.12, 5.12, 5.0))
    model = small_graph(spec, up_stride=4)
    if apart:
        _bias_apart(model)
    before = model.SerializeToString(deterministic=True)
    suited = suit_openvino(model)
    assert model.SerializeToString(deterministic=True) == before
    nodes = list(suited.model.graph.node)
    assert not [item for item in nodes if item.op_type == "ConvTranspose"]
    # Codes move to their places, not what they are made of, and are joined cell after cell.
    (joined,) = [item for item in nodes if item.op_type == "Concat"]
    assert joined.attribute[0].i == 3
    (moved,) = [item for item in nodes if item.op_type == "Transpose" and item.attribute[0].ints == [0, 2, 1, 3]]
    makers = {name: item for item in nodes for name in item.output}
    chain = [moved]
    while chain[-1].op_type != "Conv":
        chain.append(makers[chain[-1].input[0]])
    kinds = [item.op_type for item in chain]
    assert kinds[:4] == ["Transpose", "Reshape", "Transpose", "DequantizeLinear"]
    assert kinds[4:] == ["QuantizeLinear", "Relu", *(["Add"] if apart else []), "Conv"]
    assert suited.scale == np.float32(CANVAS_SCALE)
    first, second = (onnxruntime.InferenceSession(item.SerializeToString()) for item in (model, suited.model))
    values = canvas(spec, 3)
    codes = np.clip(np.rint(values / CANVAS_SCALE), -128, 127).astype(np.int8).transpose(0, 2, 3, 1)
    pairs = zip(first.run(None, {SPATIAL_FEATURES: values}), second.run(None, {SPATIAL_FEATURES: codes}), strict=True)
    for expected, found in pairs:
        # A value on the border of two steps may fall either way.
        assert np.linalg.norm(found - expected) <= 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("second", ["blocks", "overlapping"])
def test_values_move_where_a_transposed_convolution_puts_them(second: str) -> None:
    """Whole numbers throughout, so that nothing is rounded: three parts, joined, bit for bit.

    Products of the one of stride 2 may meet; it stays as it is then, and so does the concatenation.
    """
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    one = numpy_helper.from_array(np.ones((), np.float32), "one")
    zero = numpy_helper.from_array(np.zeros((), np.int8), "zero")
    constants, nodes = [one, zero], []
    kernels = {"deep": (4, 4, 0), "middle": (2, 2, 0) if second == "blocks" else (3, 2, 1), "flat": (1, 1, 0)}
    for name, (kernel, stride, pad) in kernels.items():
        codes = rng.integers(-2, 3, (3, 2, kernel, kernel), np.int8)
        values = {"codes": codes, "steps": np.ones(2, np.float32), "zeros": np.zeros(2, np.int8)}
        constants += [numpy_helper.from_array(value, f"{name}.{part}") for part, value in values.items()]
        parts = [f"{name}.{part}" for part in values]
        nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}.weight"], f"{name}.weight", axis=1))
        inputs, pads = [f"{name}.entry", f"{name}.weight"], [pad, pad, 0, 0]
        up = helper.make_node("ConvTranspose", inputs, [f"{name}.sum"], f"/{name}/up", pads=pads, strides=[stride] * 2)
        nodes.append(up)
        nodes.append(helper.make_node("QuantizeLinear", [f"{name}.sum", "one", "zero"], [f"{name}.q"], f"{name}.q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", "one", "zero"], [name], name))
    nodes.append(helper.make_node("Concat", list(kernels), ["out"], "join", axis=1))
    # The parts' inputs are cut out of one: a canvas has one entry.
    cuts = {"deep": (3, 5), "middle": (6, 10), "flat": (12, 20)}
    for name, ends in cuts.items():
        bounds = {"from": (0, 0), "to": ends, "axes": (2, 3)}
        constants += [numpy_helper.from_array(np.array(at, np.int64), f"{name}.{key}") for key, at in bounds.items()]
        nodes.insert(
            0, helper.make_node("Slice", ["in", *(f"{name}.{key}" for key in bounds)], [f"{name}.entry"], f"{name}.cut")
        )
    entry, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, 12, 20))
        for name, channels in (("in", 3), ("out", 6))
    )
    graph = helper.make_graph(nodes, "parts", [entry], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    suited = suit_openvino(model).model
    onnx.checker.check_model(suited, full_check=True)
    left = [item.name for item in suited.graph.node if item.op_type == "ConvTranspose"]
    assert left == ([] if second == "blocks" else ["/middle/up"])
    (joined,) = [item for item in suited.graph.node if item.op_type == "Concat"]
    assert joined.attribute[0].i == (3 if second == "blocks" else 1)
    values = {"in": rng.integers(-3, 4, (1, 3, 12, 20)).astype(np.float32)}
    expected, found = (
        onnxruntime.InferenceSession(item.SerializeToString()).run(None, values) for item in (model, suited)
    )
    assert np.abs(expected[0]).max() > 5
    np.testing.assert_array_equal(found[0], expected[0])


def test_what_openvino_runs_in_int8_already_stays(tmp_path: Path) -> None:
    spec = graph_spec()
    model = small_graph(spec)
    kinds = [item.op_type for item in suit_openvino(model).model.graph.node]
    assert (kinds.count("ConvTranspose"), kinds.count("DepthToSpace")) == (1, 0)
    floats = small_graph(spec, ("block0", "block1", "side", "up", "shared", "hidden"))
    suited = suit_openvino(floats)
    assert suited.scale is None
    assert suited.model == floats


def test_a_canvas_gives_what_its_codes_give(quantized_dir: Path) -> None:
    spec = graph_spec()
    with open_backend("openvino", spec=spec, onnx_dir=quantized_dir) as backend:
        frame = preprocess(cloud(4, 700), spec)
        features = backend.run(VOXEL_ENCODER, {INPUT_FEATURES: frame.features})[PILLAR_FEATURES]
        whole = {name: value.copy() for name, value in backend.infer(frame.features, frame.coords).outputs.items()}
        values = scatter(features, frame.coords, spec)
        for name, value in backend.run(BACKBONE_NECK_HEAD, {SPATIAL_FEATURES: values}).items():
            np.testing.assert_array_equal(value, whole[name])


def test_dropped_candidates_are_counted(spec: ModelSpec, onnx_dir: Path) -> None:
    dropped = BoxCounts(1, 2)
    decoder = Decoder("nothing", lambda outputs, spec: Decoded(Boxes3D.empty(), dropped))
    with open_detector("openvino", spec=spec, onnx_dir=onnx_dir, decoder=decoder) as detector:
        assert detector.detect(cloud(0, 900)).dropped == dropped


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_give_the_same_bits(spec: ModelSpec, onnx_dir: Path, threads: int) -> None:
    def run() -> list[bytes]:
        with open_detector("openvino", spec=spec, onnx_dir=onnx_dir, threads=threads) as detector:
            return [
                value.tobytes() for seed in range(4) for value in detector.inspect(cloud(seed, 3000)).outputs.values()
            ]

    assert run() == run()


def test_an_encoder_of_another_kind_runs_as_a_graph(
    spec: ModelSpec, onnx_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import onnx

    folder = _copy(onnx_dir, tmp_path / "other")
    path = folder / f"{VOXEL_ENCODER}.onnx"
    model = onnx.load(str(path))
    # The same function, told by another node: no chain of PFN layers that the reader knows.
    last = model.graph.node[-1]
    inner, last.output[0] = last.output[0], "inner"
    model.graph.node.append(onnx.helper.make_node("Relu", ["inner"], [inner], "again"))
    onnx.save(model, str(path))
    caplog.set_level(logging.WARNING)
    points = cloud(5, 2000)
    with (
        open_detector("openvino", spec=spec, onnx_dir=folder) as found,
        open_detector("openvino", spec=spec, onnx_dir=onnx_dir) as packed,
    ):
        assert isinstance(found, Pipeline)
        ours, theirs = found.inspect(points), packed.inspect(points)
        for name, value in theirs.outputs.items():
            np.testing.assert_allclose(ours.outputs[name], value, rtol=1e-4, atol=1e-4)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Backend 'openvino' pads pillars and runs the encoder's graph: ")
    assert "node 'again' (Relu)" in message


def test_other_models_and_broken_files_are_refused(spec: ModelSpec, onnx_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs on a CPU: its device is 'cuda:0', use 'cpu'"):
        open_detector("openvino", spec=spec, onnx_dir=onnx_dir, device="cuda:0")
    with pytest.raises(ConfigError, match="'openvino' needs onnx_dir"):
        open_detector("openvino", spec=spec)
    swapped = _copy(onnx_dir, tmp_path / "swapped")
    shutil.copy(swapped / f"{BACKBONE_NECK_HEAD}.onnx", swapped / f"{VOXEL_ENCODER}.onnx")
    with pytest.raises(ConfigError, match=r"inputs are \[\['spatial_features'\]\]; the model has \['input_features'\]"):
        open_detector("openvino", spec=spec, onnx_dir=swapped)
    with pytest.raises(ConfigError, match="The file belongs to another model config"):
        open_detector("openvino", spec=graph_spec(), onnx_dir=onnx_dir)
    path = tmp_path / "cut" / f"{BACKBONE_NECK_HEAD}.onnx"
    _copy(onnx_dir, path.parent)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=f"{BACKBONE_NECK_HEAD}.onnx"):
        open_detector("openvino", spec=spec, onnx_dir=path.parent)
    (path.parent / f"{VOXEL_ENCODER}.onnx").unlink()
    with pytest.raises(ConfigError, match="ONNX file of component 'pts_voxel_encoder' is missing"):
        open_detector("openvino", spec=spec, onnx_dir=path.parent)
