"""The units of a CenterPoint that are reconstructed one after another, found by its structure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from base.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CANVAS", "Block", "partition", "quantized_layers", "run_blocks"]

CANVAS = "canvas"


@dataclass(frozen=True, eq=False)
class Block:
    """A part of the network between named tensors.

    Attributes:
        path: Module path of the part.
        module: The part, shared with the model.
        inputs: Names of the tensors it reads.
        outputs: Names of the tensors it makes.
    """

    path: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs, from a mapping that holds the inputs."""
        return dict(zip(self.outputs, self.module(*(tensors[name] for name in self.inputs)), strict=True))


def run_blocks(blocks: Sequence[Block], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Runs blocks in order; everything that was given or made."""
    found = dict(tensors)
    for block in blocks:
        found.update(block.run(found))
    return found


def partition(model: nn.Module, *, layers_per_block: int | None = None) -> tuple[Block, ...]:
    """Cuts a CenterPoint after its voxel encoder into a block per backbone stage, the neck, the shared convolution,
    the heads.

    The first block reads `CANVAS`; the outputs of the last are the head's, by their names.

    Args:
        model: Stock mmdet3d CenterPoint, quantized or not; weights are shared, not copied.
        layers_per_block: Cut stages into blocks of so many convolutions; None: leave them whole.

    Raises:
        ConfigError: it is not built of SECOND, SECONDFPN and a CenterHead, or of parts like them.
    """
    parts = cast(Any, model)
    stages = _part(model, "pts_backbone", "blocks")
    _part(model, "pts_neck", "deblocks")
    _part(model, "pts_bbox_head", "shared_conv")
    tasks = _part(model, "pts_bbox_head", "task_heads")
    blocks = []
    previous, names = CANVAS, []
    for index, stage in enumerate(stages):
        for first, last in _cuts(stage, layers_per_block):
            whole = last - first == len(stage)
            path = f"pts_backbone.blocks.{index}" + ("" if whole else f"[{first}:{last}]")
            made = f"pts_backbone.{index}" + ("" if last == len(stage) else f".{last}")
            blocks.append(Block(path, _Single(stage if whole else stage[first:last]), (previous,), (made,)))
            previous = made
        names.append(previous)
    blocks.append(Block("pts_neck", _Neck(parts.pts_neck), tuple(names), ("pts_neck",)))
    shared = _Single(parts.pts_bbox_head.shared_conv)
    blocks.append(Block("pts_bbox_head.shared_conv", shared, ("pts_neck",), ("shared_conv",)))
    heads = _Heads(tasks)
    path = "pts_bbox_head.task_heads" + (".0" if len(tasks) == 1 else "")
    blocks.append(Block(path, heads, ("shared_conv",), heads.output_names()))
    return tuple(blocks)


def quantized_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Layers with a quantized weight, with their paths in `module`, in the order of the modules."""
    for name, layer in module.named_modules():
        if getattr(layer, "weight_quantizer", None) is not None and cast(Any, layer).quantized:
            yield name, layer


def _cuts(stage: nn.Sequential, layers: int | None) -> list[tuple[int, int]]:
    """Index ranges of `stage`, each with `layers` convolutions and what follows them."""
    if layers is None:
        return [(0, len(stage))]
    starts = [index for index, module in enumerate(stage) if isinstance(module, nn.Conv2d)][::layers]
    starts[:1] = [0]
    return list(itertools.pairwise([*starts, len(stage)]))


def _part(model: nn.Module, owner: str, name: str) -> Any:
    found = getattr(getattr(model, owner, None), name, None)
    if found is None:
        raise ConfigError(
            f"{type(model).__name__} has no '{owner}.{name}'; only a pillar CenterPoint of SECOND, SECONDFPN and "
            "CenterHead can be reconstructed. Use --method calibrate or bias_correction."
        )
    return found


class _Single(nn.Module):
    """A module with one input and one output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.module(x),)


class _Neck(nn.Module):
    """The neck takes its inputs as one list and gives its output in one."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, *features: Tensor) -> Sequence[Tensor]:
        outputs: Sequence[Tensor] = self.neck(list(features))
        return outputs


class _Heads(nn.Module):
    """The branches of all tasks, their outputs in order."""

    def __init__(self, tasks: nn.ModuleList) -> None:
        super().__init__()
        self.tasks = tasks
        # One with deformable convolutions has its branches one level below, and its heatmap apart.
        self.branches = [
            tuple(task.heads) if hasattr(task, "heads") else (*task.task_head.heads, "heatmap")
            for task in cast(Any, tasks)
        ]

    def output_names(self) -> tuple[str, ...]:
        """As in the graph: with the task's number where there are several."""
        several = len(self.branches) > 1
        return tuple(f"{n}_{index}" if several else n for index, names in enumerate(self.branches) for n in names)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = [task(x) for task in self.tasks]
        return tuple(found[name] for found, names in zip(outputs, self.branches, strict=True) for name in names)
