"""The pillar encoder of AWML's older models: offsets to the pillar centre along x and y alone, nine or ten features."""

from __future__ import annotations

from typing import Any

import torch
from mmdet3d.models.voxel_encoders import PillarFeatureNet
from mmdet3d.registry import MODELS
from torch import Tensor

__all__ = ["BackwardPillarFeatureNet"]


@MODELS.register_module()
class BackwardPillarFeatureNet(PillarFeatureNet):
    """`PillarFeatureNet` without the height over the pillar centre; same state-dict keys, first layer one narrower."""

    def __init__(self, in_channels: int = 4, **kwargs: Any) -> None:
        # The stock network adds three features for the pillar centre; here there are two.
        super().__init__(in_channels=in_channels - 1, **kwargs)

    def forward(self, features: Tensor, num_points: Tensor, coors: Tensor, *_: Any, **__: Any) -> Tensor:
        """Points (N, P, C), points per pillar (N,), cells (N, 4) as (batch, z, y, x) -> (N, channels)."""
        count = num_points.to(features).view(-1, 1, 1)
        real = torch.arange(features.shape[1], device=features.device).view(1, -1, 1) < count
        mean = features[..., :3].sum(dim=1, keepdim=True) / count
        corner = features.new_tensor([self.x_offset, self.y_offset])
        centers = coors[:, [3, 2]].to(features) * features.new_tensor([self.vx, self.vy]) + corner
        parts = (features, features[..., :3] - mean, features[..., :2] - centers.unsqueeze(1))
        decorated = torch.cat(parts, dim=-1) * real
        for layer in self.pfn_layers:
            decorated = layer(decorated, num_points)
        return decorated.squeeze(1)
