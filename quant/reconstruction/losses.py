"""What a reconstruction minimizes: a block's error where it matters, and the error of the network's detections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HEATMAP", "TaskLoss", "cell_weights", "local_loss", "task_loss"]

HEATMAP = "heatmap"

# Of the regressed values in the task loss; velocities weigh as in the training of the head.
_REGRESSION_WEIGHTS = {"vel": 0.2}


def cell_weights(canvas: Tensor, heatmap: Tensor, threshold: float, background: float, foreground: float) -> Tensor:
    """Weights of the heatmap's cells: `foreground` at detections, 1 where points are near, `background` elsewhere.

    Args:
        canvas: (B, C, H, W).
        heatmap: Float logits, (B, classes, h, w).
        threshold: Score of a detection.
        background: Weight without points.
        foreground: Weight at a detection and the cells beside it.

    Returns:
        (B, 1, h, w).
    """
    occupied = (canvas.abs().amax(dim=1, keepdim=True) > 0).float()
    occupied = F.max_pool2d(F.adaptive_max_pool2d(occupied, heatmap.shape[-2:]), 3, stride=1, padding=1)
    detected = (heatmap.sigmoid().amax(dim=1, keepdim=True) > threshold).float()
    detected = F.max_pool2d(detected, 3, stride=1, padding=1)
    weights = background + (1.0 - background) * occupied
    return torch.where(detected > 0, foreground, weights)


def local_loss(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    """Weighted squared error over the target's weighted variance, summed over a block's outputs.

    Args:
        outputs: Of the quantized block, (B, C, h, w) each.
        targets: Of the float one.
        weights: (B, 1, h', w') of the heatmap's cells; pooled to each output's size.
    """
    total = torch.zeros((), device=weights.device)
    for name, target in targets.items():
        cells = F.adaptive_max_pool2d(weights, target.shape[-2:])
        cells = cells / cells.sum()
        mean = (target * cells).sum(dim=(0, 2, 3), keepdim=True)
        power = ((target - mean).square() * cells).sum().clamp_min(1e-12)
        total = total + ((outputs[name] - target).square() * cells).sum() / power
    return total


@dataclass(frozen=True, eq=False)
class TaskLoss:
    """The two parts of the task loss, scalars.

    Attributes:
        heatmap: Squared error of the scores, per detection cell.
        regression: Absolute error of the regressed values at the detections of the float model.
    """

    heatmap: Tensor
    regression: Tensor


def task_loss(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], threshold: float) -> TaskLoss:
    """Error of the head's outputs with the float model's detections as truth.

    Args:
        outputs: Raw head outputs of the quantized network, (B, C, h, w) each.
        targets: The float network's.
        threshold: Cells whose float score is above it are detections.
    """
    truth = targets[HEATMAP].sigmoid()
    score = truth.amax(dim=1, keepdim=True)
    positive = score * (score > threshold)
    total = positive.sum().clamp_min(1.0)
    heatmap = (outputs[HEATMAP].sigmoid() - truth).square().sum() / total
    regression = torch.zeros((), device=truth.device)
    for name, target in targets.items():
        if name != HEATMAP:
            error = ((outputs[name] - target).abs() * positive).sum() / total
            regression = regression + _REGRESSION_WEIGHTS.get(name, 1.0) * error
    return TaskLoss(heatmap, regression)
