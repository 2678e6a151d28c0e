"""Running the network of a model, and the simplest calibration: the largest magnitude of one canvas."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from quant.quantizer import named_quantizers
from quant.quantizer.base import Quantizer


def run_network(model: Any, canvas: torch.Tensor) -> dict[str, torch.Tensor]:
    """Head outputs of the stock forward."""
    with torch.no_grad():
        ((outputs,),) = model.pts_bbox_head(model.pts_neck(model.pts_backbone(canvas)))
    return dict(outputs)


def calibrate_by_max(model: nn.Module, *inputs: Any, run: Any = run_network) -> None:
    """Sets every scale to the largest magnitude that its quantizer sees in one run of `run(model, *inputs)`."""
    largest: dict[Quantizer, torch.Tensor] = {}

    def observe(quantizer: Quantizer, x: torch.Tensor) -> None:
        axis = quantizer.spec.axis
        magnitudes = x.detach().abs()
        found = magnitudes.max() if axis is None else magnitudes.amax([dim for dim in range(x.dim()) if dim != axis])
        largest[quantizer] = torch.maximum(largest.get(quantizer, found), found)

    quantizers = list(named_quantizers(model).values())
    for quantizer in quantizers:
        quantizer.observer = lambda x, quantizer=quantizer: observe(quantizer, x)
    run(model, *inputs)
    for quantizer in quantizers:
        quantizer.observer = None
        if quantizer in largest:
            quantizer.set_scale(largest[quantizer] / 127, up=True)


def relative_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest difference of any output, relative to that output's largest magnitude."""
    assert found.keys() == expected.keys()
    return max(float((found[k] - expected[k]).abs().max() / expected[k].abs().max()) for k in expected)
