"""What a reconstruction minimizes: a block's error where it matters, and the error of the network's detections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from models.spec import branch_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HEATMAP", "TaskLoss", "cell_weights", "joined_heatmaps", "local_loss", "task_loss"]

HEATMAP = "heatmap"

# Of the regressed values in the task loss; velocities weigh as in the training of the head.
_REGRESSION_WEIGHTS = {"vel": 0.2}


def joined_heatmaps(outputs: Mapping[str, Tensor]) -> Tensor:
    """(B, classes, h, w) of the heatmaps of all tasks."""
    return torch.cat([value for name, value in outputs.items() if branch_of(name) == HEATMAP], dim=1)


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
    """Error of the head's outputs with the float model's detections as truth; that of several tasks is their sum.

    Args:
        outputs: Raw head outputs of the quantized network, (B, C, h, w) each, by their names in the graph.
        targets: The float network's.
        threshold: Cells whose float score is above it are detections.
    """
    device = next(iter(targets.values())).device
    heatmap, regression = torch.zeros((), device=device), torch.zeros((), device=device)
    for heat in (name for name in targets if branch_of(name) == HEATMAP):
        task = heat.removeprefix(HEATMAP)
        truth = targets[heat].sigmoid()
        score = truth.amax(dim=1, keepdim=True)
        positive = score * (score > threshold)
        total = positive.sum().clamp_min(1.0)
        heatmap = heatmap + (outputs[heat].sigmoid() - truth).square().sum() / total
        for name, target in targets.items():
            branch = branch_of(name)
            if branch != HEATMAP and name == branch + task:
                error = ((outputs[name] - target).abs() * positive).sum() / total
                regression = regression + _REGRESSION_WEIGHTS.get(branch, 1.0) * error
    return TaskLoss(heatmap, regression)
