"""The kernels at both ends of the engine, run on the CPU, and the reading of pillar encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import ConfigError, DataError
from models.spec import HeadSpec, ModelSpec
from runtime.cuda_engine.checks.cases import engine_spec, random_weights
from runtime.cuda_engine.checks.detection_checks import (
    DetectionBench,
    check_random_maps,
    check_special_maps,
    random_maps,
)
from runtime.cuda_engine.checks.pillar_checks import PillarBench, check_random_clouds, check_special_clouds
from runtime.cuda_engine.decode_parameters import logit_limit
from runtime.cuda_engine.detections import DetectionKernels
from runtime.cuda_engine.macros import Unsigned, define, kernel_source
from runtime.cuda_engine.pillars import CanvasMemory, PillarEncoderKernels
from runtime.decode import sigmoid
from runtime.pillar_weights import PillarWeights
from runtime.preprocess import preprocess
from tests.runtime.emulated_device import EmulatedDevice
from tests.runtime.fake_engine import FakeDevice
from tests.runtime.small_model import cloud


@pytest.fixture
def device() -> Any:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return EmulatedDevice()


def test_pillars_at_the_limits(device: Any) -> None:
    check_special_clouds(device, capacity=7000)


def test_random_clouds(device: Any) -> None:
    check_random_clouds(device, count=12, most=1500)


def test_detections_at_the_limits(device: Any) -> None:
    check_special_maps(device, cells=32)


def test_peaks_of_maps_whose_cells_are_odd(device: Any) -> None:
    bench = DetectionBench(device, engine_spec(15, decoding="class_peaks", score_threshold=0.01))
    for seed in range(3):
        bench.run(random_maps(bench._spec, seed), str(seed))
        assert bench.kernels.num_candidates > 20


def test_random_maps(device: Any) -> None:
    check_random_maps(device, count=12)


def test_exported_encoder_gives_onnx_runtimes_features(device: Any, onnx_dir: Path, spec: ModelSpec) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = onnx_dir / "pts_voxel_encoder.onnx"
    weights = PillarWeights.from_onnx(path)
    points = cloud(0, 3000)
    frame = preprocess(points, spec)
    (expected,) = ort.InferenceSession(str(path)).run(None, {"input_features": frame.features})
    np.testing.assert_allclose(weights.apply(frame.features), expected[:, 0], atol=1e-5)

    bench = PillarBench(device, spec, weights, 0.02, 4000)
    bench.run(points)
    bench.compare(points, "cloud")
    found = bench.read(bench.kernels.features, expected[:, 0].shape, np.float32).astype(np.float32)
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)


def _graph(path: Path, *, float16: bool, weights: PillarWeights, second: str = "MatMul", swapped: bool = False) -> None:
    """A folded encoder as the quantization writes it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    dtype = np.float16 if float16 else np.float32
    first, last = weights.layers
    parts = {"w1": first.weight, "b1": first.bias, "w2": last.weight, "b2": last.bias}
    constants = [numpy_helper.from_array(value.astype(dtype), name) for name, value in parts.items()]
    joined = ["spread", "slots"] if swapped else ["slots", "spread"]
    nodes = [
        helper.make_node("Cast", ["features"], ["x"], "cast", to=TensorProto.FLOAT16 if float16 else TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w1"], ["p1"], "first"),
        helper.make_node("Add", ["b1", "p1"], ["s1"], "bias"),
        helper.make_node("Relu", ["s1"], ["slots"], "relu"),
        helper.make_node("ReduceMax", ["slots"], ["m1"], "largest", axes=[1]),
        helper.make_node("Shape", ["slots"], ["shape"], "shape"),
        helper.make_node("Expand", ["m1", "shape"], ["spread"], "expand"),
        helper.make_node("Concat", joined, ["both"], "join", axis=2),
        helper.make_node(second, ["both", "w2"], ["p2"], "second"),
        helper.make_node("Add", ["p2", "b2"], ["s2"], "bias_2"),
        helper.make_node("Relu", ["s2"], ["r2"], "relu_2"),
        helper.make_node("ReduceMax", ["r2"], ["m2"], "largest_2", axes=[1]),
        helper.make_node("Cast", ["m2"], ["pillars"], "cast_2", to=TensorProto.FLOAT),
    ]
    value = helper.make_tensor_value_info
    slots: list[str | int | None] = ["n", 32, weights.features]
    inputs = [value("features", TensorProto.FLOAT, slots)]
    outputs = [value("pillars", TensorProto.FLOAT, ["n", 1, weights.channels])]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def test_float16_graph_is_computed_as_onnx_runtime_does(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    spec = engine_spec(64)
    path = tmp_path / "pts_voxel_encoder.onnx"
    _graph(path, float16=True, weights=random_weights(spec, 16, float16=True))
    features = preprocess(cloud(0, 2000), spec).features
    (expected,) = ort.InferenceSession(str(path)).run(None, {"features": features})
    weights = PillarWeights.from_onnx(path)
    assert not weights.float16
    assert PillarWeights.from_onnx(path, round_float16=True).float16
    np.testing.assert_allclose(weights.apply(features), expected[:, 0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second": "Mul"}, "'expand' \\(Expand\\) takes the result"),
        ({"swapped": True}, "'join' does not join the ReLU after 'first'"),
    ],
)
def test_other_encoders_are_refused_by_node(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "encoder.onnx"
    _graph(path, float16=False, weights=random_weights(engine_spec(64), 16), **changes)
    with pytest.raises(DataError, match=message):
        PillarWeights.from_onnx(path)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.35, 0.5, 0.999])
def test_logit_limit_is_the_first_above_the_threshold(threshold: float) -> None:
    limit = logit_limit(threshold)
    assert limit is not None
    pair = np.array([np.nextafter(limit, np.float32(-np.inf)), limit], np.float32)
    assert (sigmoid(pair) > np.float32(threshold)).tolist() == [False, True]


def test_no_logit_is_above_one() -> None:
    assert logit_limit(1.0) is None


def test_definitions_keep_every_bit() -> None:
    assert define(np.float32(0.1)) == "(0x1.99999a0000000p-4f)"
    assert define(0.1) == f"({(0.1).hex()})"
    assert (define(Unsigned(4294967295)), define(True), define(-3)) == ("4294967295u", "1", "-3")
    for value in ("text", np.float32(np.inf)):
        with pytest.raises(TypeError):
            define(value)
    assert kernel_source({"A": 1}, "intrinsics.cuh").startswith("#define A 1\n")


def test_sizes_beyond_the_kernels_are_refused() -> None:
    spec = engine_spec(64)
    fake: Any = FakeDevice(spec)
    canvas = CanvasMemory(0, 0, None)
    other = engine_spec(64, max_points_per_voxel=140)
    with pytest.raises(ConfigError, match="max_points_per_voxel: 140"):
        PillarEncoderKernels(fake, other, random_weights(other, 16), canvas, capacity=1000)
    with pytest.raises(ConfigError, match="takes 11 features and gives 32"):
        PillarEncoderKernels(
            fake, engine_spec(64, encoder_channels=64), random_weights(spec, 16), canvas, capacity=1000
        )
    with pytest.raises(ConfigError, match="max_num of the bbox coder is 5000"):
        DetectionKernels(fake, engine_spec(64, max_detections_before_nms=5000))
    with pytest.raises(ConfigError, match=r"no head \['rot'\]"):
        DetectionKernels(fake, spec.changed(heads=tuple(HeadSpec(n, 2) for n in ("heatmap", "height", "dim"))))


def test_clouds_that_do_not_fit_are_refused(device: Any) -> None:
    spec = engine_spec(64)
    bench = PillarBench(device, spec, random_weights(spec, 16), None, 100)
    with pytest.raises(DataError, match="101 points"):
        bench.run(np.zeros((101, 5), np.float32))
    with pytest.raises(DataError, match="float64"):
        bench.run(np.zeros((10, 5)))  # type: ignore[arg-type]
    bench.run(np.zeros((10, 5), np.float32))
    assert device.launches == ["pillars_assign", "pillars_rank", "pillars_group", "pillars_encode"]
