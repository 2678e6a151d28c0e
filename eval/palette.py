"""Colours of pictures, reports and recordings."""

from __future__ import annotations

import colorsys

__all__ = ["BACKGROUND", "CLASS_COLORS", "COLORS", "class_color", "class_rgb"]

BACKGROUND = "#10161d"
COLORS = {"found": "#5fd38d", "missed": "#ffd24a", "correct": "#4db5ff", "false": "#ff6b6b"}
"""Ground truth found and missed, detections correct and false; told apart by line style as well."""

CLASS_COLORS = ("#4cc9f0", "#ff9f1c", "#f72585", "#80ed99", "#ffe66d", "#c77dff", "#ff6b6b", "#e9ecef")
"""Of the first classes; told apart from the points' greys."""

_GOLDEN = (5**0.5 - 1) / 2
_SATURATION = 0.55


def class_color(label: int) -> str:
    """`#rrggbb` of a class, the same wherever a class has a colour.

    The first are `CLASS_COLORS`. Class n beyond them has the hue n · (√5 - 1) / 2 modulo 1, which keeps any number of
    hues apart, and a saturation of 0.55 at full value.

    Args:
        label: Index of the class, 0 or more.
    """
    if label < len(CLASS_COLORS):
        return CLASS_COLORS[label]
    channels = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, _SATURATION, 1.0)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def class_rgb(label: int) -> tuple[int, int, int]:
    """`class_color` as three numbers from 0 to 255."""
    color = class_color(label)
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
