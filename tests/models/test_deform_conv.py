"""Deformable convolutions against their formula in loops, and a model of them through ONNX Runtime."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.build import build_model, import_mmdet3d
from models.components import extract_components
from models.deform_conv import deform_conv2d, install, modulated_deform_conv2d
from models.spec import BACKBONE_NECK_HEAD, ModelSpec
from tests.runtime.small_model import small_config, small_spec

torch = pytest.importorskip("torch")

Array = NDArray[np.float32]


def by_hand(
    x: Array, offset: Array, mask: Array, weight: Array, stride: int, padding: int, dilation: int, shared: int
) -> NDArray[np.float64]:
    """The sum of the papers, one number after the other; `shared` groups of channels have offsets of their own."""
    channels, height, width = x.shape
    outputs, depth, rows, columns = weight.shape
    groups = channels // depth
    result = np.zeros((outputs, *offset.shape[1:]))

    def at(channel: int, y: float, z: float) -> float:
        total = 0.0
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(z), math.floor(z) + 1):
                if 0 <= row < height and 0 <= column < width:
                    total += float(x[channel, row, column]) * (1 - abs(y - row)) * (1 - abs(z - column))
        return total

    for output, i, j in np.ndindex(*result.shape):
        for inner, row, column in np.ndindex(depth, rows, columns):
            channel = output // (outputs // groups) * depth + inner
            index = channel // (channels // shared) * rows * columns + row * columns + column
            y = i * stride - padding + row * dilation + float(offset[2 * index, i, j])
            z = j * stride - padding + column * dilation + float(offset[2 * index + 1, i, j])
            result[output, i, j] += weight[output, inner, row, column] * mask[index, i, j] * at(channel, y, z)
    return result


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "shared"),
    [((3, 3), 1, 1, 1, 4, 1), ((3, 3), 2, 1, 1, 1, 2), ((2, 3), 1, 2, 2, 2, 4), ((1, 1), 1, 0, 1, 1, 1)],
)
def test_layers_are_the_formula(
    kernel: tuple[int, int], stride: int, padding: int, dilation: int, groups: int, shared: int
) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4, 7, 6)).astype(np.float32)
    weight = rng.normal(size=(8, 4 // groups, *kernel)).astype(np.float32)
    size = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[1:], kernel, strict=True)]
    cells = shared * kernel[0] * kernel[1]
    offset = rng.normal(0, 2, (2 * cells, *size)).astype(np.float32)
    mask = rng.uniform(0, 1, (cells, *size)).astype(np.float32)
    tensors = [torch.from_numpy(values)[None] for values in (x, offset, mask)]
    rest = (stride, padding, dilation, groups, shared)
    plain = deform_conv2d(tensors[0], tensors[1], torch.from_numpy(weight), *rest)[0].numpy()
    wanted = by_hand(x, offset, np.ones_like(mask), weight, stride, padding, dilation, shared)
    np.testing.assert_allclose(plain, wanted, rtol=1e-4, atol=1e-4)
    bias = rng.normal(size=8).astype(np.float32)
    weights = (torch.from_numpy(weight), torch.from_numpy(bias))
    factored = modulated_deform_conv2d(tensors[0], tensors[1], tensors[2], *weights, *rest)[0].numpy()
    wanted = by_hand(x, offset, mask, weight, stride, padding, dilation, shared) + bias[:, None, None]
    np.testing.assert_allclose(factored, wanted, rtol=1e-4, atol=1e-4)


def test_without_offsets_it_is_a_convolution_with_gradients() -> None:
    x = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    import_mmdet3d()
    install()
    from mmcv.ops import DeformConv2dPack

    layer = DeformConv2dPack(4, 8, 3, padding=1, groups=2)
    found = layer(x)
    torch.testing.assert_close(found, torch.nn.functional.conv2d(x, layer.weight, padding=1, groups=2))
    found.sum().backward()
    assert float(layer.conv_offset.weight.grad.abs().sum()) > 0


@pytest.fixture(scope="module")
def deformable() -> tuple[ModelSpec, Any]:
    """mmdet3d's DCNSeparateHead on a small CenterPoint, with offsets of some cells."""
    cfg: Any = small_config(small_spec(voxel_size=(0.64, 0.6, 8.0)))
    dcn = {"type": "DCN", "in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1, "groups": 4}
    cfg.model.pts_bbox_head.separate_head = {"type": "DCNSeparateHead", "dcn_config": dcn, "init_bias": -1.0}
    model = build_model(cfg)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "conv_offset" in name:
                value.add_(torch.randn(value.shape, generator=generator) * 0.3)
    return ModelSpec.from_config(cfg), model


def test_a_deformable_head_exports_and_onnx_runtime_agrees(deformable: tuple[ModelSpec, Any], tmp_path: Path) -> None:
    import onnxruntime

    from export.onnx_export import export_components

    spec, model = deformable
    export_components(model, spec, tmp_path)
    canvas = torch.randn(spec.canvas_shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = extract_components(model, spec)[BACKBONE_NECK_HEAD](canvas)
    path = tmp_path / f"{BACKBONE_NECK_HEAD}.onnx"
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for name, ours, theirs in zip(
        spec.heads, wanted, session.run(None, {"spatial_features": canvas.numpy()}), strict=True
    ):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-3, atol=1e-4, err_msg=name.name)


def test_the_vehicle_s_rotation_is_folded_into_deformable_heads(deformable: tuple[ModelSpec, Any]) -> None:
    from export.rotation import fold_rot_y_axis_reference

    spec, model = deformable
    folded, changed = fold_rot_y_axis_reference(model, spec)
    canvas = torch.randn(spec.canvas_shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before, after = (
            dict(
                zip(
                    (head.name for head in spec.heads),
                    extract_components(m, s)[BACKBONE_NECK_HEAD](canvas),
                    strict=True,
                )
            )
            for m, s in ((model, spec), (folded, changed))
        )
    torch.testing.assert_close(after["rot"], -before["rot"][:, [1, 0]])
    torch.testing.assert_close(after["dim"], before["dim"][:, [1, 0, 2]])
