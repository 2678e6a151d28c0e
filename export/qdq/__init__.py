"""Quantized graphs: Q/DQ pairs put where integer kernels want them, the rules that a graph must keep, its picture."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = [
    "LayerPrecision",
    "PrecisionMap",
    "RuleViolation",
    "arrange_qdq",
    "check_qdq",
    "draw_precision_map",
    "is_quantized",
    "precision_map",
    "require_rules",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "LayerPrecision": "precision_map",
        "PrecisionMap": "precision_map",
        "RuleViolation": "rules",
        "arrange_qdq": "passes",
        "check_qdq": "rules",
        "draw_precision_map": "precision_picture",
        "is_quantized": "view",
        "precision_map": "precision_map",
        "require_rules": "rules",
    },
)
