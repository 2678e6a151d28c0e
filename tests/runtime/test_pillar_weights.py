"""Pillar encoders without padding give what padding gives, for any number of layers; other graphs are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from base.errors import DataError
from models.spec import INPUT_FEATURES, ModelSpec
from runtime.pillar_weights import PillarWeights
from runtime.preprocess import decorate_packed, pack, preprocess
from tests.runtime.encoder_graphs import encoder_weights, write_encoder
from tests.runtime.small_model import cloud


@pytest.mark.parametrize("channels", [(32,), (16, 32), (8, 16, 32)])
@pytest.mark.parametrize("count", [1, 300, 20_000])
def test_packed_points_give_what_padded_ones_give(spec: ModelSpec, channels: tuple[int, ...], count: int) -> None:
    points = cloud(1, count)
    weights = encoder_weights(spec.encoder_in_features, channels)
    voxels = pack(points, spec)
    assert (voxels.num_points == spec.max_points_per_voxel).any() == (count == 20_000)
    found = weights.apply_packed(decorate_packed(voxels, spec), voxels, spec.max_points_per_voxel)
    np.testing.assert_allclose(found, weights.apply(preprocess(points, spec).features), rtol=1e-5, atol=1e-5)


def test_packed_points_are_the_rows_that_are_not_padding(spec: ModelSpec) -> None:
    points = cloud(2, 5000)
    voxels, frame = pack(points, spec), preprocess(points, spec)
    rows = np.arange(spec.max_points_per_voxel) < voxels.num_points[:, None]
    pillars, slots = voxels.places.pillars, voxels.places.slots
    # Each of them once, slot after slot.
    np.testing.assert_array_equal(np.lexsort((slots, pillars)), np.lexsort((np.arange(len(slots)), pillars)))
    np.testing.assert_array_equal(np.bincount(pillars), voxels.num_points)
    assert (np.diff(slots) >= 0).all()
    np.testing.assert_array_equal(decorate_packed(voxels, spec), frame.features[pillars, slots])
    assert not frame.features[~rows].any()


@pytest.mark.parametrize("channels", [(4,), (4, 6), (4, 6, 8)])
def test_graphs_are_chains_of_layers(tmp_path: Path, channels: tuple[int, ...]) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "encoder.onnx"
    write_encoder(path, encoder_weights(11, channels))
    features = np.random.default_rng(0).normal(size=(7, 32, 11)).astype(np.float32)
    (expected,) = ort.InferenceSession(str(path)).run(None, {INPUT_FEATURES: features})
    np.testing.assert_allclose(PillarWeights.from_onnx(path).apply(features), expected[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("reduce", "begin", "end", "message"),
    [
        ("ReduceMean", "", "", "nothing takes the maximum over slots of node 'relu_0'"),
        ("ReduceMax", "", "Softplus", r"node 'end' \(Softplus\) takes the result"),
        ("ReduceMax", "Exp", "", r"its input goes to \['begin \(Exp\)'\]"),
    ],
)
def test_other_graphs_are_refused(tmp_path: Path, reduce: str, begin: str, end: str, message: str) -> None:
    path = tmp_path / "encoder.onnx"
    write_encoder(path, encoder_weights(11, (4, 6)), reduce=reduce, begin=begin, end=end)
    with pytest.raises(DataError, match=message):
        PillarWeights.from_onnx(path)
