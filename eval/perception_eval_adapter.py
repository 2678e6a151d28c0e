"""Detection metrics computed by the installed autoware_perception_evaluation, in this project's types."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError, MissingDependencyError
from base.progress import progress
from eval.metrics.average_precision import PERCEPTION_EVAL_COMPAT, PrecisionRecall
from eval.metrics.detection_results import ClassMetrics, DetectionMetrics, RangeMetrics
from eval.metrics.modes import MatchingMode
from eval.metrics.objects import FrameResult

__all__ = ["perception_eval_version", "score_with_perception_eval"]

# Our name of a mode -> (the package's, its key in the configuration).
_MODES = {
    "center_distance_bev": ("CENTERDISTANCEBEV", "center_distance_bev_thresholds"),
    "center_distance": ("CENTERDISTANCE", "center_distance_thresholds"),
    "plane_distance": ("PLANEDISTANCE", "plane_distance_thresholds"),
    "iou_bev": ("IOU2D", "iou_2d_thresholds"),
    "iou_3d": ("IOU3D", "iou_3d_thresholds"),
}


def perception_eval_version() -> str:
    """Version of the installed package.

    Raises:
        MissingDependencyError: it is not installed, or something that it imports is not.
    """
    try:
        import perception_eval
        import perception_eval.config
        import perception_eval.evaluation.result.object_result_matching
    except ImportError as error:
        raise MissingDependencyError(
            f"Python package 'perception_eval' is needed for metrics.engine = 'perception_eval', but importing it "
            f"failed: {error}. Get it with 'pip install "
            "git+https://github.com/tier4/autoware_perception_evaluation@v1.3.6', or set metrics.engine = 'native', "
            "which gives the same numbers"
        ) from error
    return str(perception_eval.__version__)


def score_with_perception_eval(
    frames: Sequence[FrameResult],
    like: DetectionMetrics,
    mode: MatchingMode,
    *,
    min_score: float | None,
    min_num_points: int,
) -> DetectionMetrics:
    """Scores by the package what `like` describes: its classes, thresholds and ranges.

    Args:
        frames: As for `evaluate_detections`.
        like: Result of the native engine on the same frames.
        mode: Matching mode.
        min_score: Detections count only above this score.
        min_num_points: Ground truth with fewer points does not count.

    Raises:
        MissingDependencyError: the package is not installed.
        ConfigError: it does not know a class.
        DataError: it fails on these boxes.
    """
    version = perception_eval_version()
    ranges = tuple(
        RangeMetrics(
            item.name, item.min_m, item.max_m, _score_range(frames, like, mode, item, min_score, min_num_points)
        )
        for item in like.ranges
    )
    return replace(like, policy=PERCEPTION_EVAL_COMPAT.name, engine=f"perception_eval {version}", ranges=ranges)


def _score_range(
    frames: Sequence[FrameResult],
    like: DetectionMetrics,
    mode: MatchingMode,
    part: RangeMetrics,
    min_score: float | None,
    min_num_points: int,
) -> tuple[ClassMetrics, ...]:
    from perception_eval.common.transform import TransformDict
    from perception_eval.config import PerceptionEvaluationConfig
    from perception_eval.evaluation.matching.objects_filter import divide_objects_to_num, filter_objects
    from perception_eval.evaluation.metrics import MetricsScore
    from perception_eval.evaluation.result.object_result_matching import NuscenesObjectMatcher
    from perception_eval.util.aggregation_results import accumulate_nuscene_results

    name, key = _MODES[mode.name]
    options = {
        "evaluation_task": "detection",
        "target_labels": list(like.class_names),
        "label_prefix": "autoware",
        "merge_similar_labels": False,
        "min_distance": part.min_m,
        "max_distance": part.max_m,
        "min_point_numbers": min_num_points,
        "confidence_threshold": min_score,
        # Nested: a flat list as long as the classes would mean one threshold per class.
        key: [[value] for value in like.thresholds],
    }
    with tempfile.TemporaryDirectory() as folder:
        config = PerceptionEvaluationConfig(
            dataset_paths=[],
            frame_id="base_link",
            result_root_directory=folder,
            evaluation_config_dict=options,
        )
    labels = _labels(config, like.class_names)
    transforms = TransformDict(None)
    matcher = NuscenesObjectMatcher(
        evaluation_task=config.evaluation_task,
        metrics_config=config.metrics_config,
        matching_label_policy=config.label_params["matching_label_policy"],
        transforms=transforms,
        matching_class_agnostic_fps=config.label_params["matching_class_agnostic_fps"],
    )
    pooled: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    num_truth = {label.label: 0 for label in labels}
    try:
        for frame in progress(frames, f"perception_eval, {part.name}"):
            found, truth = (
                filter_objects(
                    _objects(boxes, labels, truth=is_gt), is_gt=is_gt, transforms=transforms, **config.filtering_params
                )
                for boxes, is_gt in ((frame.detections, False), (frame.ground_truth, True))
            )
            accumulate_nuscene_results(pooled, matcher.match(found, truth))
            for label, count in divide_objects_to_num(truth, config.target_labels).items():
                num_truth[label] += count
        score = MetricsScore(config=config.metrics_config, used_frame=list(range(len(frames))))
        score.evaluate_detection(pooled, num_truth)
    except (AssertionError, ZeroDivisionError) as error:
        raise DataError(
            f"perception_eval cannot score these boxes: {error!r}. It fails on overlaps of equal boxes (an IoU of 1 + "
            "1e-14 is refused; 'python -O' skips that check) and on boxes without area; metrics.engine = 'native' "
            "scores both"
        ) from error
    (result,) = (item for item in score.mean_ap_values if item.matching_mode.name == name)
    return tuple(
        ClassMetrics(class_name, _thresholds(result.label_to_aps[label.label], result.label_to_aphs[label.label]))
        for class_name, label in zip(like.class_names, labels, strict=True)
    )


def _labels(config: Any, class_names: Sequence[str]) -> list[Any]:
    labels = [config.label_converter.convert_label(name) for name in class_names]
    for name, label in zip(class_names, labels, strict=True):
        if label.label.value != name:
            raise ConfigError(
                f"perception_eval takes class '{name}' for '{label.label.value}'; name the classes as it does, or set "
                "metrics.engine = 'native'"
            )
    return labels


def _objects(boxes: Boxes3D, labels: Sequence[Any], *, truth: bool) -> list[Any]:
    from perception_eval.common.object import DynamicObject
    from perception_eval.common.schema import FrameID
    from perception_eval.common.shape import Shape, ShapeType
    from pyquaternion import Quaternion

    objects = []
    values = boxes.boxes.astype(np.float64).tolist()
    points = boxes.num_points if boxes.num_points is not None else np.zeros(len(boxes), np.int64)
    scores = [1.0] * len(boxes) if truth else boxes.scores.astype(np.float64).tolist()
    for (x, y, z, length, width, height, yaw, vx, vy), score, label, count in zip(
        values, scores, boxes.labels.tolist(), points.tolist(), strict=True
    ):
        objects.append(
            DynamicObject(
                unix_time=0,
                frame_id=FrameID.BASE_LINK,
                position=(x, y, z),
                orientation=Quaternion(math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)),
                shape=Shape(ShapeType.BOUNDING_BOX, (width, length, height)),
                velocity=None if math.isnan(vx) or math.isnan(vy) else (vx, vy, 0.0),
                semantic_score=score,
                semantic_label=labels[label],
                pointcloud_num=count if truth else None,
            )
        )
    return objects


def _thresholds(aps: Sequence[Any], aphs: Sequence[Any]) -> tuple[PrecisionRecall, ...]:
    """The package's results at all thresholds of a class, ascending."""
    weighted = {item.matching_threshold: item for item in aphs}
    found = [_precision_recall(item, weighted[item.matching_threshold]) for item in aps]
    return tuple(sorted(found, key=lambda item: item.threshold))


def _precision_recall(ap: Any, aph: Any) -> PrecisionRecall:
    policy = PERCEPTION_EVAL_COMPAT
    curve = np.zeros(policy.num_recalls)
    if ap.tp_list:
        precision, recall = ap.get_precision_recall()
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        curve = np.interp(np.linspace(0.0, 1.0, policy.num_recalls), recall, envelope, right=0.0)
    return PrecisionRecall(
        threshold=float(ap.matching_threshold),
        ap=float(ap.ap),
        aph=float(aph.ap),
        num_ground_truth=int(ap.num_ground_truth),
        num_detections=int(ap.objects_results_num),
        num_true_positives=round(ap.tp_list[-1]) if ap.tp_list else 0,
        heading_sum=float(aph.tp_list[-1]) if aph.tp_list else 0.0,
        max_f1=float(ap.max_f1_score),
        best_score=float(ap.optimal_conf),
        best_precision=float(ap.optimal_precision),
        best_recall=float(ap.optimal_recall),
        match_mean=math.nan if ap.matching_average is None else ap.matching_average,
        match_std=math.nan if ap.matching_standard_deviation is None else ap.matching_standard_deviation,
        curve=tuple(np.round(curve, 6).tolist()),
    )
