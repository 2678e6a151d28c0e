"""Keys of `evaluation.autoware` in a deploy configuration; part of `deploy.config.schema`."""

# `setting` returns a dataclass field, exactly as `field` does.

from __future__ import annotations

from dataclasses import dataclass

from deploy.config.settings import setting

__all__ = ["BOTH", "DECODES", "AutowareConfig"]

BOTH = "both"
DECODES = ("training", "autoware", BOTH)


@dataclass(frozen=True)
class AutowareConfig:
    """Autoware's decode, where `evaluation.decode` asks for it."""

    bundle: str | None = setting(
        None,
        "Folder of a bundle whose score thresholds, distances and classes by area are used. Unset: the node's "
        "defaults, 0.35 for every class and distance.",
    )
