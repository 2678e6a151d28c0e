"""PillarFeatureNet over points instead of padded pillars, for training: the same features, statistics and gradients.

mmdet3d's encoder takes (M, P, C) with P points a pillar, of which nearly all are padding: rows of zeros that batch
normalization counts and the maximum sees. Equal rows need computing once: here every point is a row and all the padding
of a pillar is one more, weighted by how often it occurs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from training.on_device.pillars import BatchPillars

__all__ = ["PointRows", "encode", "pillar_rows"]


@dataclass(frozen=True)
class PointRows:
    """Points of M pillars, and of each pillar one row of padding behind them.

    Attributes:
        features: (N + M, C) float32, decorated as mmdet3d does; zero for padding.
        pillar: (N + M,) int64.
        weight: (N + M, 1) float32: 1 for points, of padding how many rows it stands for.
        coords: (M, 4) int32 [frame, z, y, x].
        slots: P, points and padding of a pillar.
    """

    features: torch.Tensor
    pillar: torch.Tensor
    weight: torch.Tensor
    coords: torch.Tensor
    slots: int


def pillar_rows(pillars: BatchPillars, encoder: Any) -> PointRows | None:
    """The rows that `encoder` works on; None where it is of a kind that wants padded pillars.

    Args:
        pillars: Of a batch.
        encoder: mmdet3d's.
    """
    if type(encoder).__name__ != "PillarFeatureNet" or encoder.legacy or encoder._with_distance:
        return None
    if any(layer.mode != "max" or type(layer.norm) is not nn.BatchNorm1d for layer in encoder.pfn_layers):
        return None
    count, slots, _ = pillars.points.shape
    device = pillars.points.device
    filled = torch.arange(slots, device=device) < pillars.num_points[:, None]
    pillar, slot = torch.nonzero(filled, as_tuple=True)
    points = pillars.points[pillar, slot]
    parts = [points]
    if encoder._with_cluster_center:
        mean = pillars.points[:, :, :3].sum(dim=1) / pillars.num_points[:, None]
        parts.append(points[:, :3] - mean[pillar])
    if encoder._with_voxel_center:
        size = points.new_tensor([encoder.vx, encoder.vy, encoder.vz])
        offset = points.new_tensor([encoder.x_offset, encoder.y_offset, encoder.z_offset])
        center = pillars.coords[:, [3, 2, 1]].to(points.dtype) * size + offset
        parts.append(points[:, :3] - center[pillar])
    features = torch.cat(parts, dim=1)
    padding = (slots - pillars.num_points).to(points.dtype)
    return PointRows(
        torch.cat([features, features.new_zeros((count, features.shape[1]))]),
        torch.cat([pillar, torch.arange(count, device=device)]),
        torch.cat([torch.ones_like(features[:, 0]), padding])[:, None],
        pillars.coords,
        slots,
    )


def encode(encoder: Any, rows: PointRows) -> torch.Tensor:
    """Features (M, F) of the pillars, as `encoder(points, num_points, coords)` in training gives them.

    The running statistics of its layers move as they do there.
    """
    count = len(rows.coords)
    features, occurs = rows.features, (rows.weight > 0).to(rows.features.dtype)
    for layer in encoder.pfn_layers:
        values = functional.relu(_normalize(layer.norm, layer.linear(features), rows.weight, count * rows.slots))
        # Not below zero, so that a row that does not occur may stand as zero.
        index = rows.pillar[:, None].expand_as(values)
        highest = values.new_zeros((count, values.shape[1])).scatter_reduce(0, index, values * occurs, "amax")
        if layer.last_vfe:
            return highest
        features = torch.cat([values, highest[rows.pillar]], dim=1)
    return features[:count]


def _normalize(norm: nn.BatchNorm1d, values: torch.Tensor, weight: torch.Tensor, total: int) -> torch.Tensor:
    """Batch normalization of weighted rows, in training: `total` is the sum of the weights."""
    mean = (values * weight).sum(dim=0) / total
    centered = values - mean
    variance = (centered.square() * weight).sum(dim=0) / total
    if norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None:
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (total / max(1, total - 1)), norm.momentum)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1
    scale = torch.rsqrt(variance + norm.eps)
    if norm.affine:
        return centered * (scale * norm.weight) + norm.bias
    return centered * scale
