"""Targets of a batch drawn on the device, and CenterPoint's two losses (arXiv 2006.11275, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.spec import ModelSpec
from training.targets import gaussian_radii

__all__ = ["BatchTargets", "batch_losses", "batch_targets"]

_REGRESSION = ("reg", "height", "dim", "rot", "vel")


@dataclass(frozen=True)
class BatchTargets:
    """Of B frames with R boxes in range altogether.

    Attributes:
        heatmap: (B, K, h, w).
        values: (R, 10) [reg 2, z, dim 3, sin, cos, vx, vy], NaN where nothing is to be learned.
        cells: (R,) int64, into the flattened (B, h, w).
    """

    heatmap: torch.Tensor
    values: torch.Tensor
    cells: torch.Tensor


def batch_targets(
    boxes: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int64]],
    spec: ModelSpec,
    train_cfg: Mapping[str, Any],
    device: torch.device,
) -> BatchTargets:
    """Targets of frames whose boxes (M, 9) have been moved already.

    The same as `training.targets.center_targets`, of a batch: a heatmap is the maximum of its boxes' bells.
    """
    width, height = spec.head_size
    frame = np.concatenate([np.full(len(part), index) for index, part in enumerate(boxes)]).astype(np.int64)
    box, label = np.concatenate(boxes), np.concatenate(labels)
    lower = np.asarray(spec.point_cloud_range[:2], np.float32)
    step = np.asarray(spec.voxel_size[:2], np.float32)
    factor = np.float32(spec.out_size_factor)
    centers = (box[:, :2] - lower) / step / factor
    cells = np.floor(centers).astype(np.int64)
    inside = (cells >= 0).all(axis=1) & (cells[:, 0] < width) & (cells[:, 1] < height)
    frame, box, label, centers, cells = frame[inside], box[inside], label[inside], centers[inside], cells[inside]
    sizes = box[:, 3:5] / step / factor
    overlap, least = float(train_cfg["gaussian_overlap"]), int(train_cfg["min_radius"])
    radius = np.maximum(least, gaussian_radii(sizes, overlap).astype(np.int64))
    dims = np.log(box[:, 3:6]) if spec.norm_bbox else box[:, 3:6]
    yaw = box[:, 6:7]
    values = np.concatenate([centers - cells, box[:, 2:3], dims, np.sin(yaw), np.cos(yaw), box[:, 7:9]], axis=1)

    heatmap = torch.zeros((len(boxes), len(spec.class_names), height, width), device=device)
    if len(box):
        _draw(heatmap, frame, label, cells, radius)
    flat = (frame * height + cells[:, 1]) * width + cells[:, 0]
    return BatchTargets(
        heatmap, torch.from_numpy(values.astype(np.float32)).to(device), torch.from_numpy(flat).to(device)
    )


def _draw(
    heatmap: torch.Tensor,
    frame: NDArray[np.int64],
    label: NDArray[np.int64],
    cells: NDArray[np.int64],
    radius: NDArray[np.int64],
) -> None:
    """Raises `heatmap` to the boxes' bells, in place."""
    _, classes, height, width = heatmap.shape
    plane, x, y, reach = (
        torch.from_numpy(value).to(heatmap.device)[:, None, None]
        for value in (frame * classes + label, cells[:, 0], cells[:, 1], radius)
    )
    most = int(radius.max())
    offset = torch.arange(-most, most + 1, device=heatmap.device)
    dy, dx = offset[None, :, None], offset[None, None, :]
    sigma = (2 * reach + 1) / 6.0
    bell = torch.exp(-(dx * dx + dy * dy) / (2.0 * sigma * sigma))
    column, row = x + dx, y + dy
    kept = (dx.abs() <= reach) & (dy.abs() <= reach)
    kept = kept & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = (plane * height + row) * width + column
    # What lies outside raises the first cell to zero: dropping it would wait for the device to count it.
    heatmap.view(-1).scatter_reduce_(0, (flat * kept).flatten(), (bell * kept).flatten(), reduce="amax")


def batch_losses(
    heads: Mapping[str, torch.Tensor], targets: BatchTargets, weights: torch.Tensor, box_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Focal loss of the heatmap and L1 loss of the boxes, as mmdet3d's `CenterHead` has them.

    Args:
        heads: Branch -> (B, c, h, w) float32 raw outputs.
        targets: Of the same frames.
        weights: (10,) of the regressed numbers.
        box_weight: Of the second loss.
    """
    found = torch.clamp(heads["heatmap"].sigmoid(), 1e-4, 1.0 - 1e-4)
    is_center = targets.heatmap.eq(1.0)
    near = -torch.log(found + 1e-12) * (1.0 - found) ** 2 * is_center
    far = -torch.log(1.0 - found + 1e-12) * found**2 * (1.0 - targets.heatmap) ** 4
    heatmap_loss = (near + far).sum() / is_center.sum().clamp(min=1)
    rows = torch.cat([heads[name] for name in _REGRESSION], dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    known = ~torch.isnan(targets.values)
    errors = (rows[targets.cells] - torch.nan_to_num(targets.values)).abs() * known * weights
    return heatmap_loss, box_weight * errors.sum() / (len(targets.values) + 1e-4)
