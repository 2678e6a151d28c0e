"""A model without some of its classes: the last layer of its heatmap loses their channels, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

from base.errors import ConfigError, ExportError
from base.messages import shown
from export.rotation import last_convolution
from models.spec import HeadSpec

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec

__all__ = ["without_classes"]


def without_classes(model: nn.Module, spec: ModelSpec, names: Collection[str]) -> tuple[nn.Module, ModelSpec]:
    """A copy of `model` that does not find some classes, and the specification that says so; what is left is the same.

    Args:
        model: Of one task, in floating point or quantized; the heatmap's last layer is in floating point in both.
        spec: What its config says about it.
        names: Classes to leave out.

    Raises:
        ConfigError: the model lacks one of them, or would find nothing; it has several tasks.
        ExportError: its heatmap does not end in a convolution in floating point.
    """
    import torch

    task = spec.one_task("leaving out classes")
    unknown = sorted(set(names) - set(task.class_names))
    kept = [index for index, name in enumerate(task.class_names) if name not in names]
    if unknown or not kept:
        raise ConfigError(
            f"Classes {shown(sorted(names))} cannot be left out of model '{spec.name}', which has "
            f"{shown(list(task.class_names))}: name some of them, and not all."
        )
    changed = copy.deepcopy(model)
    branches = cast(Any, changed).pts_bbox_head.task_heads[0]
    old = last_convolution(branches, "heatmap", len(task.class_names))
    if branches.heatmap[-1] is not old or type(old) is not torch.nn.Conv2d:
        raise ExportError(
            f"The heatmap of model '{spec.name}' ends in a {type(branches.heatmap[-1]).__name__}, of which no channels "
            "can be left out. Leave classes out of a model with a convolution in floating point there."
        )
    new = torch.nn.Conv2d(old.in_channels, len(kept), old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
    with torch.no_grad():
        new.weight.copy_(old.weight[kept])
        cast(Any, new.bias).copy_(cast(Any, old.bias)[kept])
    branches.heatmap[-1] = new.eval()
    heads = tuple(HeadSpec(head.name, len(kept)) if head.name == "heatmap" else head for head in task.heads)
    return changed, spec.changed(class_names=tuple(task.class_names[index] for index in kept), heads=heads)
