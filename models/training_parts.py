"""Parts of a model config that only training meets: what deploys is built without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from models.unsupported import step_kind

__all__ = ["drop_training_parts", "is_training_part"]


def is_training_part(where: str) -> bool:
    """Whether a place in a model config, "model.pts_bbox_head.loss_cls", lies in a loss, `init_cfg` or `train_cfg`."""
    return any(key.startswith("loss") or key in ("init_cfg", "train_cfg") for key in where.split("."))


def drop_training_parts(model: Any, is_known: Callable[[str], bool]) -> list[str]:
    """Takes out, in place, what would keep a network from being built although it has no part in it.

    Losses of types that nobody registered go: heads have default ones, and none is computed. Weights to begin training
    with (`init_cfg` of type "Pretrained", `pretrained`) go: they would be fetched, and a checkpoint replaces them.

    Args:
        model: `model` of a config.
        is_known: Whether a type, as configs name it, can be built.

    Returns:
        What went, for the log.
    """
    gone: list[str] = []
    for where, node in _nodes(model, "model"):
        for key in list(node):
            value, place = node[key], f"{where}.{key}"
            kind = step_kind(value)
            if key.startswith("loss") and kind and not is_known(value["type"]):
                gone.append(f"{place} ({kind})")
            elif (key == "init_cfg" and kind == "Pretrained") or (key == "pretrained" and isinstance(value, str)):
                gone.append(place)
            else:
                continue
            del node[key]
    return gone


def _nodes(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every dictionary of a config; what is taken out of one while they are visited is not visited."""
    if isinstance(node, dict):
        yield where, node
        for key, value in list(node.items()):
            yield from _nodes(value, f"{where}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _nodes(value, f"{where}.{index}")
