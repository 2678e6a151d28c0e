"""Scatter against mmdet3d's PointPillarsScatter."""

from __future__ import annotations

import numpy as np
import pytest

from base.errors import DataError
from models.build import import_mmdet3d
from models.spec import ModelSpec
from runtime.preprocess import voxelize
from runtime.scatter import Canvas, CodeCanvas, scatter
from tests.runtime.small_model import cloud

torch = pytest.importorskip("torch")


def test_scatter_is_mmdet3ds_for_numpy_torch_and_a_reused_canvas(spec: ModelSpec) -> None:
    import_mmdet3d()
    from mmdet3d.models.middle_encoders import PointPillarsScatter

    stock = PointPillarsScatter(spec.encoder_channels, list(spec.canvas_shape[2:]))
    canvas = Canvas(spec)
    for seed, count in ((0, 4000), (1, 300), (2, 2000)):
        coords = voxelize(cloud(seed, count), spec).coords
        pillars = np.random.default_rng(seed).normal(size=(len(coords), spec.encoder_channels)).astype(np.float32)
        cells = torch.from_numpy(coords)
        expected = stock(torch.from_numpy(pillars), torch.nn.functional.pad(cells, (1, 0)), 1).numpy()
        np.testing.assert_array_equal(scatter(pillars, coords, spec), expected, strict=True)
        np.testing.assert_array_equal(scatter(pillars[:, None], coords, spec), expected, strict=True)
        np.testing.assert_array_equal(scatter(torch.from_numpy(pillars), cells, spec).numpy(), expected, strict=True)
        assert canvas.fill(pillars, coords) is canvas.array
        np.testing.assert_array_equal(canvas.array, expected, strict=True)


def test_a_canvas_of_codes_is_what_a_quantizer_makes_of_the_other(spec: ModelSpec) -> None:
    """Against torch's quantizer, halves and values far out of range among them."""
    scale = 0.0625
    codes = CodeCanvas(spec, np.float32(scale))
    for seed, count in ((0, 4000), (1, 300)):
        coords = voxelize(cloud(seed, count), spec).coords
        pillars = np.random.default_rng(seed).normal(0, 5, (len(coords), spec.encoder_channels)).astype(np.float32)
        pillars[:, :4] = (-1e38, 0.5 * scale, 1.5 * scale, 1e38)
        floats = torch.from_numpy(scatter(pillars, coords, spec))
        expected = torch.fake_quantize_per_tensor_affine(floats, scale, 0, -128, 127).numpy()
        found = codes.fill(pillars, coords)
        assert found is codes.array
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found.transpose(0, 3, 1, 2) * np.float32(scale), expected)


def test_wrong_pillars_are_refused(spec: ModelSpec) -> None:
    pillars = np.ones((2, spec.encoder_channels), np.float32)
    with pytest.raises(DataError, match=r"Pillar 1 lies at cell \(y 3, x 80\), outside the canvas of 60 x 80"):
        scatter(pillars, np.array([[0, 1, 2], [0, 3, 80]], np.int32), spec)
    with pytest.raises(DataError, match=r"pillar features \(2, 8\) with coordinates \(3, 3\)"):
        scatter(pillars, np.zeros((3, 3), np.int32), spec)
