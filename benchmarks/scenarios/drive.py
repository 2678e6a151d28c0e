"""The clouds of a drive: as many frames as wanted, each another one, without making each while time is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gpu_cloud import lidar_cloud

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.detector import Detector

__all__ = ["Drive", "made_places"]

# How far the number of points lies below the most, how it varies, and how much of that is left a frame later.
_MEAN, _SPREAD, _KEPT = 0.86, 0.06, 0.98
_LEAST = 0.55


@dataclass(frozen=True, eq=False)
class Drive:
    """Frames of a drive; a frame is a run of the points of one place, in firing order: a view, not a copy.

    The number of points wanders slowly from frame to frame and jumps with every new place, as a real drive's does.

    Attributes:
        places: (N, C) float32 each; all of what their detector reads.
        counts: Points of each frame.
        seed: Of the counts.
    """

    places: tuple[NDArray[np.float32], ...]
    counts: NDArray[np.int64]
    seed: int

    @classmethod
    def through(cls, places: Sequence[NDArray[np.float32]], frames: int, seed: int = 0) -> Drive:
        """A drive of so many frames.

        Raises:
            ValueError: there is no place, or no frame.
        """
        if not places or frames < 1:
            raise ValueError(f"{len(places)} places and {frames} frames make no drive")
        rng = np.random.default_rng(seed)
        steps = rng.normal(0, _SPREAD * np.sqrt(1 - _KEPT**2), frames)
        share = np.empty(frames)
        value = rng.normal(0, _SPREAD)
        for index, step in enumerate(steps):
            value = _KEPT * value + step
            share[index] = value
        counts = np.array([len(places[_place(index, len(places))]) for index in range(frames)])
        kept = np.clip(_MEAN + share, _LEAST, 1)
        return cls(tuple(places), np.maximum((kept * counts).astype(np.int64), np.minimum(counts, 1)), seed)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """(N, C) float32 of a frame; beyond the last one it begins anew."""
        index %= len(self)
        place, count = self.places[_place(index, len(self.places))], int(self.counts[index])
        # Another sector is missing each time.
        start = index * 7919 % (len(place) - count + 1)
        return place[start : start + count]

    def in_memory_of(self, detector: Detector) -> Drive:
        """The same drive in memory that the detector reads by itself, where it has such."""
        moved = []
        for place in self.places:
            memory = detector.new_cloud(len(place))
            memory[:] = place
            moved.append(memory)
        return Drive(tuple(moved), self.counts, self.seed)


def _place(index: int, places: int) -> int:
    # Neighbouring frames are of different places: nothing of a cloud is left in a cache from the frame before.
    return index % places


def made_places(number: int, points: int, columns: Sequence[str], seed: int = 0) -> list[NDArray[np.float32]]:
    """Clouds of a made-up LiDAR in so many surroundings."""
    return [lidar_cloud(points, columns, seed + index) for index in range(number)]
