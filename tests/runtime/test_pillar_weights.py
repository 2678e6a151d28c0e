"""Pillar encoders without padding give what padding gives, for any number of layers; other graphs are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from base.errors import DataError
from models.spec import ModelSpec
from runtime.pillar_weights import PfnLayer, PillarWeights
from runtime.preprocess import decorate_packed, pack, preprocess
from tests.runtime.small_model import cloud


def _weights(features: int, channels: tuple[int, ...]) -> PillarWeights:
    rng = np.random.default_rng(0)
    sizes = (features, *(2 * size for size in channels[:-1]))
    layers = (
        PfnLayer(rng.normal(0, 0.3, (rows, columns)).astype(np.float32), rng.normal(0, 0.5, columns).astype(np.float32))
        for rows, columns in zip(sizes, channels, strict=True)
    )
    return PillarWeights(tuple(layers))


@pytest.mark.parametrize("channels", [(32,), (16, 32), (8, 16, 32)])
@pytest.mark.parametrize("count", [1, 300, 20_000])
def test_packed_points_give_what_padded_ones_give(spec: ModelSpec, channels: tuple[int, ...], count: int) -> None:
    points = cloud(1, count)
    weights = _weights(spec.encoder_in_features, channels)
    voxels = pack(points, spec)
    assert (voxels.num_points == spec.max_points_per_voxel).any() == (count == 20_000)
    found = weights.apply_packed(decorate_packed(voxels, spec), voxels, spec.max_points_per_voxel)
    np.testing.assert_allclose(found, weights.apply(preprocess(points, spec).features), rtol=1e-5, atol=1e-5)


def test_packed_points_are_the_rows_that_are_not_padding(spec: ModelSpec) -> None:
    points = cloud(2, 5000)
    voxels, frame = pack(points, spec), preprocess(points, spec)
    rows = np.arange(spec.max_points_per_voxel) < voxels.num_points[:, None]
    np.testing.assert_array_equal(decorate_packed(voxels, spec), frame.features[rows])
    assert not frame.features[~rows].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 1}, None),
        ({"layers": 2}, None),
        ({"layers": 3}, None),
        ({"layers": 1, "reduce": "ReduceMean"}, "nothing takes the maximum over slots of node 'relu_0'"),
        ({"layers": 2, "end": "Softplus"}, r"node 'end' \(Softplus\) takes the result"),
        ({"layers": 2, "begin": "Exp"}, r"its input goes to \['begin \(Exp\)'\]"),
    ],
)
def test_graphs_are_chains_of_layers_or_refused(
    tmp_path: Path, changes: dict[str, object], message: str | None
) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "encoder.onnx"
    weights = _weights(11, (4, 6, 8)[: int(str(changes["layers"]))])
    _write(path, weights, **{key: str(value) for key, value in changes.items() if key != "layers"})
    if message is not None:
        with pytest.raises(DataError, match=message):
            PillarWeights.from_onnx(path)
        return
    ort = pytest.importorskip("onnxruntime")
    features = np.random.default_rng(0).normal(size=(7, 32, 11)).astype(np.float32)
    (expected,) = ort.InferenceSession(str(path)).run(None, {"features": features})
    np.testing.assert_allclose(PillarWeights.from_onnx(path).apply(features), expected[:, 0], rtol=1e-5, atol=1e-5)


def _write(path: Path, weights: PillarWeights, *, reduce: str = "ReduceMax", begin: str = "", end: str = "") -> None:
    """An encoder as the quantization writes it, with the given nodes in its place of theirs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, slots = [], [], "features"
    if begin:
        nodes.append(helper.make_node(begin, [slots], ["begun"], "begin"))
        slots = "begun"
    last = len(weights.layers) - 1
    for index, layer in enumerate(weights.layers):
        constants += [
            numpy_helper.from_array(layer.weight, f"w{index}"),
            numpy_helper.from_array(layer.bias, f"b{index}"),
        ]
        nodes += [
            helper.make_node("MatMul", [slots, f"w{index}"], [f"p{index}"], f"product_{index}"),
            helper.make_node("Add", [f"p{index}", f"b{index}"], [f"s{index}"], f"sum_{index}"),
            helper.make_node("Relu", [f"s{index}"], [f"r{index}"], f"relu_{index}"),
            helper.make_node(reduce, [f"r{index}"], [f"m{index}"], f"largest_{index}", axes=[1]),
        ]
        if index < last:
            nodes += [
                helper.make_node("Shape", [f"r{index}"], [f"shape{index}"], f"shape_{index}"),
                helper.make_node("Expand", [f"m{index}", f"shape{index}"], [f"e{index}"], f"expand_{index}"),
                helper.make_node("Concat", [f"r{index}", f"e{index}"], [f"c{index}"], f"join_{index}", axis=2),
            ]
        slots = f"c{index}"
    nodes.append(helper.make_node(end or "Identity", [f"m{last}"], ["pillars"], "end"))
    value = helper.make_tensor_value_info
    inputs = [value("features", TensorProto.FLOAT, ["n", 32, weights.features])]
    outputs = [value("pillars", TensorProto.FLOAT, ["n", 1, weights.channels])]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
