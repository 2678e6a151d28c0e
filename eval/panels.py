"""Frames worth looking at: those where the detector errs most, with what each backend saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import DataError
from eval.evaluator import BackendEvaluation
from eval.frames import FramesLike
from eval.metrics import CENTER_DISTANCE_BEV, FrameResult, ObjectTable
from eval.metrics.matching import assign, candidate_pairs

__all__ = ["BackendView", "FramePanel", "frame_hits", "select_panels"]

MIN_SCORE = 0.3
MATCH_M = 2.0
MAX_EXTENT_M = 60.0


@dataclass(frozen=True, eq=False)
class BackendView:
    """Detections of one backend on a frame, judged at 2 m.

    Attributes:
        label: Of the backend.
        detections: Boxes with score >= 0.3.
        correct: (N,) which have a ground truth.
        found: (G,) which ground truths have a detection.
    """

    label: str
    detections: Boxes3D
    correct: NDArray[np.bool_]
    found: NDArray[np.bool_]

    @property
    def num_errors(self) -> int:
        """False positives and misses."""
        return int((~self.correct).sum() + (~self.found).sum())


@dataclass(frozen=True, eq=False)
class FramePanel:
    """One frame for the report.

    Attributes:
        token: Name of the frame.
        class_names: Names of the labels.
        points: (N, 3) float32 x, y, z in metres, ego frame.
        ground_truth: Boxes within the shown area.
        views: One per backend.
        extent_m: The area shown reaches this far from the ego in x and y.
    """

    token: str
    class_names: tuple[str, ...]
    points: NDArray[np.float32]
    ground_truth: Boxes3D
    views: tuple[BackendView, ...]
    extent_m: float


def frame_hits(
    detections: Boxes3D, ground_truth: Boxes3D, num_classes: int, match_m: float = MATCH_M
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections have a ground truth and which ground truths a detection, in one frame.

    Returns:
        (N,) and (G,) masks, by the metric's own matching at `match_m` metres.
    """
    names = ["frame"]
    estimates = ObjectTable.from_boxes([detections], names, num_classes, "detection")
    truth = ObjectTable.from_boxes([ground_truth], names, num_classes, "ground truth")
    loosest = np.full(num_classes, match_m)
    pairs = candidate_pairs(estimates, truth, CENTER_DISTANCE_BEV, np.eye(num_classes, dtype=bool), loosest)
    rank = np.empty(len(estimates), np.int64)
    rank[np.argsort(-estimates.score, kind="stable")] = np.arange(len(estimates))
    match = assign(pairs, rank, len(truth))
    found = np.zeros(len(truth), bool)
    found[match[match >= 0]] = True
    return match >= 0, found


def _within(boxes: Boxes3D, extent_m: float) -> Boxes3D:
    return boxes.select(np.abs(boxes.boxes[:, :2]).max(axis=1, initial=0.0) < extent_m)


def _view(label: str, frame: FrameResult, num_classes: int, extent_m: float) -> BackendView:
    detections = _within(frame.detections.select(frame.detections.scores >= MIN_SCORE), extent_m)
    correct, found = frame_hits(detections, _within(frame.ground_truth, extent_m), num_classes)
    return BackendView(label, detections, correct, found)


def select_panels(
    evaluations: Sequence[BackendEvaluation], frames: FramesLike, count: int = 4
) -> tuple[FramePanel, ...]:
    """The frames with most errors, worst first.

    Args:
        evaluations: The reference first; at most two are shown: the first and the last. All over the same frames.
        frames: The dataset they were made from, for the points.
        count: How many.

    Raises:
        DataError: the evaluations are of different frames, or not of these.
    """
    if not evaluations:
        return ()
    shown = [evaluations[0], evaluations[-1]] if len(evaluations) > 1 else [evaluations[0]]
    if len({tuple(frame.token for frame in item.frames) for item in shown}) > 1:
        raise DataError("backends were evaluated on different frames; their detections cannot be shown side by side")
    metrics = shown[-1].metrics
    extent = min(metrics.total.max_m, MAX_EXTENT_M)
    num_classes = len(metrics.class_names)
    views = [
        tuple(_view(item.summary.label, item.frames[index], num_classes, extent) for item in shown)
        for index in range(len(shown[0].frames))
    ]
    worst = sorted(range(len(views)), key=lambda index: (-max(view.num_errors for view in views[index]), index))
    panels = []
    for index in worst[:count]:
        frame, result = frames[index], shown[0].frames[index]
        if frame.token != result.token:
            raise DataError(f"frame {index} is '{frame.token}' in the dataset but '{result.token}' in the evaluation")
        truth = _within(result.ground_truth, extent)
        points = frame.points[:, :3]
        panels.append(FramePanel(frame.token, metrics.class_names, points, truth, views[index], extent))
    return tuple(panels)
