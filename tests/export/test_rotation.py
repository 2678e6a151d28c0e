from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.errors import ExportError
from export.rotation import fold_rot_y_axis_reference
from models.components import extract_components
from models.spec import ModelSpec


def _head_outputs(model: nn.Module, spec: ModelSpec, canvas: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        values = extract_components(model, spec)["pts_backbone_neck_head"](canvas)
    return dict(zip([head.name for head in spec.heads], values, strict=True))


def test_folding_permutes_and_negates_channels_to_the_last_bit(tiny: tuple[Any, ModelSpec]) -> None:
    model, spec = tiny
    canvas = torch.randn((1, 32, 32, 32), generator=torch.Generator().manual_seed(0))
    before = _head_outputs(model, spec, canvas)
    folded, folded_spec = fold_rot_y_axis_reference(model, spec)
    after = _head_outputs(folded, folded_spec, canvas)
    assert folded_spec.rot_y_axis_reference
    assert not spec.rot_y_axis_reference
    assert torch.equal(after["dim"], before["dim"][:, [1, 0, 2]])
    assert torch.equal(after["rot"], -before["rot"][:, [1, 0]])
    for name in ("heatmap", "reg", "height", "vel"):
        assert torch.equal(after[name], before[name])
    # The original keeps its weights.
    assert torch.equal(_head_outputs(model, spec, canvas)["rot"], before["rot"])


def test_the_decoded_yaw_is_clockwise_from_the_y_axis(tiny: tuple[Any, ModelSpec]) -> None:
    """atan2 of the folded channels is -t - pi/2 for the yaw t that the original channels hold."""
    model, spec = tiny
    canvas = torch.randn((1, 32, 32, 32), generator=torch.Generator().manual_seed(1))
    sin_cos = _head_outputs(model, spec, canvas)["rot"][0]
    folded = _head_outputs(*fold_rot_y_axis_reference(model, spec), canvas)["rot"][0]
    yaw = torch.atan2(sin_cos[0], sin_cos[1])
    expected = -yaw - math.pi / 2
    difference = torch.atan2(folded[0], folded[1]) - expected
    wrapped = torch.remainder(difference + math.pi, 2 * math.pi) - math.pi
    assert float(wrapped.abs().max()) < 1e-5


def test_folding_twice_is_refused(tiny: tuple[Any, ModelSpec]) -> None:
    folded, spec = fold_rot_y_axis_reference(*tiny)
    with pytest.raises(ExportError, match="has the y-axis rotation reference already"):
        fold_rot_y_axis_reference(folded, spec)


def test_a_head_of_another_width_is_named(tiny: tuple[Any, ModelSpec]) -> None:
    model, spec = tiny
    broken = copy.deepcopy(model)
    broken.pts_bbox_head.task_heads[0].dim[-1] = torch.nn.Conv2d(16, 6, 1)
    with pytest.raises(ExportError, match="head 'dim' ends in 6 channels, expected a convolution with 3"):
        fold_rot_y_axis_reference(broken, spec)
