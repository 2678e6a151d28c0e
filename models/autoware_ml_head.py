"""The branches of autoware-ml's CenterHead: convolutions of kernel 3, and one of kernel 1 at the end."""

from __future__ import annotations

from typing import Any

from mmdet3d.models.dense_heads.centerpoint_head import SeparateHead
from mmdet3d.registry import MODELS
from torch import nn

__all__ = ["WideSeparateHead"]


@MODELS.register_module()
class WideSeparateHead(SeparateHead):
    """`SeparateHead`, whose one `final_kernel` is that of all convolutions, with kernel 1 in the last; same keys."""

    def __init__(self, in_channels: int, heads: dict[str, Any], head_conv: int = 64, **kwargs: Any) -> None:
        kwargs.pop("final_kernel", None)
        super().__init__(in_channels, heads, head_conv=head_conv, final_kernel=3, **kwargs)
        for name, (channels, _) in heads.items():
            getattr(self, name)[-1] = nn.Conv2d(head_conv, channels, kernel_size=1)
