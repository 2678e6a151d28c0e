"""Folding of layers into their neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from quant.fusion.bn_fusion import fuse_model_bn

__all__ = ["fuse_model_bn"]

__getattr__ = lazy_attributes(__name__, {"fuse_model_bn": "bn_fusion"})
