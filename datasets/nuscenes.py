"""mmdet3d's nuScenes info files (second format): their class list and their folders, read as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from base.errors import DataError
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

    @staticmethod
    def _complete(info: dict[str, Any], path: Path) -> None:
        """Turns `metainfo.categories` (name -> label) into the list of classes."""
        categories = info.get("metainfo", {}).get("categories")
        if not isinstance(categories, dict) or sorted(categories.values()) != list(range(len(categories))):
            raise DataError(
                f"'{path}' has no metainfo.categories with labels from 0: it is no nuScenes info file of mmdet3d's "
                "second format. Convert it with mmdet3d's tools/dataset_converters/update_infos_to_v2.py."
            )
        info["metainfo"]["classes"] = sorted(categories, key=categories.__getitem__)

    def parse_data_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Puts earlier key frames where key frames are, names the recording, and goes on as for T4."""
        info.setdefault("scene_name", Path(info["lidar_points"]["lidar_path"]).name.split("__")[0])
        for sweep in info.get("lidar_sweeps") or []:
            points = sweep["lidar_points"]
            whole = Path(points["lidar_path"])
            if "samples" in whole.parts:
                # Joined to an absolute path, the prefix of sweeps has no say.
                points["lidar_path"] = str(Path(self.data_prefix.get("pts", "")).absolute() / whole.name)
            else:
                points["lidar_path"] = whole.name
        parsed: dict[str, Any] = super().parse_data_info(info)
        return parsed
