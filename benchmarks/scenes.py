"""Made-up frames of detections and ground truth, as a detector would leave them."""

from __future__ import annotations

import numpy as np

from eval.metrics import ObjectTable

__all__ = ["CLASS_NAMES", "make_frames"]

CLASS_NAMES = ("car", "truck", "bus", "bicycle", "pedestrian")
_SHARE = (0.5, 0.1, 0.05, 0.1, 0.25)
_SIZES_M = np.array([[4.5, 1.8, 1.6], [8.0, 2.5, 3.2], [11.0, 2.9, 3.1], [1.8, 0.7, 1.5], [0.7, 0.7, 1.7]])
_REACH_M = 120.0


def make_frames(num_frames: int, boxes_per_frame: int, seed: int) -> tuple[ObjectTable, ObjectTable]:
    """Ground truth spread over the detection range, and noisy detections of three quarters of it, beside false ones.

    Args:
        num_frames: Frames.
        boxes_per_frame: Ground truths, and as many detections, in each.
        seed: Equal seeds give equal frames.

    Returns:
        (detections, ground truth)
    """
    rng = np.random.default_rng(seed)
    count = num_frames * boxes_per_frame
    frame = np.repeat(np.arange(num_frames), boxes_per_frame)
    label = rng.choice(len(CLASS_NAMES), count, p=_SHARE)
    center = np.column_stack([rng.uniform(-_REACH_M, _REACH_M, (count, 2)), rng.normal(0.5, 0.3, count)])
    size = _SIZES_M[label] * rng.normal(1.0, 0.08, (count, 3)).clip(0.7, 1.3)
    yaw = rng.uniform(-np.pi, np.pi, count)
    velocity = rng.normal(0, 4, (count, 2))
    truth = ObjectTable(
        frame, label, np.ones(count), center, size, yaw, velocity, rng.integers(1, 300, count).astype(np.int64)
    )
    found = rng.random(count) < 0.75
    moved = center + rng.normal(0, 0.4, center.shape)
    elsewhere = np.column_stack([rng.uniform(-_REACH_M, _REACH_M, (count, 2)), center[:, 2]])
    estimates = ObjectTable(
        frame,
        np.where(rng.random(count) < 0.95, label, rng.integers(0, len(CLASS_NAMES), count)),
        np.where(found, rng.beta(4, 2, count), rng.beta(1.5, 5, count)),
        np.where(found[:, None], moved, elsewhere),
        size * rng.normal(1.0, 0.05, (count, 3)).clip(0.8, 1.2),
        yaw + rng.normal(0, 0.15, count),
        velocity + rng.normal(0, 0.5, (count, 2)),
        np.full(count, -1, np.int64),
    )
    return estimates, truth
