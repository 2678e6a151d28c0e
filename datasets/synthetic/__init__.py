"""Synthetic T4 datasets: a spinning LiDAR ray-cast through streets drawn from a seed."""

from __future__ import annotations

from base.lazy import lazy_attributes

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
