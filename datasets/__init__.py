"""Where frames come from: T4, nuScenes and KITTI datasets, single scans, what is wrong with them, and a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from datasets.frames import Frame, FrameSource, open_frames
    from datasets.points import read_points
    from datasets.t4 import T4Dataset

__all__ = ["Frame", "FrameSource", "T4Dataset", "open_frames", "read_points"]

__getattr__ = lazy_attributes(
    __name__,
    {"Frame": "frames", "FrameSource": "frames", "T4Dataset": "t4", "open_frames": "frames", "read_points": "points"},
)
