"""What the network is: its specification, how it is built, loaded and cut into components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from models.build import build_model, load_checkpoint
    from models.components import BackboneNeckHead, VoxelEncoder, extract_components
    from models.config import load_model_config
    from models.spec import ModelSpec

__all__ = [
    "BackboneNeckHead",
    "ModelSpec",
    "VoxelEncoder",
    "build_model",
    "extract_components",
    "load_checkpoint",
    "load_model_config",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "BackboneNeckHead": "components",
        "ModelSpec": "spec",
        "VoxelEncoder": "components",
        "build_model": "build",
        "extract_components": "components",
        "load_checkpoint": "build",
        "load_model_config": "config",
    },
)
