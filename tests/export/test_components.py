from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from base.errors import ExportError
from export.components import CenterPointComponentExtractor
from models.spec import ModelSpec


def test_components_run_on_their_samples_and_give_the_shapes_of_the_specification(tiny: tuple[Any, ModelSpec]) -> None:
    model, spec = tiny
    for component in CenterPointComponentExtractor(model, spec).extract():
        with torch.no_grad():
            outputs = component.module(*component.sample_inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        count = component.sample_inputs[0].shape[0]
        expected = [tuple(count if s is None else s for s in t.shape) for t in component.spec.outputs]
        assert [tuple(o.shape) for o in outputs] == expected
        assert component.file_name == f"{component.name}.onnx"


def test_chained_components_equal_the_stock_model(tiny: tuple[Any, ModelSpec]) -> None:
    """Encoder, scatter by hand and the rest against mmdet3d's own extraction and head."""
    model, spec = tiny
    encoder, rest = CenterPointComponentExtractor(model, spec).extract()
    generator = torch.Generator().manual_seed(1)
    num = 20
    points = torch.rand((num, 32, 5), generator=generator) * 4 - 2
    counts = torch.randint(1, 33, (num,), generator=generator)
    points *= (torch.arange(32)[None] < counts[:, None])[..., None]
    cells = torch.randperm(32 * 32, generator=generator)[:num]
    coords = torch.stack([torch.zeros_like(cells), torch.zeros_like(cells), cells // 32, cells % 32], 1)
    with torch.no_grad():
        stock = model.pts_voxel_encoder(points, counts, coords)
        # Decorated as PillarFeatureNet does it: point, offset to the mean, offset to the pillar's centre.
        mean = points[..., :3].sum(1, keepdim=True) / counts[:, None, None]
        centre = torch.stack(
            [(cells % 32) * 0.32 + 0.16 - 5.12, (cells // 32) * 0.32 + 0.16 - 5.12, torch.full((num,), 1.0)], 1
        )
        features = torch.cat([points, points[..., :3] - mean, points[..., :3] - centre[:, None]], -1)
        features *= (torch.arange(32)[None] < counts[:, None])[..., None]
        pillars = encoder.module(features)
        torch.testing.assert_close(pillars.squeeze(1), stock, rtol=0, atol=2e-5)
        canvas = torch.zeros(1, 32, 32 * 32)
        canvas[0, :, cells] = pillars.squeeze(1).T
        outputs = dict(zip(rest.output_names, rest.module(canvas.view(1, 32, 32, 32)), strict=True))
        ((expected,),) = model.pts_bbox_head(model.pts_neck(model.pts_backbone(canvas.view(1, 32, 32, 32))))
    assert list(outputs) == ["heatmap", "reg", "height", "dim", "rot", "vel"]
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, rtol=0, atol=0)


def test_only_the_number_of_pillars_is_dynamic(tiny: tuple[Any, ModelSpec]) -> None:
    encoder, rest = CenterPointComponentExtractor(*tiny).extract()
    assert encoder.dynamic_axes == {"input_features": {0: "num_voxels"}, "pillar_features": {0: "num_voxels"}}
    assert rest.dynamic_axes == {}


def test_static_voxels_fix_that_axis(tiny: tuple[Any, ModelSpec]) -> None:
    encoder, _ = CenterPointComponentExtractor(*tiny, static_voxels=48).extract()
    assert encoder.dynamic_axes == {}
    assert encoder.spec.inputs[0].shape == (48, 32, 11)
    assert encoder.spec.outputs[0].shape == (48, 1, 32)
    assert tuple(encoder.sample_inputs[0].shape) == (48, 32, 11)


def test_real_samples_are_used_and_copied(tiny: tuple[Any, ModelSpec]) -> None:
    features = np.arange(3 * 32 * 11, dtype=np.float32).reshape(3, 32, 11)
    encoder, _ = CenterPointComponentExtractor(*tiny).extract({"input_features": features})
    np.testing.assert_array_equal(encoder.sample_inputs[0].numpy(), features)
    features[:] = 0
    assert float(encoder.sample_inputs[0].max()) > 0


@pytest.mark.parametrize("shape", [(3, 32, 10), (3, 20, 11), (0, 32, 11), (32, 11)])
def test_a_sample_of_another_shape_names_both(tiny: tuple[Any, ModelSpec], shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ExportError, match=r"'input_features' has shape \[.*\]; the model config implies \['any', 32, 11\]"
    ):
        CenterPointComponentExtractor(*tiny).extract({"input_features": np.zeros(shape, np.float32)})


def test_an_unknown_sample_lists_the_inputs(tiny: tuple[Any, ModelSpec]) -> None:
    with pytest.raises(ExportError, match=r"\['voxels'\].*\['input_features', 'spatial_features'\]"):
        CenterPointComponentExtractor(*tiny).extract({"voxels": np.zeros((1, 32, 11), np.float32)})


def test_static_voxels_must_be_positive(tiny: tuple[Any, ModelSpec]) -> None:
    with pytest.raises(ExportError, match="static_voxels is 0"):
        CenterPointComponentExtractor(*tiny, static_voxels=0)
