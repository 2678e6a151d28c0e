"""Boxes of a drive in miniature, and the model that it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from base.boxes import Boxes3D

CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "model" / "centerpoint_t4_demo.py"


def boxes(rows: list[tuple[float, float, float]], labels: list[int], scores: list[float] | None = None) -> Boxes3D:
    """Boxes of (x, y, yaw)."""
    values = np.zeros((len(rows), 9), np.float32)
    values[:, 3:6] = (4.0, 2.0, 1.5)
    for value, (x, y, yaw) in zip(values, rows, strict=True):
        value[[0, 1, 6]] = x, y, yaw
    return Boxes3D(values, np.array(scores or [1.0] * len(rows), np.float32), np.array(labels, np.int64))
