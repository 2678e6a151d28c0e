"""mmdet3d's KITTI info files (second format): camera boxes, and clouds of which the camera saw a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from base.errors import ConfigError
from base.parsing import misfit
from datasets.infos import Instance, Sample
from datasets.kitti_infos import CameraView, parse_kitti_sample
from datasets.t4 import T4Dataset

__all__ = ["KittiInfos"]

# What mmdet3d's KittiDataset takes, and this dataset knows by itself.
_IGNORED = ("modality", "default_cam_key", "pcd_limit_range")


class KittiInfos(T4Dataset):
    """What `mmdet3d.KittiDataset` reads, for evaluation and calibration.

    Points and boxes are in the frame of the Velodyne. Ground truth is that of mmdet3d's own dataset: every object of a
    class, whether points fell on it or not. Files of `create_kitti_infos --fov-crop` leave points that the camera does
    not see out.
    """

    def __init__(self, **kwargs: Any) -> None:
        for name in _IGNORED:
            kwargs.pop(name, None)
        load_type = kwargs.pop("load_type", "frame_based")
        if load_type != "frame_based":
            raise ConfigError(
                f"The model config's dataset has load_type '{load_type}', which is for detectors on images; LiDAR "
                "detectors take 'frame_based'."
            )
        kwargs.setdefault("with_velocity", False)
        self._views: list[CameraView | None] = []
        super().__init__(**kwargs)

    def _parse(self, raw: Any, index: int, num_classes: int) -> Sample:
        sample, view = parse_kitti_sample(raw, self._path, index, num_classes)
        self._views.append(view)
        return sample

    def _entry(self, sample: Sample, index: int) -> dict[str, Any]:
        """As for T4; where the file's clouds are cut to the camera's view, with that view."""
        entry = super()._entry(sample, index)
        if self._storage.fov_crop:
            view = self._views[index]
            if view is None:
                at = ("data_list", index, "images", "CAM2")
                raise misfit(self._path, at, None, "must have cam2img, width and height where fov_crop is set")
            entry["camera_view"] = view.from_height(self._storage.lidar_height_m)
        return entry

    def _counts(self, instances: Sequence[Instance]) -> list[bool]:
        return [True] * len(instances)

    def _has_time(self, sample: Sample) -> bool:
        return sample.timestamp > 0  # the benchmarks' frames have none
