"""3D boxes in bird's-eye-view order, the one type that detections and ground truth share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BOX_COLUMNS", "Boxes3D"]

BOX_COLUMNS = ("x", "y", "z", "length", "width", "height", "yaw", "vx", "vy")


@dataclass(frozen=True, eq=False)
class Boxes3D:
    """Boxes of one frame in the ego (`base_link`) frame: x forward, y left, z up, metres.

    Attributes:
        boxes: (N, 9) float32, columns `BOX_COLUMNS`: centre of the box (z included, not its bottom), length, width,
            height, yaw in radians counter-clockwise from +x to the length axis, velocity in m/s along ego x and y.
        scores: (N,) float32 in [0, 1]; 1 for ground truth.
        labels: (N,) int64, indices into the class names.
        num_points: (N,) int64 LiDAR points inside each box, where known (ground truth).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    num_points: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, dtype=np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != len(BOX_COLUMNS):
            raise ValueError(f"boxes must be (N, {len(BOX_COLUMNS)}) {BOX_COLUMNS}, got shape {boxes.shape}")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float32))
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int64))
        if self.num_points is not None:
            object.__setattr__(self, "num_points", np.asarray(self.num_points, dtype=np.int64))
        for name in ("scores", "labels", "num_points"):
            column = getattr(self, name)
            if column is not None and column.shape != (len(boxes),):
                raise ValueError(f"{name} must have shape ({len(boxes)},) as boxes has, got {column.shape}")

    @classmethod
    def empty(cls) -> Boxes3D:
        """No box at all."""
        return cls(np.zeros((0, len(BOX_COLUMNS)), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, index: NDArray[np.bool_] | NDArray[np.integer]) -> Boxes3D:
        """The boxes that a boolean mask or an index array names, in that order."""
        points = None if self.num_points is None else self.num_points[index]
        return Boxes3D(self.boxes[index], self.scores[index], self.labels[index], points)

    def distances_m(self) -> NDArray[np.float32]:
        """(N,) distance of each centre from the ego origin in the ground plane, metres."""
        return np.hypot(self.boxes[:, 0], self.boxes[:, 1])
