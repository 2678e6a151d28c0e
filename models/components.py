"""The two exported parts of a CenterPoint, as views of the stock mmdet3d model that share its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from base.errors import ConfigError
from models.spec import BACKBONE_NECK_HEAD, VOXEL_ENCODER, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BackboneNeckHead", "VoxelEncoder", "extract_components"]


class VoxelEncoder(nn.Module):
    """`input_features (N, P, F) float32 -> pillar_features (N, 1, C) float32`.

    The layers of mmdet3d's PillarFeatureNet without the decoration of the points, which the runtime does. Layers that
    take a mean find the number of a pillar's points in the last column of its first point.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.pfn_layers = cast(Any, model).pts_voxel_encoder.pfn_layers
        encoder = cast(Any, model).pts_voxel_encoder
        self.is_dynamic = not hasattr(self.pfn_layers[0], "mode")
        if self.is_dynamic:
            self.takes_mean = encoder.pfn_scatter.average_points
        else:
            self.takes_mean = self.pfn_layers[0].mode == "avg"

    def forward(self, input_features: Tensor) -> Tensor:
        """(N, P, F) decorated points, zero in padded rows -> (N, 1, C)."""
        if self.is_dynamic:
            return self._rows(input_features)
        if not self.takes_mean:
            features = input_features
            for layer in self.pfn_layers:
                features = layer(features)
            return features
        features, num_points = input_features[:, :, :-1], input_features[:, 0, -1]
        for layer in self.pfn_layers:
            features = layer(features, num_points)
        return features

    def _rows(self, input_features: Tensor) -> Tensor:
        """Rows of dynamic pillars: the one layer, and a maximum or a share of the mean over the row's own points."""
        features = input_features[:, :, :-1] if self.takes_mean else input_features
        linear, norm, rectifier = self.pfn_layers[0]
        points = linear(features)
        points = cast("Tensor", rectifier(norm(points.permute(0, 2, 1).contiguous()).permute(0, 2, 1).contiguous()))
        if not self.takes_mean:
            return torch.max(points, dim=1, keepdim=True)[0]
        # Repeated points say that their pillar has none.
        num_points = input_features[:, :, -1:]
        own = (num_points > 0).to(points.dtype)
        return (points * own).sum(dim=1, keepdim=True) / num_points[:, :1]


class BackboneNeckHead(nn.Module):
    """`spatial_features (1, C, H, W) float32 -> (heatmap, reg, height, dim, rot, vel)`, raw, in graph order.

    Of a model with several tasks, these of the first, then of the second, and so on.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        stock = cast(Any, model)
        self.pts_backbone = stock.pts_backbone
        self.pts_neck = stock.pts_neck
        self.pts_bbox_head = stock.pts_bbox_head
        self.head_names = tuple(head.name for head in spec.heads)
        self.branches = tuple(tuple(head.name for head in task.heads) for task in spec.tasks)

    def forward(self, spatial_features: Tensor) -> tuple[Tensor, ...]:
        """Logits, cell offsets, metres, log metres, (sin, cos) and m/s, each (1, channels, h, w)."""
        features = self.pts_neck(self.pts_backbone(spatial_features))
        # One dictionary for each level of the neck, of which there is one, in each task.
        tasks = (outputs for (outputs,) in self.pts_bbox_head(features))
        return tuple(outputs[name] for outputs, names in zip(tasks, self.branches, strict=True) for name in names)


def extract_components(model: nn.Module, spec: ModelSpec) -> dict[str, nn.Module]:
    """Cuts `model` into its exported components, in the order in which they run; weights are shared, not copied.

    Raises:
        ConfigError: the model is no CenterPoint with the parts that the components need.
    """
    for part in ("pts_voxel_encoder", "pts_middle_encoder", "pts_backbone", "pts_neck", "pts_bbox_head"):
        if getattr(model, part, None) is None:
            raise ConfigError(f"{type(model).__name__} has no '{part}'; only a pillar CenterPoint can be exported.")
    components: dict[str, nn.Module] = {
        VOXEL_ENCODER: VoxelEncoder(model),
        BACKBONE_NECK_HEAD: BackboneNeckHead(model, spec),
    }
    return {name: module.eval() for name, module in components.items()}
