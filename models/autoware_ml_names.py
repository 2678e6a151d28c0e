"""Names of weights in autoware-ml's checkpoints, which hold the same tensors as mmdet3d's under other names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from models.checkpoint_forms import Weights, find_weights

__all__ = ["find_renamed", "their_name"]

# Ours -> theirs. A block of mmdet3d's backbone is a flat list: convolution, normalization, ReLU, and again.
_BACKBONE = re.compile(r"pts_backbone\.blocks\.(\d+)\.(\d+)\.(\w+)")
_NECK = re.compile(r"pts_neck\.deblocks\.(\d+)\.([01])\.(\w+)")
_SHARED = re.compile(r"pts_bbox_head\.shared_conv\.(conv|bn)\.(\w+)")
_BRANCH = re.compile(r"pts_bbox_head\.task_heads\.0\.(\w+)\.(\d+)\.(?:(conv|bn)\.)?(\w+)")
_PARTS = {"conv": "conv", "bn": "norm"}


def their_name(name: str, convolutions: frozenset[str] = frozenset()) -> str:
    """The name that autoware-ml gives to one of our model's parameters or buffers.

    Args:
        name: Ours.
        convolutions: Levels of the neck, as text, that a plain convolution scales down: their layers have numbers.
    """
    if found := _BACKBONE.fullmatch(name):
        block, layer, what = found.groups()
        return f"pts_backbone.blocks.{block}.{int(layer) // 3}.{('conv', 'norm', 'activation')[int(layer) % 3]}.{what}"
    if found := _NECK.fullmatch(name):
        level, layer, what = found.groups()
        part = layer if level in convolutions else ("conv", "norm")[int(layer)]
        return f"pts_neck.blocks.{level}.{part}.{what}"
    if found := _SHARED.fullmatch(name):
        return f"bbox_head.shared_conv.{_PARTS[found[1]]}.{found[2]}"
    if found := _BRANCH.fullmatch(name):
        branch, layer, part, what = found.groups()
        return ".".join(["bbox_head", branch, layer, *([_PARTS[part]] if part else []), what])
    return name


def find_renamed(
    checkpoint: Mapping[str, Any], names: Iterable[str], model: Any, where: str
) -> tuple[Weights, dict[str, str]] | None:
    """Weights under autoware-ml's names.

    Args:
        checkpoint: As `load_weights_file` gives it.
        names: Of the model's parameters and buffers.
        model: Built from a config of autoware-ml.
        where: Such as "Checkpoint 'best.ckpt'".

    Returns:
        The weights, and their name -> ours of all `names`; None where the checkpoint's names are not theirs.

    Raises:
        CheckpointError: as `find_weights`.
    """
    from torch import nn

    levels = enumerate(model.pts_neck.deblocks)
    convolutions = frozenset(str(index) for index, level in levels if isinstance(level[0], nn.Conv2d))
    ours = {their_name(name, convolutions): name for name in names}
    found = find_weights(checkpoint, ours, where)
    if not any(name.startswith("bbox_head.") for name in found.state if isinstance(name, str)):
        return None
    return found, ours
