"""Which layers read the same tensor, found by running the network once and comparing tensors, not names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from base.errors import ConfigError
from quant.modules.quant_add import Add
from quant.modules.quant_concat import Concat
from quant.structure import SECOND_OPERAND

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["find_shared_inputs"]

_PARTS = ("pts_backbone", "pts_neck", "pts_bbox_head")
# Cells on a side: divisible by any stride of the shipped backbones, and quick.
_CANVAS_SIZE = 64


def find_shared_inputs(
    model: nn.Module, paths: Iterable[str], example_inputs: tuple[Tensor, ...] | None = None
) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more layers that read one tensor, in the order in which the network runs.

    A `Concat` counts as a reader of its own result, whose scale its inputs take. The second operand of an `Add` is
    named `path.second_quantizer`.

    Args:
        model: A float model with its concats exposed; run once in evaluation mode, and left as it was.
        paths: Layers to look at.
        example_inputs: Arguments of `model`; None: `model` is a CenterPoint, whose backbone, neck and head are run on
            an empty canvas.
    """
    readers: dict[tuple[int, int], list[str]] = {}
    # Kept until the end, or a later tensor could get the identity of one that is gone.
    alive: list[Tensor] = []

    def note(tensor: Tensor, name: str) -> None:
        alive.append(tensor)
        # An operator that works in place gives a tensor new values under its old identity, and counts up its version.
        readers.setdefault((id(tensor), tensor._version), []).append(name)

    handles = [_watch(model.get_submodule(path), path, note) for path in paths]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            _run(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return tuple(tuple(names) for names in readers.values() if len(names) > 1)


def _watch(layer: nn.Module, path: str, note: Callable[[Tensor, str], None]) -> Any:
    if isinstance(layer, Concat):
        return layer.register_forward_hook(lambda _module, _args, result: note(result, path))

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        note(args[0], path)
        if isinstance(module, Add):
            note(args[1], path + SECOND_OPERAND)

    return layer.register_forward_pre_hook(before)


def _run(model: nn.Module, example_inputs: tuple[Tensor, ...] | None) -> None:
    if example_inputs is not None:
        model(*example_inputs)
        return
    parts = [getattr(model, name, None) for name in _PARTS]
    missing = [name for name, part in zip(_PARTS, parts, strict=True) if part is None]
    if missing:
        raise ConfigError(
            f"{type(model).__name__} has no {', '.join(missing)}: it is no CenterPoint. Give example_inputs, so "
            "that the layers which share a tensor can be found."
        )
    backbone, neck, head = cast(list[nn.Module], parts)
    first = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    canvas = first.weight.new_zeros(1, first.in_channels, _CANVAS_SIZE, _CANVAS_SIZE)
    head(neck(backbone(canvas)))
