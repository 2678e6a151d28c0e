"""T4 datasets for mmdet3d: info files read safely, paths joined, boxes and labels as CenterPoint wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from base.checks import settle
from base.errors import ConfigError, DataError
from base.messages import shown, shown_file
from base.parsing import misfit
from datasets.consistency import PointSteps, SampleComparison
from datasets.infos import OWN_FRAMES, InfoFile, Instance, PointStorage, Sample, parse_sample, read_info_file
from datasets.points import inside
from datasets.sweep_forms import in_one_form
from third_party import mmcv_ext

mmcv_ext.install()  # before mmdet3d, which imports mmcv's operators

from mmdet3d.datasets import Det3DDataset  # noqa: E402
from mmdet3d.registry import DATASETS  # noqa: E402
from mmdet3d.structures import LiDARInstance3DBoxes  # noqa: E402

from datasets.transforms import checked_pipeline  # noqa: E402

__all__ = ["T4Dataset"]


@DATASETS.register_module()
class T4Dataset(Det3DDataset):
    """A T4 dataset in mmdet3d's second info format.

    `ann_file` holds `{"data_list": […], "metainfo": {"classes": […]}}`. Labels in it count into its own class list;
    `metainfo=dict(classes=…)` selects and orders classes by name, and what it leaves out gets label -1.

    Ground truth is what `num_lidar_pts > 0` (or `bbox_3d_isvalid` with `use_valid_flag`) and label > -1 leave. Boxes
    are `LiDARInstance3DBoxes` of 9 numbers in the ego frame with velocity (m/s over ground, along ego x and y). A
    velocity of NaN, which annotators leave at the ends of a track, is 0 in them, and `velocity_known` says so.

    `name_mapping`, category -> class or None, as autoware-ml's configs have it, decides on the label by the category
    that the annotators gave, or by the file's class where they gave none; classes that it lacks are no error.

    With `lazy_init=True`, which mmdet3d uses to ask for `metainfo` alone, the info file need not exist.
    """

    # What a model config that names no classes gets; `__init__` replaces it by the info file's own list.
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
        name_mapping: Mapping[str, str | None] | None = None,
        info: InfoFile | None = None,
        **kwargs: Any,
    ) -> None:
        """As mmdet3d's; `info` is the info file where it has been read already."""
        if box_type_3d != "LiDAR":
            raise ConfigError(f"{type(self).__name__}: box_type_3d is '{box_type_3d}'; its boxes are 'LiDAR' boxes.")
        self.use_valid_flag = use_valid_flag
        self._names = dict(name_mapping or {})
        self.with_velocity = with_velocity
        path = Path(ann_file)
        if not path.is_absolute():
            path = Path(data_root) / path
        self._path = path
        self._info = info
        self._storage = PointStorage()
        self._samples: list[Any] | None = None
        self._known: tuple[str, ...] = ()
        self._steps = PointSteps.of(pipeline)
        wanted = None if metainfo is None else metainfo.get("classes")
        if kwargs.get("lazy_init") and not path.is_file():
            classes = tuple(wanted or type(self).METAINFO["classes"])
        else:
            classes = self._open(wanted)
        # mmdet3d counts labels into this list, and an instance attribute hides the class's; what it calls them comes
        # from `metainfo`, for which it asks the class alone. Each info file has its own order of classes.
        self.METAINFO = {**type(self).METAINFO, "classes": classes}
        super().__init__(
            data_root=data_root,
            ann_file=str(path.resolve()),
            pipeline=checked_pipeline(list(pipeline), self._storage.points),
            metainfo={**(metainfo or {}), "classes": list(wanted or classes)},
            data_prefix=self._storage.folders() or data_prefix or {"pts": "", "sweeps": ""},
            modality={"use_lidar": True, "use_camera": False},
            box_type_3d=box_type_3d,
            filter_empty_gt=filter_empty_gt,
            **kwargs,
        )

    def _open(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Reads the info file, whose samples wait for `load_data_list`.

        Returns:
            The file's classes, in the order of their labels.

        Raises:
            DataError: the file cannot be used, or has not all `wanted` classes.
        """
        info, self._info = self._info or read_info_file(self._path), None
        known = info.classes()
        self._storage = info.storage()
        unknown = [name for name in wanted or () if name not in known]
        if info.dataset == OWN_FRAMES:
            # It has the classes that somebody labelled; of the model's others there is none in it.
            known, unknown = (*known, *unknown), []
        if unknown and not self._names:
            raise DataError(
                f"The model config asks for classes {unknown}, but {shown_file(self._path)} has {shown(list(known))}. "
                "Correct metainfo.classes, or name_mapping (--classes, --map) where the info file is made."
            )
        self._samples, self._known = info.samples, known
        return (*known, *unknown)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples of the info file, each typed; nothing else of the file goes on to mmdet3d."""
        if self._samples is None:
            wanted = list(self.metainfo["classes"])
            known = self._open(wanted)
            self.label_mapping = {-1: -1, **{i: wanted.index(n) if n in wanted else -1 for i, n in enumerate(known)}}
        raw, self._samples = self._samples or [], []
        if not raw:
            raise DataError(f"Info file {shown_file(self._path)} holds no sample: data_list is empty.")
        first: dict[str, int] = {}
        samples = []
        # Files that name their columns are read by these names, whatever number the pipeline's steps load.
        steps = self._steps if self._storage.point_columns is None else PointSteps(sweeps=self._steps.sweeps)
        comparison = SampleComparison(steps, self._known, self._path)
        for index, item in enumerate(raw):
            sample = self._parse(in_one_form(item, self._path, index), index, len(self._known))
            if (other := first.setdefault(sample.token, index)) != index:
                must = f"must not be that of data_list[{other}] too"
                raise misfit(self._path, ["data_list", index, "token"], sample.token, must)
            samples.append(self._entry(sample, index))
            comparison.add(sample, has_time=self._has_time(sample))
        settle(comparison.findings())
        return samples

    def _parse(self, raw: Any, index: int, num_classes: int) -> Sample:
        """One sample of the file, in the frame of its points."""
        return parse_sample(raw, self._path, index, num_classes)

    def _entry(self, sample: Sample, index: int) -> dict[str, Any]:
        """A sample as mmdet3d's steps take it: paths below the data root, ground truth as arrays."""
        at = ("data_list", index)
        entry = sample.model_dump(exclude={"instances"}, exclude_none=True)
        points = entry["lidar_points"]
        points["lidar_path"] = self._point_path(points["lidar_path"], "pts", (*at, "lidar_points", "lidar_path"))
        entry["num_pts_feats"], entry["lidar_path"] = points["num_pts_feats"], points["lidar_path"]
        for number, sweep in enumerate(entry.get("lidar_sweeps", ())):
            place = (*at, "lidar_sweeps", number, "lidar_points", "lidar_path")
            sweep["lidar_points"]["lidar_path"] = self._point_path(sweep["lidar_points"]["lidar_path"], "sweeps", place)
        if not entry.get("lidar_sweeps"):
            # mmdet3d pads with the key frame only where the key is absent; an empty list would leave the frame thinner.
            entry.pop("lidar_sweeps", None)
        if not self.test_mode:
            entry["ann_info"] = self._ground_truth(sample, at)
        elif self.load_eval_anns:
            entry["eval_ann_info"] = self._ground_truth(sample, at)
        return entry

    def _point_path(self, path: str, prefix: str, at: Sequence[str | int]) -> str:
        """A point file that the info file names, below the folder of its kind."""
        return str(inside(Path(self.data_prefix.get(prefix, "")), path, self._path, at))

    def _label(self, instance: Instance) -> int:
        """Index into the dataset's classes; -1 of what is not to be found."""
        if instance.bbox_label_3d < 0 or not self._names:
            return int(self.label_mapping[instance.bbox_label_3d])
        category = instance.gt_nusc_name or self._known[instance.bbox_label_3d]
        name, classes = self._names.get(category, category), list(self.metainfo["classes"])
        return classes.index(name) if name in classes else -1

    def _ground_truth(self, sample: Sample, at: Sequence[str | int]) -> dict[str, Any]:
        """Ground truth of a sample.

        Returns:
            `gt_bboxes_3d`: `LiDARInstance3DBoxes` (n, 9) (bottom centre inside, as mmdet3d keeps them);
            `gt_labels_3d` (n,) int64; `num_lidar_pts` (n,) int64; `velocity_known` (n,) bool; and of all that are
            annotated, how many (`num_annotated`), how many of no class (`num_without_class`), and how many of the
            others without points or not valid (`num_without_points`).
        """
        instances, count = sample.instances, len(sample.instances)
        boxes = np.array([i.bbox_3d for i in instances], dtype=np.float32).reshape(count, 7)
        velocity = np.array([i.velocity for i in instances], dtype=np.float32).reshape(count, 2)
        labels = np.array([self._label(i) for i in instances], dtype=np.int64)
        points = np.array([i.num_lidar_pts for i in instances], dtype=np.int64)
        keep = labels > -1
        with_class = int(keep.sum())
        if self.use_valid_flag:
            for number, instance in enumerate(instances):
                if instance.bbox_3d_isvalid is None:
                    place = [*at, "instances", number, "bbox_3d_isvalid"]
                    raise misfit(self._path, place, None, "must be true or false where use_valid_flag is set")
            keep &= np.array([i.bbox_3d_isvalid for i in instances], dtype=bool)
        else:
            keep &= np.array(self._counts(instances), dtype=bool)
        for label in labels[keep].tolist():
            self.num_ins_per_cat[label] += 1
        boxes[:, 2] += np.float32(self._storage.lidar_height_m)
        known = np.asarray(np.isfinite(velocity).all(axis=1)) & self.with_velocity
        velocity[~known] = 0.0
        full = np.concatenate([boxes, velocity], axis=1) if self.with_velocity else boxes
        return {
            "gt_bboxes_3d": LiDARInstance3DBoxes(full[keep], box_dim=full.shape[1], origin=(0.5, 0.5, 0.5)),
            "gt_labels_3d": labels[keep],
            "num_lidar_pts": points[keep],
            "velocity_known": known[keep],
            "num_annotated": count,
            "num_without_class": count - with_class,
            "num_without_points": with_class - int(keep.sum()),
        }

    def _has_time(self, sample: Sample) -> bool:
        """Whether a sample's timestamp is one."""
        return self._storage.has_times

    def _counts(self, instances: Sequence[Instance]) -> list[bool]:
        """Which objects are there to be found, where no flag says so."""
        return [instance.num_lidar_pts > 0 for instance in instances]
