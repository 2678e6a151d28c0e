"""Quantization-aware training on mmengine's Runner."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = ["DetectionMapHook", "QATHook"]

__getattr__ = lazy_attributes(__name__, {"QATHook": "qat_hook", "DetectionMapHook": "detection_map_hook"})
