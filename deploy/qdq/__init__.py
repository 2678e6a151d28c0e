"""Quantized graphs: Q/DQ pairs put where integer kernels want them, the rules that a graph must keep, its picture."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = [
    "RuleViolation",
    "arrange_qdq",
    "check_qdq",
    "is_quantized",
    "require_rules",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "RuleViolation": "rules",
        "arrange_qdq": "passes",
        "check_qdq": "rules",
        "is_quantized": "view",
        "require_rules": "rules",
    },
)
