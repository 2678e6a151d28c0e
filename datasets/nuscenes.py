"""mmdet3d's nuScenes info files (second format): their class list and their folders, read as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.infos import Sample
from datasets.t4 import T4Dataset

__all__ = ["NuScenesInfos"]

# What mmdet3d's NuScenesDataset takes, and this dataset knows by itself.
_IGNORED = ("modality", "box_type_3d", "load_type")


class NuScenesInfos(T4Dataset):
    """What `mmdet3d.NuScenesDataset` reads, for evaluation and calibration.

    Points and boxes are in the frame of LIDAR_TOP (x to the right, y ahead). Ground truth and points are those of
    mmdet3d's own dataset; a frame's scene is the recording that its file name starts with, because these infos name no
    scenes.
    """

    def __init__(self, **kwargs: Any) -> None:
        for name in _IGNORED:
            kwargs.pop(name, None)
        super().__init__(**kwargs)

    def _entry(self, sample: Sample, index: int) -> dict[str, Any]:
        """Names the recording, and goes on as for T4."""
        entry = super()._entry(sample, index)
        entry.setdefault("scene_name", Path(sample.lidar_points.lidar_path).name.split("__")[0])
        return entry

    def _point_path(self, path: str, prefix: str, at: Sequence[str | int]) -> str:
        """Sweeps, which these infos name by the whole path of another machine, lie in their folder; earlier key frames
        among them lie where key frames are. autoware-ml's infos name both from the root of the dataset."""
        whole = Path(path)
        if prefix == "sweeps" or whole.is_relative_to("samples/LIDAR_TOP"):
            prefix, path = "pts" if "samples" in whole.parts else "sweeps", whole.name
        return super()._point_path(path, prefix, at)
