"""Samples of KITTI info files of mmdet3d's second format, brought into the frame of the LiDAR."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from base.parsing import FromList, Int64, Items, NonEmptyStr, PositiveInt, Record, Text, misfit
from datasets.geometry import Coordinate, Pose, Seconds, first_not_rigid
from datasets.infos import PointFile, Sample, typed
from datasets.kitti_geometry import camera_to_lidar

__all__ = ["CAMERA", "CameraView", "parse_kitti_sample"]

CAMERA = "CAM2"
"""The left colour camera: labels are in the frame of the rectified reference camera, images are this one's."""

_AGAIN = "Make the info file again, with 'python -m datasets.create_kitti_infos' or mmdet3d's create_data.py."
_CameraBox = Annotated[tuple[Coordinate, Coordinate, Coordinate, float, float, float, Coordinate], FromList()]
_NAN = float("nan")


class _Camera(Record, extra="ignore"):
    lidar2cam: Pose
    cam2img: Pose | None = None
    width: PositiveInt | None = None
    height: PositiveInt | None = None


class _Images(Record, extra="ignore"):
    CAM2: _Camera


class _Object(Record, extra="ignore"):
    """Regions that are not cared for have label -1, and sizes and points of -1."""

    bbox_3d: _CameraBox
    bbox_label_3d: Annotated[int, Field(ge=-1, le=2**31 - 1)]
    num_lidar_pts: Annotated[int, Field(ge=-1, le=2**31 - 1)]
    kitti_type: Text | None = None


class _KittiSample(Record, extra="ignore"):
    """`token`, `timestamp` and `scene_name` are what `create_kitti_infos` adds."""

    sample_idx: Int64 | NonEmptyStr
    images: _Images
    lidar_points: PointFile
    instances: Items[_Object] | None = None
    token: NonEmptyStr | None = None
    timestamp: Seconds | None = None
    scene_name: Text | None = None


@dataclass(frozen=True, eq=False)
class CameraView:
    """What an image shows of a cloud.

    Attributes:
        lidar2img: (4, 4) LiDAR to pixels.
        width, height: Of the image, pixels.
    """

    lidar2img: NDArray[np.float64]
    width: int
    height: int

    def from_height(self, height_m: float) -> CameraView:
        """The same of points to whose z so much was added."""
        down = np.eye(4)
        down[2, 3] = -height_m
        return CameraView(self.lidar2img @ down, self.width, self.height)


def parse_kitti_sample(raw: Any, path: Path, index: int, num_classes: int) -> tuple[Sample, CameraView | None]:
    """One sample of an info file.

    Args:
        raw: The sample.
        path: The info file, for messages.
        index: The sample's place in it.
        num_classes: Classes of the file, into which labels count.

    Returns:
        The sample, boxes in the LiDAR's frame, without velocities; and what its image shows, where the file says it.

    Raises:
        DataError: a value is missing, has the wrong type, or is out of its range.
    """
    found = typed(_KittiSample, raw, path, "data_list", index, remedy=_AGAIN)
    at: tuple[str | int, ...] = ("data_list", index)
    camera = found.images.CAM2
    if first_not_rigid([camera.lidar2cam]) is not None:
        raise misfit(
            path,
            (*at, "images", CAMERA, "lidar2cam"),
            camera.lidar2cam,
            "must be a rotation and a translation",
            remedy=_AGAIN,
        )
    instances = []
    for position, item in enumerate(found.instances or ()):
        if item.bbox_label_3d >= num_classes:
            must = f"must be -1 to {num_classes - 1}"
            raise misfit(path, (*at, "instances", position, "bbox_label_3d"), item.bbox_label_3d, must, remedy=_AGAIN)
        box = np.array([item.bbox_3d], float)
        if item.bbox_label_3d == -1 and (box[0, 3:6] <= 0).any():
            continue  # a region of the image, of which nobody knows what is in it
        moved = camera_to_lidar(box, np.asarray(camera.lidar2cam, float))[0].tolist()
        instance = {
            "bbox_3d": moved,
            "bbox_label_3d": item.bbox_label_3d,
            "velocity": [_NAN, _NAN],
            "num_lidar_pts": item.num_lidar_pts,
            "gt_nusc_name": item.kitti_type,
        }
        instances.append(instance)
    idx = found.sample_idx
    sample = typed(
        Sample,
        {
            "token": found.token or (f"{idx:06d}" if isinstance(idx, int) else idx),
            "timestamp": found.timestamp if found.timestamp is not None else 0.0,
            "lidar_points": found.lidar_points.model_dump(),
            "instances": instances,
            "scene_name": found.scene_name,
        },
        path,
        *at,
        remedy=_AGAIN,
    )
    return sample, _view(camera)


def _view(camera: _Camera) -> CameraView | None:
    if camera.cam2img is None or camera.width is None or camera.height is None:
        return None
    lidar2img = np.asarray(camera.cam2img, float) @ np.asarray(camera.lidar2cam, float)
    return CameraView(lidar2img, camera.width, camera.height)
