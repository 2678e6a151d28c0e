"""Quantized graphs: Q/DQ pairs put where integer kernels want them, the rules that a graph must keep, its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from export.qdq.passes import arrange_qdq
    from export.qdq.precision_map import LayerPrecision, PrecisionMap, precision_map
    from export.qdq.precision_picture import draw_precision_map
    from export.qdq.rules import RuleViolation, check_qdq, require_rules
    from export.qdq.view import is_quantized

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
