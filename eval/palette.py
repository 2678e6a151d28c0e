"""Colours of bird's-eye views."""

from __future__ import annotations

__all__ = ["BACKGROUND", "COLORS"]

BACKGROUND = "#10161d"
COLORS = {"found": "#5fd38d", "missed": "#ffd24a", "correct": "#4db5ff", "false": "#ff6b6b"}
"""Ground truth found and missed, detections correct and false; told apart by line style as well."""
