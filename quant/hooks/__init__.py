"""Quantization-aware training on mmengine's Runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from quant.hooks.detection_map_hook import DetectionMapHook
    from quant.hooks.qat_hook import QATHook

__all__ = ["DetectionMapHook", "QATHook"]

__getattr__ = lazy_attributes(__name__, {"QATHook": "qat_hook", "DetectionMapHook": "detection_map_hook"})
