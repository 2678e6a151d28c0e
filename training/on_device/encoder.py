"""PillarFeatureNet over points instead of padded pillars, for training: the same features, statistics and gradients.

mmdet3d's encoder takes (M, P, C) with P points a pillar, of which nearly all are padding: rows of zeros that batch
normalization counts and the maximum sees. Equal rows need computing once: here every point is a row and all the padding
of a pillar is one more, weighted by how often it occurs. Statistics of a layer's outputs follow from the moments of its
inputs, so that layer and normalization are one product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from training.on_device.pillars import BatchPillars

__all__ = ["Moments", "PointRows", "encode", "pillar_rows"]


@dataclass(frozen=True)
class Moments:
    """Of weighted rows of C numbers.

    Attributes:
        mean: (C,) float64.
        second: (C, C) float64: mean of the outer products.
    """

    mean: torch.Tensor
    second: torch.Tensor


@dataclass(frozen=True)
class PointRows:
    """Points of M pillars, and of each pillar one row of padding behind them.

    Attributes:
        features: (N + M, C) float32, decorated as mmdet3d does; zero for padding.
        moments: Of the features.
        pillar: (N + M,) int64; M for padding of a pillar that has none.
        weight: (N + M, 1) float32: 1 for points, of padding how many rows it stands for.
        coords: (M, 4) int32 [frame, z, y, x].
        slots: P, points and padding of a pillar.
    """

    features: torch.Tensor
    moments: Moments
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
        parts.append(points[:, :3] - _rows(mean, pillar))
    if encoder._with_voxel_center:
        size = points.new_tensor([encoder.vx, encoder.vy, encoder.vz])
        offset = points.new_tensor([encoder.x_offset, encoder.y_offset, encoder.z_offset])
        center = pillars.coords[:, [3, 2, 1]].to(points.dtype) * size + offset
        parts.append(points[:, :3] - _rows(center, pillar))
    features = torch.cat(parts, dim=1)
    features = torch.cat([features, features.new_zeros((count, features.shape[1]))])
    padding = slots - pillars.num_points
    own = torch.arange(count, device=device)
    weight = torch.cat([points.new_ones(len(points)), padding.to(points.dtype)])[:, None]
    return PointRows(
        features,
        _moments(features.double(), weight.double(), count * slots),
        torch.cat([pillar, torch.where(padding > 0, own, count)]),
        weight,
        pillars.coords,
        slots,
    )


def encode(encoder: Any, rows: PointRows) -> torch.Tensor:
    """Features (M, F) of the pillars, as `encoder(points, num_points, coords)` in training gives them.

    The running statistics of its layers move as they do there.
    """
    count = len(rows.coords)
    total = count * rows.slots
    features, moments = rows.features, rows.moments
    for layer in encoder.pfn_layers:
        weight, bias = _folded(layer.linear.weight, layer.norm, moments, total)
        values = functional.relu(torch.addmm(bias, features, weight.T))
        highest, spread = _Highest.apply(values, rows.pillar, count + 1)  # type: ignore[no-untyped-call]
        if layer.last_vfe:
            features = highest[:count]
            break
        features = torch.cat([values, spread], dim=1)
        moments = _moments(features, rows.weight, total)
    return features


def _moments(features: torch.Tensor, weight: torch.Tensor, total: int) -> Moments:
    weighted = features * weight
    return Moments(weighted.sum(dim=0).double() / total, (weighted.T @ features).double() / total)


def _folded(
    linear: torch.Tensor, norm: nn.BatchNorm1d, moments: Moments, total: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a linear layer with the batch normalization behind it, in training; float32.

    Args:
        linear: (U, C).
        norm: Its running statistics move.
        moments: Of what goes into the layer.
        total: Sum of the rows' weights.
    """
    exact = linear.double()
    mean = exact @ moments.mean
    variance = ((exact @ moments.second) * exact).sum(dim=1) - mean.square()
    if norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None:
        with torch.no_grad():
            norm.running_mean.lerp_(mean.float(), norm.momentum)
            norm.running_var.lerp_((variance * (total / max(1, total - 1))).float(), norm.momentum)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1
    scale = torch.rsqrt(variance.clamp(min=0.0) + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
        return (exact * scale[:, None]).float(), (norm.bias - mean * scale).float()
    return (exact * scale[:, None]).float(), (-mean * scale).float()


def _rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`table[index]`, by a kernel that does not begin anew for each of millions of short rows."""
    return torch.gather(table, 0, index[:, None].expand(-1, table.shape[1]).contiguous())


class _Highest(torch.autograd.Function):
    """Largest value of each pillar, and the same once more for each of its rows. Values are not negative."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, pillar: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        index = pillar[:, None].expand_as(values).contiguous()
        highest = values.new_zeros((count, values.shape[1])).scatter_reduce(0, index, values, "amax")
        spread = torch.gather(highest, 0, index)
        ctx.save_for_backward(index, values == spread)
        ctx.count = count
        ctx.set_materialize_grads(False)
        return highest, spread

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None]:
        index, is_highest = ctx.saved_tensors
        of_highest, of_spread = grads
        if of_highest is None and of_spread is None:
            return None, None, None
        some = of_spread if of_highest is None else of_highest
        assert some is not None
        zeros = some.new_zeros((ctx.count, index.shape[1]))
        pull = zeros if of_highest is None else of_highest
        if of_spread is not None:
            pull = pull.scatter_add(0, index, of_spread)
        # Equal rows share what one would get.
        shares = zeros.scatter_add(0, index, is_highest.to(zeros.dtype)).clamp_(min=1.0)
        return torch.gather(pull / shares, 0, index) * is_highest, None, None
