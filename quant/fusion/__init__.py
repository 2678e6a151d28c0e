"""Folding of layers into their neighbours."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = ["fuse_model_bn"]

__getattr__ = lazy_attributes(__name__, {"fuse_model_bn": "bn_fusion"})
