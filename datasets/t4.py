"""T4 datasets for mmdet3d: info files read safely, paths joined, boxes and labels as CenterPoint wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import ConfigError, DataError
from base.untrusted import load_info_pickle
from third_party import mmcv_ext

mmcv_ext.install()  # before mmdet3d, which imports mmcv's operators

from mmdet3d.datasets import Det3DDataset  # noqa: E402
from mmdet3d.registry import DATASETS  # noqa: E402
from mmdet3d.structures import LiDARInstance3DBoxes  # noqa: E402

from datasets.transforms import checked_pipeline  # noqa: E402

__all__ = ["T4Dataset"]

_SAMPLE_KEYS = ("token", "timestamp", "lidar_points", "instances")


@DATASETS.register_module()
class T4Dataset(Det3DDataset):
    """A T4 dataset in mmdet3d's second info format.

    `ann_file` holds `{"data_list": […], "metainfo": {"classes": […]}}`. Labels in it count into its own class list;
    `metainfo=dict(classes=…)` selects and orders classes by name, and what it leaves out gets label -1.

    Ground truth is what `num_lidar_pts > 0` (or `bbox_3d_isvalid` with `use_valid_flag`) and label > -1 leave. Boxes
    are `LiDARInstance3DBoxes` of 9 numbers in the ego frame with velocity (m/s over ground, along ego x and y); a
    velocity of NaN, which annotators leave at the ends of a track, counts as standing still.

    With `lazy_init=True`, which mmdet3d uses to ask for `metainfo` alone, the info file need not exist.
    """

    # What a model config that names no classes gets; `_load_classes` replaces it by the info file's own list.
    METAINFO = {"classes": ("car", "truck", "bus", "bicycle", "pedestrian"), "version": "t4"}  # noqa: RUF012

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        pipeline: Sequence[Any] = (),
        metainfo: dict[str, Any] | None = None,
        data_prefix: dict[str, str] | None = None,
        use_valid_flag: bool = False,
        with_velocity: bool = True,
        filter_empty_gt: bool = False,
        box_type_3d: str = "LiDAR",
        **kwargs: Any,
    ) -> None:
        if box_type_3d != "LiDAR":
            raise ConfigError(f"{type(self).__name__}: box_type_3d is '{box_type_3d}'; its boxes are 'LiDAR' boxes.")
        self.use_valid_flag = use_valid_flag
        self.with_velocity = with_velocity
        path = Path(ann_file)
        if not path.is_absolute():
            path = Path(data_root) / path
        wanted = None if metainfo is None else metainfo.get("classes")
        if kwargs.get("lazy_init") and not path.is_file():
            self._info = {}
            known = {} if wanted is None else {"classes": tuple(wanted)}
        else:
            self._info = _load_info(path, self._complete)
            _check_classes(wanted, self._info["metainfo"]["classes"], path)
            known = self._info["metainfo"]
        # An instance attribute hides the class's: each info file has its own order of classes.
        self.METAINFO = {**type(self).METAINFO, **known}
        super().__init__(
            data_root=data_root,
            ann_file=str(path.resolve()),
            pipeline=checked_pipeline(list(pipeline)),
            metainfo=metainfo,
            data_prefix=data_prefix or {"pts": "", "sweeps": ""},
            modality={"use_lidar": True, "use_camera": False},
            box_type_3d=box_type_3d,
            filter_empty_gt=filter_empty_gt,
            **kwargs,
        )

    @staticmethod
    def _complete(info: dict[str, Any], path: Path) -> None:
        """Adds to an info file's content what its format leaves out; T4's leaves out nothing."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples of the info file, each parsed; the file itself is read through a restricted unpickler."""
        if not self._info:
            self._info = _load_info(Path(self.ann_file), self._complete)
            known, wanted = list(self._info["metainfo"]["classes"]), list(self.metainfo["classes"])
            _check_classes(wanted, known, Path(self.ann_file))
            self.label_mapping = {-1: -1, **{i: wanted.index(n) if n in wanted else -1 for i, n in enumerate(known)}}
        self._metainfo: dict[str, Any] = {**self._info["metainfo"], **self.metainfo}
        samples = self._info["data_list"]
        self._info = {}
        return [self._parse_checked(i, sample) for i, sample in enumerate(samples)]

    def _parse_checked(self, index: int, sample: Any) -> dict[str, Any]:
        missing = [k for k in _SAMPLE_KEYS if k not in sample] if isinstance(sample, dict) else list(_SAMPLE_KEYS)
        if missing:
            raise DataError(
                f"Sample {index} of '{self.ann_file}' lacks {missing}: it is no T4 info file, or an old one."
            )
        return self.parse_data_info(sample)

    def parse_data_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Joins paths of key frame and sweeps to the data root, and turns `instances` into arrays."""
        for points, prefix in _point_files(info):
            points["lidar_path"] = str(Path(self.data_prefix.get(prefix, "")) / points["lidar_path"])
        info["num_pts_feats"] = info["lidar_points"]["num_pts_feats"]
        info["lidar_path"] = info["lidar_points"]["lidar_path"]
        if not info.get("lidar_sweeps"):
            # mmdet3d pads with the key frame only where the key is absent; an empty list would leave the frame thinner.
            info.pop("lidar_sweeps", None)
        if not self.test_mode:
            info["ann_info"] = self.parse_ann_info(info)
        elif self.load_eval_anns:
            info["eval_ann_info"] = self.parse_ann_info(info)
        return info

    def parse_ann_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """Ground truth of a sample.

        Returns:
            `gt_bboxes_3d`: `LiDARInstance3DBoxes` (n, 9) (bottom centre inside, as mmdet3d keeps them);
            `gt_labels_3d` (n,) int64; `num_lidar_pts` (n,) int64.
        """
        instances = info["instances"]
        where = info.get("token", "?")
        count = len(instances)
        try:
            boxes = np.array([i["bbox_3d"] for i in instances], dtype=np.float32).reshape(count, 7)
            velocity = np.array([i["velocity"] for i in instances], dtype=np.float32).reshape(count, 2)
            labels = np.array([self.label_mapping[i["bbox_label_3d"]] for i in instances], dtype=np.int64)
            points = np.array([i["num_lidar_pts"] for i in instances], dtype=np.int64)
            keep = labels > -1
            if self.use_valid_flag:
                keep &= np.array([i["bbox_3d_isvalid"] for i in instances], dtype=bool)
            else:
                keep &= points > 0
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"An instance of sample {where} in '{self.ann_file}' is malformed ({type(error).__name__}: {error}). "
                "It needs bbox_3d (7 numbers), velocity (2), bbox_label_3d (a class's index or -1) and num_lidar_pts."
            ) from error
        if not np.isfinite(boxes).all():
            raise DataError(f"Sample {where} in '{self.ann_file}' has a box with NaN or infinite numbers.")
        for label in labels[keep].tolist():
            self.num_ins_per_cat[label] += 1
        velocity[~np.isfinite(velocity).all(axis=1)] = 0.0
        full = np.concatenate([boxes, velocity], axis=1) if self.with_velocity else boxes
        return {
            "gt_bboxes_3d": LiDARInstance3DBoxes(full[keep], box_dim=full.shape[1], origin=(0.5, 0.5, 0.5)),
            "gt_labels_3d": labels[keep],
            "num_lidar_pts": points[keep],
        }


def _check_classes(wanted: Sequence[str] | None, known: Sequence[str], path: Path) -> None:
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise DataError(
            f"The model config asks for classes {unknown}, but '{path}' has {list(known)}. Correct metainfo.classes, "
            "or name_mapping where the info file is made."
        )


def _point_files(info: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    sweeps = [(sweep["lidar_points"], "sweeps") for sweep in info.get("lidar_sweeps") or []]
    return [(info["lidar_points"], "pts"), *sweeps]


def _load_info(path: Path, complete: Callable[[dict[str, Any], Path], None]) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"Info file '{path}' does not exist. Give the dataset's folder as data_root, or make one with "
            "'python -m datasets.synthetic --out DIR'."
        )
    info = load_info_pickle(path)
    if not isinstance(info, dict) or not isinstance(info.get("data_list"), list):
        raise DataError(f"'{path}' is no T4 info file: expected a dict with data_list and metainfo.")
    complete(info, path)
    metainfo = info.get("metainfo")
    if not isinstance(metainfo, dict) or not metainfo.get("classes"):
        raise DataError(f"'{path}' has no metainfo.classes: labels in it have no names.")
    return info
