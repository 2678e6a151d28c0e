"""Synthetic T4 datasets: a spinning LiDAR ray-cast through streets drawn from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from datasets.synthetic.dataset_writer import DatasetConfig, generate
    from datasets.synthetic.lidar import Lidar
    from datasets.synthetic.scene import CLASSES, Scene, make_scene

__all__ = ["CLASSES", "DatasetConfig", "Lidar", "Scene", "generate", "make_scene"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "CLASSES": "scene",
        "DatasetConfig": "dataset_writer",
        "Lidar": "lidar",
        "Scene": "scene",
        "generate": "dataset_writer",
        "make_scene": "scene",
    },
)
