"""Objects of some frames put into others, where they stood: more of a rare class, and beside what real scans show.

As ground-truth sampling of SECOND (Yan et al., Sensors 2018, section 3.2.2): an object is the points inside its box.
Where it is put, the frame's own points go; what would touch an object of the frame is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.on_device.frames import XYZ_STEP_M, PackedFrame

__all__ = ["Drawn", "ObjectBank"]

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
class _Object:
    points: torch.Tensor
    of_last_sweep: int
    box: NDArray[np.float32]


class ObjectBank:
    """Objects by class, and how many of each a frame gets."""

    def __init__(
        self, parts: Sequence[Sequence[PackedFrame]], wanted: Mapping[int, int], device: torch.device, seed: int
    ) -> None:
        """Cuts objects out of frames.

        Args:
            parts: Frames of each dataset, of one sensor.
            wanted: Label -> how many a frame gets at most: of so many drawn, those that touch nothing.
            device: Where points are kept.
            seed: Of the choice where there are more than a class needs.
        """
        self._wanted = dict(wanted)
        rng = np.random.default_rng([seed, 2])
        frames = [frame for part in parts for frame in part]
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

    def __len__(self) -> int:
        return sum(map(len, self._objects.values()))

    def add_to(self, drawn: Drawn, rng: np.random.Generator) -> Drawn:
        """The frame with objects put into it."""
        boxes, labels = [drawn.boxes], [drawn.labels]
        added: list[_Object] = []
        for label, count in self._wanted.items():
            objects = self._objects[label]
            for index in rng.integers(len(objects), size=count) if objects else ():
                found = objects[index]
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
