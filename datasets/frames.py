"""Frames for evaluation and calibration: exactly what the model config's own test pipeline feeds the network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.checks import settle
from base.errors import ConfigError, DataError
from base.files import sha256_file, user_path
from base.lazy import require
from base.messages import shown, shown_file
from datasets.box_plausibility import BoxPoints
from datasets.cloud_facts import CloudFacts
from datasets.cloud_sizes import largest_frame
from datasets.ground_truth import count_annotations, judge_annotations
from datasets.plausibility import CloudWatch, PointsExpected
from models.point_columns import SQUASHED
from models.point_loading import innermost, point_loading
from models.unsupported import random_steps, step_kind

if TYPE_CHECKING:
    from datasets.t4 import T4Dataset

__all__ = ["Frame", "FrameSource", "check_pipeline", "open_frames"]

_DATASETS = ("T4Dataset", "NuScenesDataset", "KittiDataset")
# Frames of which boxes are held against points.
_HELD = 16
# What only mmdet3d's own datasets take.
_OF_MMDET3D = ("modality", "load_type", "default_cam_key", "pcd_limit_range")


@dataclass(frozen=True, eq=False)
class Frame:
    """One key frame.

    Attributes:
        token: unique name of the sample.
        scene: name of the scene it belongs to.
        timestamp_s: seconds.
        points: (N, C) float32 after the test pipeline: sweeps merged, range filtered; columns as the specification's
            `point_columns`, of the same pipeline: x, y, z (metres, ego frame), usually intensity, time lag in seconds.
        ground_truth: boxes with velocity (NaN where it is not known), score 1, and `num_points`.
        invalid_points: of the key frame's file, points with NaN or an infinity, which were left out.
        zero_points: of the key frame's file, points at exactly (0, 0, 0).
        lidar2ego, ego2global: (4, 4) from the frame of points and boxes to the vehicle's, and on to the map; None where
            the info file does not say.
    """

    token: str
    scene: str
    timestamp_s: float
    points: NDArray[np.float32]
    ground_truth: Boxes3D
    invalid_points: int = 0
    zero_points: int = 0
    lidar2ego: NDArray[np.float64] | None = None
    ego2global: NDArray[np.float64] | None = None


class FrameSource:
    """Frames by index, loaded when asked for; the same index gives the same frame every time.

    Args:
        dataset: What it reads.
        watch: Judges the clouds of key frames when they are read.
    """

    def __init__(self, dataset: T4Dataset, watch: CloudWatch) -> None:
        from datasets.transforms import CheckedLoadPoints

        self._dataset = dataset
        self._watch = watch
        for step in dataset.pipeline.transforms:
            if isinstance(step, CheckedLoadPoints):
                step.watch = watch
        self.class_names: tuple[str, ...] = tuple(dataset.metainfo["classes"])
        self._held: set[int] = set()
        self._in_boxes: BoxPoints | None = BoxPoints()

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def info_sha256(self) -> str:
        """SHA-256 of the info file that says which frames there are."""
        return sha256_file(self._dataset.ann_file)

    def check_ground_truth(self, num: int, reach_m: float) -> None:
        """Whether there is something to find in the first frames; only the info file is asked.

        Args:
            num: How many frames; -1 is all.
            reach_m: How far from the ego objects are evaluated.

        Raises:
            DataError: there is nothing, and nobody accepted that.
        """
        number = len(self) if num == -1 else min(num, len(self))
        infos = (self._dataset.get_data_info(index) for index in range(number))
        truths = (info.get("eval_ann_info") or info["ann_info"] for info in infos)
        counts = count_annotations(truths, len(self.class_names), reach_m)
        settle(judge_annotations(counts, self.class_names, f"Info file {shown_file(self._dataset.ann_file)}"))

    def most_points(self, num: int) -> tuple[int, str]:
        """The most points that one of the first frames can have, by the sizes of its files, and its token.

        Args:
            num: How many frames; -1 is all.
        """
        return largest_frame(self._dataset, len(self) if num == -1 else min(num, len(self)))

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Frame:
        """Loads a frame.

        Raises:
            IndexError: no such frame.
            DataError: its files are missing or broken.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        index %= len(self)
        info = self._dataset.get_data_info(index)
        try:
            packed = self._dataset.prepare_data(index)
        except DataError as error:
            named = f"It is named by sample {shown(info['token'])} of {shown_file(self._dataset.ann_file)}."
            raise DataError(f"{error} {named}") from error
        truth = info.get("eval_ann_info") or info["ann_info"]
        boxes = truth["gt_bboxes_3d"]
        values = boxes.tensor.numpy().astype(np.float32).copy()
        # mmdet3d keeps the centre of the bottom face; the field, and our boxes, the centre.
        values[:, 2] += values[:, 5] / 2
        if values.shape[1] == 7:
            values = np.concatenate([values, np.zeros((len(values), 2), np.float32)], axis=1)
        values[~truth["velocity_known"], 7:] = np.nan
        points = np.ascontiguousarray(packed["inputs"]["points"].numpy(), dtype=np.float32)
        self._hold(index, points, values, truth["num_lidar_pts"])
        cloud = self._watch.seen.get(str(info["lidar_points"]["lidar_path"]), CloudFacts())
        return Frame(
            token=str(info["token"]),
            scene=str(info.get("scene_name", "")),
            timestamp_s=float(info["timestamp"]),
            points=points,
            ground_truth=Boxes3D(
                values, np.ones(len(values), np.float32), truth["gt_labels_3d"], truth["num_lidar_pts"]
            ),
            invalid_points=cloud.invalid,
            zero_points=cloud.zeros,
            lidar2ego=_matrix(info["lidar_points"].get("lidar2ego")),
            ego2global=_matrix(info.get("ego2global")),
        )

    def _hold(
        self, index: int, points: NDArray[np.float32], boxes: NDArray[np.float32], counts: NDArray[np.int64]
    ) -> None:
        """Holds the boxes of one of the first frames against its points, those in range."""
        if self._in_boxes is None or index in self._held:
            return
        self._held.add(index)
        limits = np.asarray(self._watch.expected.range_m or (-np.inf,) * 3 + (np.inf,) * 3)
        inside = ((boxes[:, :2] > limits[:2]) & (boxes[:, :2] < limits[3:5])).all(axis=1)
        self._in_boxes.add(points, boxes[inside, :7].astype(np.float64), counts[inside].tolist())
        place = f"Info file {shown_file(self._dataset.ann_file)}"
        found = list(self._in_boxes.findings(place, "frame-box-points"))
        if found or len(self._held) == _HELD:
            self._in_boxes = None
        settle(found)


def _matrix(rows: Any) -> NDArray[np.float64] | None:
    return None if rows is None else np.asarray(rows, np.float64)


def open_frames(
    model_cfg: Any, split: str = "val", data_root: str | None = None, info_file: str | None = None
) -> FrameSource:
    """Opens a split of the dataset that a model config names.

    Whatever the split, points go through the config's *test* pipeline (`val_dataloader.dataset.pipeline`): training
    frames come without augmentation, and no frame depends on chance.

    Args:
        model_cfg: `mmengine.Config` with `train_dataloader` and `val_dataloader` (and `test_dataloader` where wanted).
        split: "train", "val" or "test".
        data_root: Folder of the dataset, in place of the config's; relative to where the command was typed.
        info_file: Info file in place of the config's; relative to the dataset.

    Raises:
        ConfigError: the config has no such split, or a pipeline step that draws at random, or its split and its
            network contradict each other.
        DataError: the dataset is missing or broken, or contradicts the config (`datasets.consistency`).
    """
    from third_party import mmcv_ext

    mmcv_ext.install()  # before mmdet3d, which imports mmcv's operators
    require("mmdet3d", "to read a T4 dataset")
    from mmengine.registry import DefaultScope

    from datasets.consistency import compare_config

    splits = ("train", "val", "test")
    if split not in splits or f"{split}_dataloader" not in model_cfg:
        have = [s for s in splits if f"{s}_dataloader" in model_cfg]
        raise ConfigError(f"The model config has no split '{split}': it has {have}.")
    if "val_dataloader" not in model_cfg:
        raise ConfigError("The model config has no val_dataloader, whose pipeline every frame goes through.")
    wanted = copy.deepcopy(dict(innermost(model_cfg[f"{split}_dataloader"]["dataset"])))
    kind = wanted.pop("type")
    kind = str(kind).rsplit(".", 1)[-1]
    if kind not in _DATASETS:
        known = " or a ".join(map(repr, _DATASETS))
        raise ConfigError(f"{split}_dataloader.dataset.type is '{kind}'; frames are read from a {known}.")
    pipeline = copy.deepcopy(list(innermost(model_cfg["val_dataloader"]["dataset"])["pipeline"]))
    _check_deterministic(pipeline)
    wanted["pipeline"] = _with_nearest_sweeps(pipeline)
    wanted["test_mode"] = True
    wanted["load_eval_anns"] = True
    root = data_root if data_root is not None else wanted.get("data_root")
    if root is None:
        raise ConfigError("The model config names no data_root; give one with --data-root.")
    wanted["data_root"] = str(user_path(root))
    if info_file is not None:
        wanted["ann_file"] = info_file
    # mmdet3d's transforms are looked up in its own scope, whatever the process did before.
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        dataset = _open_dataset(wanted, kind)
    selected = (wanted.get("metainfo") or {}).get("classes")
    source = "metainfo.classes of the model config" if selected else f"classes of {shown_file(dataset.ann_file)}"
    settle(compare_config(model_cfg, split, dataset.metainfo["classes"], source))
    expected = PointsExpected.of_config(model_cfg, kind, _range_of(model_cfg))
    return FrameSource(dataset, CloudWatch(expected, _judged_columns(wanted["pipeline"], kind)))


def _open_dataset(wanted: dict[str, Any], kind: str) -> T4Dataset:
    """The dataset of the config's type, unless the info file says that it is of another one.

    Args:
        wanted: Arguments of the dataset.
        kind: Its type in the model config.

    Raises:
        ConfigError: no info file is named.
        DataError: the file is missing or broken.
    """
    from datasets.infos import KITTI, OWN_FRAMES, read_info_file

    if not wanted.get("ann_file"):
        raise ConfigError("The model config names no info file (ann_file); give one with --info-file.")
    info = read_info_file(Path(wanted["data_root"]) / wanted["ann_file"])
    if info.dataset == KITTI:
        kind = "KittiDataset"
    elif info.dataset == OWN_FRAMES:
        kind = "T4Dataset"
        for name in _OF_MMDET3D:
            wanted.pop(name, None)
    return _class_of(kind)(**wanted, info=info)


def _class_of(kind: str) -> type[T4Dataset]:
    """What reads a kind of dataset; no run enters the modules of the others."""
    if kind == "NuScenesDataset":
        from datasets.nuscenes import NuScenesInfos

        return NuScenesInfos
    if kind == "KittiDataset":
        from datasets.kitti import KittiInfos

        return KittiInfos
    from datasets.t4 import T4Dataset

    return T4Dataset


def _judged_columns(pipeline: Sequence[Any], kind: str) -> tuple[str, ...]:
    """Names of the numbers of a point in its file; without the intensity where the model does not take it."""
    loading = point_loading(pipeline, "the model config's dataset", dataset=kind)
    if loading is None:
        return ("x", "y", "z")
    taken = {name.removeprefix(SQUASHED) for name in loading.columns}
    return tuple(name if name != "intensity" or name in taken else "" for name in loading.record)


def _range_of(model_cfg: Any) -> Sequence[float] | None:
    """The model's range, where the config has a model."""
    node = model_cfg
    for key in ("model", "data_preprocessor", "voxel_layer", "point_cloud_range"):
        # mmengine's Config is no mapping, what it holds is.
        node = node.get(key) if hasattr(node, "get") else None
    return node if isinstance(node, Sequence) and len(node) == 6 else None


def check_pipeline(model_cfg: Any) -> None:
    """That the test pipeline of a model config makes the same frame every time; `open_frames` does it too.

    Raises:
        ConfigError: one of its steps draws at random.
    """
    if "val_dataloader" in model_cfg:
        _check_deterministic(innermost(model_cfg["val_dataloader"]["dataset"]).get("pipeline", ()))


def _check_deterministic(pipeline: Sequence[Any]) -> None:
    for name in random_steps(pipeline):
        raise ConfigError(
            f"The test pipeline holds '{name}', which draws at random: frames would differ from run to run. Take it "
            "out of val_dataloader.dataset.pipeline."
        )


def _with_nearest_sweeps(pipeline: Sequence[Any]) -> list[Any]:
    """Without `test_mode` mmdet3d draws sweeps at random when a frame has more than sweeps_num."""
    return [
        {**step, "test_mode": True} if step_kind(step) == "LoadPointsFromMultiSweeps" else step for step in pipeline
    ]
