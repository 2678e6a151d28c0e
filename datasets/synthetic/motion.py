"""How bodies move: along a road's lane, in a straight line, or not at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from datasets.synthetic.primitives import Shape
from datasets.synthetic.roads import Road


class Motion(Protocol):
    """Where a body is at a time."""

    def pose(self, time_s: float) -> tuple[float, float, float]:
        """(x, y, yaw) in the world: metres, radians."""
        ...


@dataclass(frozen=True)
class Parked:
    """Stands still."""

    x: float
    y: float
    yaw: float

    def pose(self, time_s: float) -> tuple[float, float, float]:
        """The same at all times."""
        return self.x, self.y, self.yaw


@dataclass(frozen=True)
class AlongRoad:
    """Follows a road at constant speed; `direction` -1 travels against the road's points."""

    road: Road
    start_s: float
    lateral: float
    direction: int
    speed: float
    yaw_offset: float = 0.0

    def pose(self, time_s: float) -> tuple[float, float, float]:
        """On the road at `start_s + direction * speed * time_s`."""
        x, y, yaw = self.road.pose(self.start_s + self.direction * self.speed * time_s, self.lateral)
        return x, y, yaw + self.yaw_offset + (0.0 if self.direction > 0 else math.pi)


@dataclass(frozen=True)
class Straight:
    """Walks straight on in the direction it faces."""

    x: float
    y: float
    yaw: float
    speed: float

    def pose(self, time_s: float) -> tuple[float, float, float]:
        """Start plus speed times time."""
        d = self.speed * time_s
        return self.x + d * math.cos(self.yaw), self.y + d * math.sin(self.yaw), self.yaw


@dataclass(frozen=True)
class Actor:
    """A labelled object. `class_name` as in the data set; `ignored` actors get label -1 (a bicycle without rider)."""

    class_name: str
    shape: Shape
    motion: Motion
    attributes: tuple[str, ...]
    ignored: bool = False

    def velocity(self, time_s: float) -> tuple[float, float]:
        """World velocity (m/s): the mean over the 0.1 s around `time_s`."""
        x0, y0, _ = self.motion.pose(time_s - 0.05)
        x1, y1, _ = self.motion.pose(time_s + 0.05)
        return (x1 - x0) / 0.1, (y1 - y0) / 0.1


class Occupancy:
    """Ground already taken: bodies as rows of discs, tried at the start, middle and end of the scene."""

    def __init__(self, duration_s: float) -> None:
        self._times = (0.0, duration_s / 2, duration_s)
        self._discs: NDArray[np.float64] = np.zeros((len(self._times), 0, 2))
        self._radii = np.zeros(0)

    def claim(self, motion: Motion, length: float, width: float, clearance: float = 0.25) -> bool:
        """Take the ground of a body `length` by `width`, unless something stands there at any of the times."""
        count = max(1, math.ceil(length / width))
        radius = width / 2 * (1.15 if count > 1 else 1.0)
        along = (np.arange(count) - (count - 1) / 2) * ((length - width) / max(count - 1, 1))
        discs = np.empty((len(self._times), count, 2))
        for i, time_s in enumerate(self._times):
            x, y, yaw = motion.pose(time_s)
            discs[i, :, 0] = x + along * math.cos(yaw)
            discs[i, :, 1] = y + along * math.sin(yaw)
        gap: NDArray[np.float64] = np.linalg.norm(discs[:, :, None] - self._discs[:, None], axis=-1)
        if (gap < radius + self._radii + clearance).any():
            return False
        self._discs = np.concatenate([self._discs, discs], axis=1)
        self._radii = np.concatenate([self._radii, np.full(count, radius)])
        return True
