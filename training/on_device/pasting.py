"""Objects of some frames put into others: more of a rare class, and beside what real scans show.

As ground-truth sampling of SECOND (Yan et al., Sensors 2018, section 3.2.2): an object is the points inside its box.
Where it is put, the frame's own points go; what would touch an object of the frame is left out. It stands where it
stood, or turned about itself and nearer or farther, as VoxelNet changes objects (Zhou and Tuzel, CVPR 2018, section
3.2): what was seen of it stays seen, which is not quite what a sensor would see there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.on_device.frames import XYZ_STEP_M, PackedFrame

__all__ = ["Drawn", "Looseness", "ObjectBank"]

_MIN_POINTS = 12
_MOST_OBJECTS = 4000  # of a class
# Metres between the circles around two boxes.
_GAP_M = 0.2


@dataclass(frozen=True)
class Drawn:
    """A frame to learn from.

    Attributes:
        points: (N, 5) int16 on the device, those without time lag first.
        of_last_sweep: How many have none.
        boxes: (M, 9) float32.
        labels: (M,) int64.
    """

    points: torch.Tensor
    of_last_sweep: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, frame: PackedFrame, points: torch.Tensor) -> Drawn:
        """A frame as it is stored."""
        return cls(points, frame.of_last_sweep, frame.boxes, frame.labels)


@dataclass(frozen=True)
class Looseness:
    """How far an object may stand from where it stood.

    Attributes:
        turn_rad: it is turned about its own centre by up to this, either way.
        distance: ... put at 1 ± this times its distance from the sensor, in its direction, at its height.
    """

    turn_rad: float = 0.0
    distance: float = 0.0

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """An angle, and a factor of the distance."""
        return (
            float(rng.uniform(-self.turn_rad, self.turn_rad)),
            float(rng.uniform(1.0 - self.distance, 1.0 + self.distance)),
        )


_WHERE_IT_STOOD = Looseness()


@dataclass(frozen=True)
class _Object:
    points: torch.Tensor
    of_last_sweep: int
    box: NDArray[np.float32]

    def moved(self, angle: float, factor: float) -> _Object:
        """Turned about its centre, which then is `factor` times as far away."""
        if (angle, factor) == (0.0, 1.0):
            return self
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, sin], [-sin, cos]], np.float32)  # of rows: counter-clockwise
        box = self.box.copy()
        box[:2] *= factor
        box[6] = np.arctan2(np.sin(box[6] + angle), np.cos(box[6] + angle))
        box[7:9] = box[7:9] @ turn
        old, new, by = (torch.from_numpy(part).to(self.points.device) for part in (self.box[:2], box[:2], turn))
        codes = torch.round(((self.points[:, :2] * XYZ_STEP_M - old) @ by + new) / XYZ_STEP_M)
        limits = torch.iinfo(self.points.dtype)
        points = self.points.clone()
        points[:, :2] = codes.clamp(limits.min, limits.max).to(points.dtype)
        return _Object(points, self.of_last_sweep, box)


class ObjectBank:
    """Objects by class, and how many of each a frame gets."""

    def __init__(
        self,
        parts: Sequence[Sequence[PackedFrame]],
        wanted: Mapping[int, int],
        device: torch.device,
        seed: int,
        shares: Sequence[float] | None = None,
        looseness: Looseness = _WHERE_IT_STOOD,
    ) -> None:
        """Cuts objects out of frames.

        Args:
            parts: Frames of each dataset, of one sensor.
            wanted: Label -> how many a frame gets at most: of so many drawn, those that touch nothing.
            device: Where points are kept.
            seed: Of the choice where there are more than a class needs.
            shares: How often objects of each dataset are drawn, among those that have the class; None: every object
                alike.
            looseness: How far they may stand from where they stood.
        """
        self._wanted = dict(wanted)
        self._looseness = looseness
        rng = np.random.default_rng([seed, 2])
        frames = [frame for part in parts for frame in part]
        part_of = [number for number, part in enumerate(parts) for _ in part]
        places: dict[int, list[tuple[int, int]]] = {label: [] for label in wanted}
        for number, frame in enumerate(frames):
            for row, label in enumerate(frame.labels.tolist()):
                if label in places:
                    places[label].append((number, row))
        chosen: dict[int, list[tuple[int, int]]] = {}
        for label, found in places.items():
            order = rng.permutation(len(found))[:_MOST_OBJECTS]
            for number, row in (found[index] for index in sorted(order.tolist())):
                chosen.setdefault(number, []).append((label, row))
        self._objects: dict[int, list[_Object]] = {label: [] for label in wanted}
        sources: dict[int, list[int]] = {label: [] for label in wanted}
        for number, rows in chosen.items():
            frame = frames[number]
            boxes = frame.boxes[[row for _, row in rows]]
            points = torch.from_numpy(frame.points).to(device)
            inside = _inside(points, boxes, heights=True)
            for column, (label, _) in enumerate(rows):
                own = points[inside[:, column]]
                if len(own) >= _MIN_POINTS:
                    lagging = int((own[:, 4] > 0).sum())
                    self._objects[label].append(_Object(own, len(own) - lagging, boxes[column]))
                    sources[label].append(part_of[number])
        self._chances = {label: _chances(of, shares) for label, of in sources.items()}

    def __len__(self) -> int:
        return sum(map(len, self._objects.values()))

    def add_to(self, drawn: Drawn, rng: np.random.Generator) -> Drawn:
        """The frame with objects put into it."""
        boxes, labels = [drawn.boxes], [drawn.labels]
        added: list[_Object] = []
        for label, count in self._wanted.items():
            objects = self._objects[label]
            for index in rng.choice(len(objects), count, p=self._chances[label]) if objects else ():
                found = objects[index].moved(*self._looseness.draw(rng))
                if _is_clear(found.box, np.concatenate(boxes)):
                    boxes.append(found.box[None])
                    labels.append(np.array([label], np.int64))
                    added.append(found)
        if not added:
            return drawn
        covered = _inside(drawn.points, np.concatenate(boxes[1:]), heights=False).any(dim=1)
        kept, last = drawn.points[~covered], drawn.of_last_sweep - int(covered[: drawn.of_last_sweep].sum())
        fresh = [item.points[: item.of_last_sweep] for item in added]
        late = [item.points[item.of_last_sweep :] for item in added]
        return Drawn(
            torch.cat([*fresh, kept, *late]), sum(map(len, fresh)) + last, np.concatenate(boxes), np.concatenate(labels)
        )


def _chances(sources: Sequence[int], shares: Sequence[float] | None) -> NDArray[np.float64]:
    """Of each object, by the number of the dataset that it is of."""
    of = np.asarray(sources, np.int64)
    chances: NDArray[np.float64] = np.ones(len(of))
    if shares is not None:
        chances = np.asarray(shares, np.float64)[of] / np.bincount(of)[of]
    whole: float = chances.sum() or 1.0  # of no objects
    return np.asarray(chances / whole)


def _inside(points: torch.Tensor, boxes: NDArray[np.float32], *, heights: bool) -> torch.Tensor:
    """(N, K) which codes (N, 5) lie in which boxes; without `heights`, above and below them, too."""
    own = torch.from_numpy(boxes).to(points.device)
    offset = points[:, None, :3].to(torch.float32) * XYZ_STEP_M - own[:, :3]
    cos, sin = torch.cos(own[:, 6]), torch.sin(own[:, 6])
    along, across = offset[..., 0] * cos + offset[..., 1] * sin, offset[..., 1] * cos - offset[..., 0] * sin
    inside = (along.abs() <= own[:, 3] / 2) & (across.abs() <= own[:, 4] / 2)
    return inside & (offset[..., 2].abs() <= own[:, 5] / 2) if heights else inside


def _is_clear(box: NDArray[np.float32], others: NDArray[np.float32]) -> bool:
    """Whether the circle around a box touches those around no others."""
    reach = (np.hypot(others[:, 3], others[:, 4]) + np.hypot(box[3], box[4])) / 2 + _GAP_M
    return bool((np.hypot(others[:, 0] - box[0], others[:, 1] - box[1]) > reach).all())
