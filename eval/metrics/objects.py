"""Objects of many frames in columns, the form in which all metrics work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import DataError

__all__ = ["NOT_A_TARGET", "FrameResult", "ObjectTable"]

NOT_A_TARGET = -1
"""Label of an object whose class is not scored; such objects never pass a filter."""


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What a detector said about one frame, beside the truth.

    Attributes:
        token: Name of the frame, unique in an evaluation.
        detections: Boxes with scores.
        ground_truth: Annotated boxes; `num_points` is needed where a minimum point count is asked for.
    """

    token: str
    detections: Boxes3D
    ground_truth: Boxes3D


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """N objects of many frames, sorted by frame; every column is an array of length N.

    Attributes:
        frame: (N,) int64 index of the frame, ascending.
        label: (N,) int64 index into the C scored class names; C is a detection of unknown class, which may take a
            ground truth where the rules let it; or `NOT_A_TARGET`.
        score: (N,) float64; 1 for ground truth.
        center: (N, 3) float64 x, y, z of the box centre in metres, ego frame.
        size: (N, 3) float64 length, width, height in metres.
        yaw: (N,) float64 radians, counter-clockwise from +x.
        velocity: (N, 2) float64 m/s.
        num_points: (N,) int64 LiDAR points in the box; 0 where that is unknown.
    """

    frame: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    center: NDArray[np.float64]
    size: NDArray[np.float64]
    yaw: NDArray[np.float64]
    velocity: NDArray[np.float64]
    num_points: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, index: NDArray[np.bool_] | NDArray[np.integer] | slice) -> ObjectTable:
        """The rows that a boolean mask, an index array or a slice names."""
        return ObjectTable(*(getattr(self, field.name)[index] for field in fields(self)))

    def from_frame(self, start: int) -> ObjectTable:
        """The same objects with frames counted from `start`."""
        return replace(self, frame=self.frame - start)

    def distance_m(self) -> NDArray[np.float64]:
        """(N,) distance of each centre from the ego origin in the ground plane."""
        return np.hypot(self.center[:, 0], self.center[:, 1])

    @classmethod
    def from_boxes(cls, boxes: Sequence[Boxes3D], tokens: Sequence[str], num_classes: int, kind: str) -> ObjectTable:
        """Stacks the boxes of all frames.

        Args:
            boxes: Per frame.
            tokens: Names of the frames, for messages.
            num_classes: Labels must lie in [0, num_classes).
            kind: "detection" or "ground truth", for messages.

        Raises:
            DataError: a label outside the classes, a coordinate, size or score that is NaN or infinite, or a negative
                size.
        """
        counts = np.array([len(item) for item in boxes], dtype=np.int64)
        frame = np.repeat(np.arange(len(boxes), dtype=np.int64), counts)
        everything = [Boxes3D.empty(), *boxes]
        values = np.concatenate([item.boxes for item in everything]).astype(np.float64)
        score = np.concatenate([item.scores for item in everything]).astype(np.float64)
        label = np.concatenate([item.labels for item in everything])
        num_points = np.concatenate(
            [np.zeros(len(item), np.int64) if item.num_points is None else item.num_points for item in everything]
        )

        def complain(row: int, what: str) -> DataError:
            index = row - int(counts[: frame[row]].sum())
            return DataError(f"{kind} {index} of frame '{tokens[int(frame[row])]}' has {what}")

        bad_label = np.flatnonzero((label < 0) | (label >= num_classes))
        if bad_label.size:
            row = int(bad_label[0])
            raise complain(row, f"label {label[row]}; the {num_classes} class names allow 0 to {num_classes - 1}")
        # Velocity may be unknown (NaN) in annotations; no matching value depends on it.
        bad_box = np.flatnonzero(~(np.isfinite(values[:, :7]).all(axis=1) & np.isfinite(score)))
        if bad_box.size:
            row = int(bad_box[0])
            raise complain(row, f"a value that is not finite: box {values[row].tolist()}, score {score[row]}")
        negative = np.flatnonzero((values[:, 3:6] < 0).any(axis=1))
        if negative.size:
            row = int(negative[0])
            raise complain(row, f"a negative size: length, width, height {values[row, 3:6].tolist()}")
        return cls(frame, label, score, values[:, :3], values[:, 3:6], values[:, 6], values[:, 7:9], num_points)
