"""An info file against the model config and against itself: classes, columns, times, flags and ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.checks import Finding
from base.messages import shown, shown_file, shown_place
from datasets.box_plausibility import BoxWatch
from datasets.sweep_times import FrameTimes, compare_order, compare_times
from models.consistency import compare_classes
from models.known_checks import KNOWN_CHECKS
from models.point_loading import innermost
from models.unsupported import step_kind

if TYPE_CHECKING:
    from datasets.infos import Sample

__all__ = ["PointSteps", "SampleComparison", "compare_config"]

_KEY_STEPS = ("LoadPointsFromFile", "LoadPoints")
_SWEEP_STEPS = ("LoadPointsFromMultiSweeps", "LoadSweeps")
# mmdet3d's.
_LOAD_DIM, _SWEEP_LOAD_DIM, _SWEEPS = 6, 5, 10
# Of a category's objects, this share must contradict before a word is said.
_MOST = 0.5
# Samples below which nothing is said of files that they share.
_FEW_SAMPLES = 10


@dataclass(frozen=True)
class PointSteps:
    """What the steps of a pipeline say that an info file says too.

    Attributes:
        load_dim: Numbers of a point in key frames' files; None where no step reads any.
        sweep_load_dim: The same of sweeps.
        sweeps: Sweeps that are taken; 0 where no step takes any.
    """

    load_dim: int | None = None
    sweep_load_dim: int | None = None
    sweeps: int = 0

    @classmethod
    def of(cls, pipeline: Sequence[Any]) -> PointSteps:
        """From steps whose values `datasets.transforms` has checked."""
        found = cls()
        for step in pipeline:
            kind = step_kind(step)
            if kind in _KEY_STEPS:
                found = cls(step.get("load_dim") or _LOAD_DIM, found.sweep_load_dim, found.sweeps)
            elif kind in _SWEEP_STEPS:
                sweeps = step.get("sweeps_num")
                found = cls(
                    found.load_dim, step.get("load_dim") or _SWEEP_LOAD_DIM, _SWEEPS if sweeps is None else sweeps
                )
        return found


class SampleComparison:
    """The samples of an info file against the pipeline that reads their files, and against each other.

    They are shown one by one, so that a large file need not be in memory as typed values.
    """

    def __init__(self, steps: PointSteps, classes: Sequence[str], path: Path) -> None:
        """What they are compared with.

        Args:
            steps: Of the pipeline.
            classes: The file's, in the order of their labels.
            path: The info file.
        """
        self._steps, self._classes, self._file = steps, tuple(classes), f"Info file {shown_file(path)}"
        self._times: list[FrameTimes] = []
        # (step, numbers a point) -> how often and where first; category -> its labels; where a flag says otherwise.
        self._features: dict[tuple[str, int], tuple[int, str]] = {}
        self._labels: dict[str, Counter[int]] = {}
        self._flag: tuple[str, bool, int] | None = None
        self._flags = self._objects = 0
        self._boxes = BoxWatch()
        self._files: Counter[str] = Counter()

    def add(self, sample: Sample, *, has_time: bool = True) -> None:
        """Shows the next sample; without a time of its own it is compared with no other's."""
        place = f"data_list[{len(self._times)}]"
        sweeps = sample.lidar_sweeps or ()
        scene = (sample.scene_token or sample.scene_name or "") if has_time else ""
        times = tuple(sweep.timestamp for sweep in sweeps)
        has_others = any(sweep.lidar_points.lidar_path != sample.lidar_points.lidar_path for sweep in sweeps)
        self._files[sample.lidar_points.lidar_path] += 1
        self._times.append(FrameTimes(place, sample.token, scene, sample.timestamp, times, has_others))
        self._count("LoadPointsFromFile", sample.lidar_points.num_pts_feats, f"{place}.lidar_points")
        for number, sweep in enumerate(sweeps):
            points = f"{place}.lidar_sweeps[{number}].lidar_points"
            self._count("LoadPointsFromMultiSweeps", sweep.lidar_points.num_pts_feats, points)
        for number, instance in enumerate(sample.instances):
            self._objects += 1
            category = instance.gt_nusc_name or self._class_of(instance.bbox_label_3d)
            self._boxes.add(category, instance.bbox_3d, instance.num_lidar_pts)
            if instance.gt_nusc_name is not None and instance.bbox_label_3d >= 0:
                self._labels.setdefault(instance.gt_nusc_name, Counter())[instance.bbox_label_3d] += 1
            seen = instance.num_lidar_pts + (instance.num_radar_pts or 0) > 0
            if instance.bbox_3d_isvalid not in (None, seen):
                self._flags += 1
                if self._flag is None:
                    at = f"{place}.instances[{number}]"
                    self._flag = (at, bool(instance.bbox_3d_isvalid), instance.num_lidar_pts)

    def _class_of(self, label: int) -> str:
        return self._classes[label] if 0 <= label < len(self._classes) else ""

    def _count(self, step: str, features: int | None, place: str) -> None:
        if features is not None:
            count, first = self._features.get((step, features), (0, place))
            self._features[step, features] = (count + 1, first)

    def findings(self) -> Iterator[Finding]:
        """What contradicts what, of all samples that were shown."""
        yield from self._compare_features()
        yield from self._compare_files()
        slips = list(compare_times(self._times, self._file))
        yield from slips
        if not slips:
            yield from compare_order(self._times, self._steps.sweeps, self._file, "the model config")
        yield from self._compare_labels()
        yield from self._compare_flags()
        yield from self._boxes.findings(self._file)

    def _compare_features(self) -> Iterator[Finding]:
        """Numbers a point: of the info file and of the config."""
        steps = {"LoadPointsFromFile": self._steps.load_dim, "LoadPointsFromMultiSweeps": self._steps.sweep_load_dim}
        for (step, features), (count, place) in self._features.items():
            if steps[step] not in (None, features):
                yield Finding(
                    KNOWN_CHECKS["point-features"],
                    f"{self._file}, {place}.num_pts_feats,",
                    f"{features} numbers a point",
                    f"the model config, load_dim of {step},",
                    f"{steps[step]}",
                    f"So it is with {count} files. Read with the wrong number, every value stands in another column. "
                    "Correct whichever is wrong: a file has 4 bytes for each number.",
                )

    def _compare_files(self) -> Iterator[Finding]:
        """Each key frame has a scan of its own."""
        shared = [(path, count) for path, count in self._files.most_common() if count > 1]
        number = sum(count for _, count in shared)
        if self._files.total() >= _FEW_SAMPLES and number > _MOST * self._files.total():
            path, count = shared[0]
            yield Finding(
                KNOWN_CHECKS["key-frame-files"],
                f"{self._file}, data_list",
                f"{number} of {self._files.total()} samples name a point file that another one names, such as "
                f"{shown_file(path)} ({count} samples)",
                remedy="Their boxes would be held against one scan. Write the file again, each sample with its own.",
            )

    def _compare_labels(self) -> Iterator[Finding]:
        """Labels and the names that the annotators gave, where a category is called as one of the classes."""
        wrong: list[str] = []
        for name, labels in self._labels.items():
            own = next((plain for plain in (name, name.rsplit(".", 1)[-1]) if plain in self._classes), None)
            label, count = labels.most_common(1)[0]
            if own is not None and self._classes[label] != own and count > _MOST * labels.total():
                wrong.append(f"{count} objects of category {shown(name)} have label {label}, '{self._classes[label]}'")
        if wrong:
            yield Finding(
                KNOWN_CHECKS["label-names"],
                f"{self._file}, metainfo,",
                f"labels count into [{', '.join(self._classes)}]",
                "data_list",
                f"otherwise: {'; '.join(wrong[:5])}",
                "The list is in another order than the labels were given in. Write the info file again from its "
                "dataset.",
            )

    def _compare_flags(self) -> Iterator[Finding]:
        """Whether an object counts is stated by its flag and by its points."""
        if self._flag is not None:
            place, flag, points = self._flag
            yield Finding(
                KNOWN_CHECKS["valid-flags"],
                f"{self._file}, {place}.bbox_3d_isvalid",
                f"{flag}",
                f"{place}.num_lidar_pts",
                f"{points} points",
                f"So it is with {self._flags} of {self._objects} objects. use_valid_flag of the model config's "
                "dataset decides which of the two counts.",
            )


def compare_config(cfg: Any, split: str, classes: Sequence[str], source: str) -> Iterator[Finding]:
    """A split of a model config against its own network: classes and range.

    Args:
        cfg: `mmengine.Config`; without a `model` there is nothing to compare.
        split: Whose frames they are, for messages.
        classes: That the split's frames have, in the order of their labels.
        source: Where these stand, for messages.
    """
    head = _at(cfg, "model", "pts_bbox_head")
    tasks = head.get("tasks") if isinstance(head, Mapping) else None
    if isinstance(tasks, list | tuple) and all(isinstance(task, Mapping) for task in tasks):
        wanted = [str(name) for task in tasks for name in task.get("class_names", ())]
        place = f"The {split} split, {source},"
        yield from compare_classes(
            "dataset-classes",
            place,
            classes,
            "the model config's head",
            wanted,
            "Correct metainfo.classes or the head.",
        )
    limits = _at(cfg, "model", "data_preprocessor", "voxel_layer", "point_cloud_range")
    pipeline = _at(innermost(_at(cfg, "val_dataloader", "dataset")), "pipeline")
    for index, step in enumerate(pipeline if isinstance(pipeline, list | tuple) else ()):
        if step_kind(step) == "PointsRangeFilter" and _is_range(limits) and _is_range(step.get("point_cloud_range")):
            at = ("val_dataloader", "dataset", "pipeline", index, "point_cloud_range")
            yield from _ranges(list(step["point_cloud_range"]), list(limits), shown_place(at))


def _ranges(kept: list[float], limits: list[float], place: str) -> Iterator[Finding]:
    if kept == limits:
        return
    is_less = any(low > limit for low, limit in zip(kept[:3], limits[:3], strict=True)) or any(
        high < limit for high, limit in zip(kept[3:], limits[3:], strict=True)
    )
    yield Finding(
        KNOWN_CHECKS["range-filter" if is_less else "range-filter-wider"],
        f"The model config, {place},",
        str(kept),
        "data_preprocessor.voxel_layer.point_cloud_range",
        str(limits),
        "What lies between the two does not reach the network. Give both the same range."
        if is_less
        else "What lies between the two is dropped by the network's own range.",
    )


def _is_range(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 6 and all(isinstance(x, int | float) for x in value)


def _at(node: Any, *keys: str) -> Any:
    for key in keys:
        # mmengine's Config is no mapping, what it holds is.
        node = node.get(key) if hasattr(node, "get") else None
    return node
