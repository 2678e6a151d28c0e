"""Backbone, neck and head of a training step, in bfloat16 on a GPU; captured there as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["Dense", "Heads", "can_capture", "canvas_dtype", "captured"]

Heads = Callable[[torch.Tensor], dict[str, torch.Tensor]]


def can_capture(device: torch.device) -> bool:
    """Whether a device has graphs."""
    return device.type == "cuda"


def canvas_dtype(device: torch.device) -> torch.dtype:
    """In which number format canvases lie on a device."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


class Dense(nn.Module):
    """The dense part of an mmdet3d CenterPoint of one task; shares its modules."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = model.pts_backbone, model.pts_neck, model.pts_bbox_head
        (self._task,) = self.head.task_heads
        self._is_plain = type(self._task).__name__ == "SeparateHead"

    def forward(self, canvas: torch.Tensor) -> dict[str, torch.Tensor]:
        """Raw heads, float32, of canvases; all but each branch's last layer in bfloat16 where the canvas is."""
        half = canvas.dtype == torch.bfloat16
        # A cache of converted weights would outlive a captured step.
        with torch.autocast(canvas.device.type, dtype=torch.bfloat16, enabled=half, cache_enabled=False):
            maps = self.neck(self.backbone(canvas))
            if self._is_plain:
                shared = self.head.shared_conv(maps[0])
                inner = {name: getattr(self._task, name)[:-1](shared) for name in self._task.heads}
        if self._is_plain:
            return {name: getattr(self._task, name)[-1](values.float()) for name, values in inner.items()}
        ((heads,),) = self.head([part.float() for part in maps])
        return {name: value.float() for name, value in heads.items()}


class _Listed(nn.Module):
    """`Dense` with its heads as a tuple: what torch captures."""

    def __init__(self, dense: Dense) -> None:
        super().__init__()
        self.dense = dense
        self.names: tuple[str, ...] = ()

    def forward(self, canvas: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heads = self.dense(canvas)
        self.names = tuple(heads)
        return tuple(heads.values())


def captured(dense: Dense, canvas: torch.Tensor) -> Heads:
    """`dense` as CUDA graphs of its forward and backward pass: hundreds of kernels by two launches.

    Weights and running statistics are afterwards as before. No other thread may use the device meanwhile.

    Args:
        dense: In training.
        canvas: Any of those to come; all have its shape.
    """
    buffers = [buffer.clone() for buffer in dense.buffers()]
    listed = _Listed(dense)
    sample = canvas.detach().clone().requires_grad_()
    graphed: Any = torch.cuda.make_graphed_callables(listed, (sample,))
    with torch.no_grad():
        for buffer, before in zip(dense.buffers(), buffers, strict=True):
            buffer.copy_(before)
    names = listed.names

    def heads(canvas: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(names, graphed(canvas), strict=True))

    return heads
