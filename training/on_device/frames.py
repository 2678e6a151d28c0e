"""Training frames in a few bytes a point, so that thousands of them lie in a device's memory."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from base.children import in_processes
from base.errors import DataError
from base.progress import progress

if TYPE_CHECKING:
    from datasets.frames import Frame

__all__ = ["FrameStore", "PackedFrame", "load_frames", "pack", "unpack"]

XYZ_STEP_M = 0.0025
"""Positions are whole multiples of it: an eighth of a sensor's noise, and int16 reaches 81.9 m."""
_INTENSITY_STEP = 1.0 / 64.0
_LAG_STEP_S = 0.0005
# What a rotated square of the model's range can reach, and what scaling and shifting add to it.
_REACH_FACTOR, _REACH_MARGIN_M = 1.42, 8.0
_INT16_REACH_M = 80.0


@dataclass(frozen=True)
class PackedFrame:
    """One frame.

    Attributes:
        points: (N, 5) int16: x, y, z, intensity and time lag in the steps above; those without time lag first.
        boxes: (M, 9) float32 [x, y, z centre, l, w, h, yaw, vx, vy], of objects that hold a point.
        labels: (M,) int64.
    """

    points: NDArray[np.int16]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def of_last_sweep(self) -> int:
        """How many points have no time lag: the first ones."""
        return int(np.count_nonzero(self.points[:, 4] <= 0))


def pack(frame: Frame) -> PackedFrame:
    """Packs a frame of x, y, z, intensity, time lag.

    Raises:
        DataError: its points have other columns than five.
    """
    if frame.points.shape[1] != 5:
        raise DataError(
            f"Frame '{frame.token}' has {frame.points.shape[1]} numbers a point; training on the device takes 5: x, y, "
            "z, intensity and time lag."
        )
    steps = np.array([XYZ_STEP_M, XYZ_STEP_M, XYZ_STEP_M, _INTENSITY_STEP, _LAG_STEP_S], np.float32)
    codes = np.rint(frame.points / steps)
    codes = codes[np.argsort(codes[:, 4] > 0, kind="stable")]
    near = (np.abs(codes[:, :2]) < _INT16_REACH_M / XYZ_STEP_M).all(axis=1)
    limits = np.iinfo(np.int16)
    truth = frame.ground_truth
    seen = truth.labels >= 0
    if truth.num_points is not None:
        seen &= truth.num_points > 0
    return PackedFrame(
        np.clip(codes[near], limits.min, limits.max).astype(np.int16),
        truth.boxes[seen].copy(),
        truth.labels[seen].copy(),
    )


def unpack(codes: torch.Tensor) -> torch.Tensor:
    """(N, 5) int16 codes as float32 metres, intensity and seconds, on their device."""
    steps = [XYZ_STEP_M, XYZ_STEP_M, XYZ_STEP_M, _INTENSITY_STEP, _LAG_STEP_S]
    return codes.to(torch.float32) * torch.tensor(steps, device=codes.device)


def load_frames(
    cfg: Any, data_root: str, split: str = "train", info_file: str | None = None, workers: int | None = None
) -> list[PackedFrame]:
    """All frames of a dataset, through the model config's test pipeline with a range that leaves room to rotate.

    Args:
        cfg: Model config; not changed.
        data_root: Folder of the dataset.
        split: Of the dataset.
        info_file: In place of the config's; relative to the dataset.
        workers: Processes; None for one a processor.

    Raises:
        DataError: the dataset is missing or broken, or of other columns.
    """
    from datasets.frames import open_frames

    frames = open_frames(_widened(cfg), split, data_root, info_file)
    count = len(frames)
    workers = max(1, min(workers or len(os.sched_getaffinity(0)), count))

    def work(share: Sequence[int]) -> Iterator[tuple[int, PackedFrame]]:
        torch.set_num_threads(1)
        for index in share:
            yield index, pack(frames[index])

    shares = [range(first, count, workers) for first in range(workers)]
    packed = work(shares[0]) if workers == 1 else in_processes(work, shares, "frames")
    loaded = dict(progress(packed, f"loading {data_root}", count, unit="frame"))
    return [loaded[index] for index in range(count)]


def _widened(cfg: Any) -> Any:
    cfg = copy.deepcopy(cfg)
    lower, upper = np.asarray(cfg.point_cloud_range[:3]), np.asarray(cfg.point_cloud_range[3:])
    reach = min(float(np.abs([lower[:2], upper[:2]]).max()) * _REACH_FACTOR + _REACH_MARGIN_M, _INT16_REACH_M)
    for step in cfg.val_dataloader.dataset.pipeline:
        if step.type == "LoadPointsFromMultiSweeps":
            step.pad_empty_sweeps = False  # a single scan is one scan, not two copies of it
        if step.type == "PointsRangeFilter":
            step.point_cloud_range = [-reach, -reach, float(lower[2]) - 1.0, reach, reach, float(upper[2]) + 1.0]
    return cfg


class FrameStore:
    """Frames of one or more datasets on a device, and batches of them in an order that a seed decides."""

    def __init__(
        self, parts: Sequence[Sequence[PackedFrame]], shares: Sequence[float], device: torch.device, seed: int
    ) -> None:
        """Uploads.

        Args:
            parts: Frames of each dataset.
            shares: Of a batch, for each dataset; scaled to a sum of 1.
            device: Where points are kept.
            seed: Of the order.
        """
        self.device = device
        self._parts = parts
        self._points = [[torch.from_numpy(frame.points).to(device) for frame in part] for part in parts]
        self._shares = np.asarray(shares, float) / sum(shares)
        self._rng = np.random.default_rng(seed)
        self._orders: list[list[int]] = [[] for _ in parts]

    def draw(self, size: int) -> tuple[list[torch.Tensor], list[PackedFrame]]:
        """The next batch: points of each frame (N, 5) int16 on the device, and the frames themselves."""
        points, frames = [], []
        for part in self._rng.choice(len(self._parts), size, p=self._shares):
            if not self._orders[part]:
                self._orders[part] = self._rng.permutation(len(self._parts[part])).tolist()
            index = self._orders[part].pop()
            points.append(self._points[part][index])
            frames.append(self._parts[part][index])
        return points, frames
