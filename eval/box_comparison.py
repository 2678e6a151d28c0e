"""What a change of backend does to the boxes: matched, moved, lost, gained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.errors import ConfigError

__all__ = ["BoxComparator", "BoxComparison", "BoxGroup", "BoxTolerance", "default_box_tolerance", "nearest_pairs"]

# Boxes that a failed comparison names.
_EXAMPLES = 3


@dataclass(frozen=True)
class BoxTolerance:
    """When two backends' boxes count as the same.

    Attributes:
        min_score: Boxes below it on both sides are not judged; a partner may score less.
        max_center_m: A pair whose centres are at most this far apart, in space, is matched; beyond it, moved.
        search_radius_m: A box without a partner of its class within this distance is lost or gained.
        min_matched_share: Least share of matched boxes among matched, moved, lost and gained.
    """

    min_score: float = 0.3
    max_center_m: float = 0.01
    search_radius_m: float = 0.5
    min_matched_share: float = 0.99


# INT8: the same quantized network on two engines. A code that is rounded the other way moves an activation by one step,
# 1/254 of its range; the boxes move like those of FP16, more of them, and scores near the threshold cross it.
# FP32 differences move a centre by micrometres; 1 cm fails only where another cell became the peak. With 11 significant
# bits, `reg` (cells of up to 0.5 m) and `height` err by about 1 % of their range, and near-ties of the heatmap flip.
_DEFAULTS = {
    "fp32": BoxTolerance(),
    "fp32_tf32": BoxTolerance(max_center_m=0.05, min_matched_share=0.97),
    "fp16": BoxTolerance(max_center_m=0.05, min_matched_share=0.97),
    "int8": BoxTolerance(max_center_m=0.10, min_matched_share=0.95),
}


def default_box_tolerance(precision: str) -> BoxTolerance:
    """Limits for a precision.

    Raises:
        ConfigError: there are none for this precision.
    """
    if precision not in _DEFAULTS:
        raise ConfigError(f"no box tolerance for precision '{precision}'; there is one for {', '.join(_DEFAULTS)}")
    return _DEFAULTS[precision]


@dataclass(frozen=True)
class BoxGroup:
    """Boxes of one class in one distance range.

    Attributes:
        class_name: Of the boxes.
        range_name: "0-50 m"; the box of the reference decides, or a gained box itself.
        matched: Pairs within the tolerance.
        moved: Pairs of which the centres are farther apart.
        lost: Boxes of the reference without a partner.
        gained: Boxes of the tested backend without a partner.
    """

    class_name: str
    range_name: str
    matched: int
    moved: int
    lost: int
    gained: int


@dataclass(frozen=True)
class BoxComparison:
    """Boxes of two backends over all compared frames; errors are the largest over matched and moved pairs.

    Attributes:
        num_reference: Boxes of the reference with enough score.
        num_test: Boxes of the tested backend with enough score.
        matched: Pairs within the tolerance.
        moved: Pairs of which the centres are farther apart.
        lost: Boxes of the reference without a partner.
        gained: Boxes of the tested backend without a partner.
        max_center_m: Largest distance of centres.
        max_size_m: Largest difference of a length, width or height.
        max_yaw_rad: Largest difference of yaw, in [0, π].
        max_velocity_mps: Largest difference of velocity.
        max_score: Largest difference of scores.
        groups: The same counts by class and range, groups without any box left out.
    """

    num_reference: int
    num_test: int
    matched: int
    moved: int
    lost: int
    gained: int
    max_center_m: float
    max_size_m: float
    max_yaw_rad: float
    max_velocity_mps: float
    max_score: float
    groups: tuple[BoxGroup, ...] = ()

    @property
    def matched_share(self) -> float:
        """Matched among all; NaN where no box has enough score on either side."""
        total = self.matched + self.moved + self.lost + self.gained
        return self.matched / total if total else math.nan

    def violations(self, tolerance: BoxTolerance) -> tuple[str, ...]:
        """What is beyond the tolerance, in words; no boxes at all is not, since the outputs are compared as well."""
        if math.isnan(self.matched_share) or self.matched_share >= tolerance.min_matched_share:
            return ()
        return (
            f"boxes: {self.matched_share:.2%} of the boxes with score >= {tolerance.min_score:g} agree within "
            f"{tolerance.max_center_m * 100:g} cm, {tolerance.min_matched_share:.0%} are needed: "
            f"{self.matched} matched, {self.moved} moved, {self.lost} lost, {self.gained} gained{self._worst_group()}",
        )

    def _worst_group(self) -> str:
        def wrong(item: BoxGroup) -> int:
            return item.moved + item.lost + item.gained

        worst = max(self.groups, key=wrong, default=None)
        if worst is None or wrong(worst) == 0:
            return ""
        return f"; most of them {worst.class_name} at {worst.range_name}"


class BoxComparator:
    """Pairs the boxes of two backends frame by frame: nearest first, one to one, same class.

    Args:
        tolerance: When a pair agrees.
        class_names: Of the labels; empty leaves the groups out.
        ranges_m: Distance ranges of the groups, (min, max) from the ego in the ground plane; what lies beyond them is
            counted under "beyond".
    """

    def __init__(
        self,
        tolerance: BoxTolerance,
        class_names: Sequence[str] = (),
        ranges_m: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.tolerance = tolerance
        self._class_names = tuple(class_names)
        self._ranges_m = tuple(ranges_m)
        self._num_boxes = np.zeros(2, np.int64)
        self._errors = np.zeros(5)
        self._examples: list[str] = []
        self._num_examples = 0
        # matched, moved, lost, gained; by label and range, the last range being all that lies beyond.
        self._counts = np.zeros((4, max(len(self._class_names), 1), len(self._ranges_m) + 1), np.int64)

    def add(self, reference: Boxes3D, test: Boxes3D, frame: str = "") -> None:
        """Adds one frame; its name is for the words of `violations`."""
        floor = self.tolerance.min_score
        strong_a, strong_b = reference.scores >= floor, test.scores >= floor
        pairs = nearest_pairs(reference, test, self.tolerance.search_radius_m)
        # A pair below the score on both sides is not judged.
        a, b = pairs[strong_a[pairs[:, 0]] | strong_b[pairs[:, 1]]].T
        errors = _errors(reference.select(a), test.select(b))
        agrees = errors[0] <= self.tolerance.max_center_m
        lost, gained = strong_a.copy(), strong_b.copy()
        lost[a] = gained[b] = False
        self._num_boxes += [int(strong_a.sum()), int(strong_b.sum())]
        parts = (reference.select(a[agrees]), reference.select(a[~agrees]), reference.select(lost), test.select(gained))
        for row, boxes in enumerate(parts):
            self._count(row, boxes)
        self._keep_examples(frame, parts[1:])
        if len(a):
            self._errors = np.maximum(self._errors, errors.max(axis=1))

    def _count(self, row: int, boxes: Boxes3D) -> None:
        label = boxes.labels if self._class_names else np.zeros(len(boxes), np.int64)
        distance = boxes.distances_m()
        place = np.full(len(boxes), len(self._ranges_m))
        for index, (low, high) in enumerate(self._ranges_m):
            place[(distance >= low) & (distance < high)] = index
        np.add.at(self._counts[row], (label, place), 1)

    def violations(self) -> tuple[str, ...]:
        """What of the frames so far is beyond the tolerance, with some of the boxes by name."""
        found = self.result().violations(self.tolerance)
        if not found or not self._examples:
            return found
        rest = self._num_examples - len(self._examples)
        return (f"{found[0]}; {', '.join(self._examples)}{f' and {rest} more' if rest else ''}", *found[1:])

    def _keep_examples(self, frame: str, parts: Sequence[Boxes3D]) -> None:
        for what, boxes in zip(("moved", "lost", "gained"), parts, strict=True):
            self._num_examples += len(boxes)
            for row in range(min(len(boxes), _EXAMPLES - len(self._examples))):
                label = int(boxes.labels[row])
                name = self._class_names[label] if self._class_names else f"class {label}"
                x, y = boxes.boxes[row, :2]
                self._examples.append(
                    f"{what} in frame '{frame}': {name} at ({x:.1f}, {y:.1f}) m with score {boxes.scores[row]:.2f}"
                )

    def result(self) -> BoxComparison:
        """The comparison over all frames so far."""
        names = [*(f"{low:g}-{high:g} m" for low, high in self._ranges_m), "beyond"]
        groups = tuple(
            BoxGroup(class_name, range_name, *(int(count) for count in self._counts[:, row, column]))
            for row, class_name in enumerate(self._class_names)
            for column, range_name in enumerate(names)
            if self._counts[:, row, column].any()
        )
        num_reference, num_test = self._num_boxes.tolist()
        matched, moved, lost, gained = self._counts.sum(axis=(1, 2)).tolist()
        center, size, yaw, velocity, score = self._errors.tolist()
        return BoxComparison(
            *(num_reference, num_test, matched, moved, lost, gained), *(center, size, yaw, velocity, score), groups
        )


def nearest_pairs(a: Boxes3D, b: Boxes3D, radius_m: float) -> NDArray[np.int64]:
    """(K, 2) one-to-one pairs of one class within the radius, the closest pair chosen first."""
    delta = a.boxes[:, None, :3].astype(np.float64) - b.boxes[None, :, :3]
    distance = np.sqrt((delta**2).sum(axis=2))
    rows, columns = np.nonzero((distance <= radius_m) & (a.labels[:, None] == b.labels[None]))
    free_a, free_b = np.ones(len(a), bool), np.ones(len(b), bool)
    chosen = []
    for index in np.argsort(distance[rows, columns], kind="stable"):
        row, column = rows[index], columns[index]
        if free_a[row] and free_b[column]:
            free_a[row] = free_b[column] = False
            chosen.append((row, column))
    return np.array(chosen, np.int64).reshape(-1, 2)


def _errors(a: Boxes3D, b: Boxes3D) -> NDArray[np.float64]:
    """(5, K) centre, size, yaw, velocity and score differences of pairs."""
    delta = np.abs(a.boxes.astype(np.float64) - b.boxes)
    turn = np.mod(delta[:, 6], 2 * np.pi)
    return np.stack(
        [
            np.sqrt((delta[:, :3] ** 2).sum(axis=1)),
            delta[:, 3:6].max(axis=1, initial=0.0),
            np.minimum(turn, 2 * np.pi - turn),
            np.hypot(delta[:, 7], delta[:, 8]),
            np.abs(a.scores.astype(np.float64) - b.scores),
        ]
    )
