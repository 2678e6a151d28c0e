"""The project's detection metrics as an evaluator of mmengine's Runner: `val_evaluator = dict(type="DetectionMetric")`.

It registers under that name when it is imported, which the model configs ask for in `custom_imports`. The numbers are
those of `eval.evaluate` on the same boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from eval.metrics import DEFAULT_THRESHOLDS_M, FrameResult, default_ranges, evaluate_detections

__all__ = ["DetectionMetric"]


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """mAP, and AP of each class, of the boxes that an mmdet3d detector predicts on a T4 or nuScenes dataset."""

    default_prefix = "detection"

    def __init__(
        self,
        point_cloud_range: Sequence[float],
        thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
        min_num_points: int = 0,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        """Args:
            point_cloud_range: (6,) metres; the usual distance ranges are scored as far as it reaches.
            thresholds_m: Of the BEV centre distance.
            min_num_points: Ground truth with fewer LiDAR points does not count.
            collect_device: Where mmengine gathers the results of several processes.
            prefix: Of the names of the results, in place of "detection".

        Raises:
            ConfigError: the range is shorter than 5 m.
        """
        super().__init__(collect_device, prefix)
        if len(point_cloud_range) != 6:
            raise ConfigError(f"DetectionMetric: point_cloud_range is {list(point_cloud_range)}; it has 6 numbers.")
        self._ranges = default_ranges(max(abs(point_cloud_range[axis]) for axis in (0, 1, 3, 4)))
        self._thresholds = tuple(thresholds_m)
        self._min_num_points = min_num_points

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the boxes and the truth of a batch.

        Raises:
            DataError: the samples carry no truth.
        """
        for sample in data_samples:
            truth = sample.get("eval_ann_info")
            if truth is None:
                raise DataError(
                    "DetectionMetric: the frames carry no ground truth; their dataset needs load_eval_anns=True."
                )
            found = sample["pred_instances_3d"]
            self.results.append(
                FrameResult(
                    token=f"{sample.get('sample_idx')} {sample.get('lidar_path')}",
                    detections=_detections(found),
                    ground_truth=_boxes(truth["gt_bboxes_3d"], None, truth["gt_labels_3d"], truth["num_lidar_pts"]),
                )
            )

    def compute_metrics(self, results: list[FrameResult]) -> dict[str, float]:
        """`mAP`, and `AP_<class>`, each the mean over the thresholds over the whole range.

        Raises:
            ConfigError: the dataset names no classes.
        """
        names = (self.dataset_meta or {}).get("classes")
        if not names:
            raise ConfigError("DetectionMetric: the dataset's metainfo names no classes.")
        metrics = evaluate_detections(
            results,
            tuple(names),
            thresholds_m=self._thresholds,
            ranges_m=self._ranges,
            min_num_points=self._min_num_points,
        )
        return {"mAP": metrics.mean_ap, **{f"AP_{item.class_name}": item.mean_ap for item in metrics.total.classes}}


def _detections(found: Any) -> Boxes3D:
    """A sample's predictions; those with a size of 0 or less are none, as in `runtime.decode`."""
    boxes = _boxes(found["bboxes_3d"], found["scores_3d"], found["labels_3d"])
    return boxes.select(np.flatnonzero((boxes.boxes[:, 3:6] > 0).all(axis=1)))


def _boxes(boxes: Any, scores: Any, labels: Any, num_points: Any = None) -> Boxes3D:
    """mmdet3d's boxes, whose centre is that of the bottom face, as this project's."""
    values = _array(boxes.tensor, np.float32).copy()
    values[:, 2] += values[:, 5] / 2
    if values.shape[1] == 7:
        values = np.concatenate([values, np.zeros((len(values), 2), np.float32)], axis=1)
    return Boxes3D(
        boxes=values,
        scores=np.ones(len(values), np.float32) if scores is None else _array(scores, np.float32),
        labels=_array(labels, np.int64),
        num_points=None if num_points is None else _array(num_points, np.int64),
    )


def _array(values: Any, dtype: Any) -> Any:
    """A tensor on any device, or an array, as an array."""
    found = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return found.astype(dtype)
