"""What Autoware's lidar_centerpoint node does with the network's outputs, as values: thresholds, distances, classes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.spec import ModelSpec

__all__ = [
    "AUTOWARE_LABELS",
    "DEFAULT_DISTANCE_BINS_M",
    "DEFAULT_SCORE_THRESHOLD",
    "NODE_CLASS_LABELS",
    "AreaRemapping",
    "AutowareDecodeParams",
    "node_class_names",
]

AUTOWARE_LABELS = ("UNKNOWN", "CAR", "TRUCK", "BUS", "TRAILER", "MOTORCYCLE", "BICYCLE", "PEDESTRIAN")
"""Labels of `autoware_perception_msgs/ObjectClassification`, by number."""

NODE_CLASS_LABELS = {
    "CAR": 1,
    "TRUCK": 2,
    "BUS": 3,
    "TRAILER": 4,
    "MOTORBIKE": 5,
    "BICYCLE": 6,
    "PEDESTRIAN": 7,
}
"""Class names that the node knows -> label; it publishes any other name as UNKNOWN."""

DEFAULT_SCORE_THRESHOLD = 0.35
DEFAULT_DISTANCE_BINS_M = (50.0, 90.0, 121.0, 200.0)
_YAW_NORM_THRESHOLD = 0.3
_TRUCK_AREA_M2 = 12.1
_TRAILER_AREA_M2 = 36.0
_NO_LIMIT_M2 = 999.999


def node_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Class names of a model as the node spells them: upper case, MOTORBIKE for a motorcycle."""
    return tuple("MOTORBIKE" if name.upper() == "MOTORCYCLE" else name.upper() for name in class_names)


@dataclass(frozen=True)
class AreaRemapping:
    """Classes that change with the area of the box seen from above; square matrices [from label, to label].

    Attributes:
        allow: 1 where a label may become another.
        min_area_m2: From this area,
        max_area_m2: to this one, both included.
    """

    allow: tuple[tuple[int, ...], ...]
    min_area_m2: tuple[tuple[float, ...], ...]
    max_area_m2: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        size = len(AUTOWARE_LABELS)
        for name in ("allow", "min_area_m2", "max_area_m2"):
            rows = getattr(self, name)
            if len(rows) != size or any(len(row) != size for row in rows):
                shape = [len(row) for row in rows]
                raise ConfigError(
                    f"Class remapping: {name} has rows of {shape}; it needs {size} x {size}, a row a label."
                )

    @classmethod
    def default(cls) -> AreaRemapping:
        """Large cars are trucks; cars, trucks and buses of 36 m² and more are trailers."""
        rules = {("CAR", "TRUCK"): (_TRUCK_AREA_M2, _TRAILER_AREA_M2)}
        rules |= {(name, "TRAILER"): (_TRAILER_AREA_M2, _NO_LIMIT_M2) for name in ("CAR", "TRUCK", "BUS")}

        def matrix(values: Mapping[tuple[str, str], float]) -> tuple[tuple[float, ...], ...]:
            return tuple(tuple(values.get((a, b), 0.0) for b in AUTOWARE_LABELS) for a in AUTOWARE_LABELS)

        allow = tuple(tuple(int(value) for value in row) for row in matrix(dict.fromkeys(rules, 1.0)))
        return cls(
            allow,
            matrix({key: low for key, (low, _) in rules.items()}),
            matrix({key: high for key, (_, high) in rules.items()}),
        )

    def apply(self, labels: NDArray[np.int64], areas_m2: NDArray[np.float32]) -> NDArray[np.int64]:
        """The labels after remapping, each at most once: the lowest target label that is allowed wins.

        Args:
            labels: (N,) indices into `AUTOWARE_LABELS`.
            areas_m2: (N,) length times width.
        """
        if not len(labels):
            return labels
        area = areas_m2.astype(np.float64)[:, None]
        possible = np.asarray(self.allow, bool)[labels]
        possible &= (area >= np.asarray(self.min_area_m2)[labels]) & (area <= np.asarray(self.max_area_m2)[labels])
        return np.where(possible.any(axis=1), possible.argmax(axis=1), labels).astype(np.int64)


@dataclass(frozen=True)
class AutowareDecodeParams:
    """Parameters of `runtime.autoware_postprocess.decode_autoware`; those of a bundle and of the node's common file.

    Attributes:
        class_names: In heatmap order, as the node spells them.
        distance_bins_m: Upper limits of the distance bins, ascending; detections beyond the last are dropped.
        score_thresholds: Per class, per bin: a detection below is dropped.
        yaw_norm_thresholds: Per class: a detection whose (sin, cos) is shorter is dropped.
        circle_nms_distance_m: A centre nearer than this to a better one is dropped, whatever the classes.
        iou_nms_search_distance_m: Pairs with centres farther apart are not compared.
        iou_nms_threshold: A box that overlaps a better one by more is dropped.
        has_twist: Velocities are published.
        remapping: Classes by area.
    """

    class_names: tuple[str, ...]
    distance_bins_m: tuple[float, ...]
    score_thresholds: tuple[tuple[float, ...], ...]
    yaw_norm_thresholds: tuple[float, ...]
    circle_nms_distance_m: float = 0.5
    iou_nms_search_distance_m: float = 10.0
    iou_nms_threshold: float = 0.1
    has_twist: bool = True
    remapping: AreaRemapping = field(default_factory=AreaRemapping.default)

    def __post_init__(self) -> None:
        count = len(self.class_names)
        if not count or len(set(self.class_names)) != count:
            raise ConfigError(f"Autoware decode: class_names {list(self.class_names)} must be distinct and not empty.")
        bins = self.distance_bins_m
        if not bins or any(not low < high for low, high in zip((0.0, *bins), bins, strict=False)):
            raise ConfigError(f"Autoware decode: distance_bins_m {list(bins)} must be positive and ascending.")
        if len(self.yaw_norm_thresholds) != count or len(self.score_thresholds) != count:
            raise ConfigError(
                f"Autoware decode: {count} classes have {len(self.yaw_norm_thresholds)} yaw_norm_thresholds and "
                f"{len(self.score_thresholds)} rows of score_thresholds; each class needs one."
            )
        for name, row in zip(self.class_names, self.score_thresholds, strict=True):
            if len(row) != len(bins):
                raise ConfigError(
                    f"Autoware decode: class {name} has {len(row)} score thresholds for {len(bins)} distance bins."
                )
        values = [*self.yaw_norm_thresholds, *(value for row in self.score_thresholds for value in row)]
        wrong = [value for value in values if not 0.0 <= value < 1.0]
        if wrong:
            raise ConfigError(f"Autoware decode: threshold {wrong[0]} is outside [0, 1); the node would make it 0.")
        if not 0.0 < self.circle_nms_distance_m < math.inf:
            raise ConfigError(f"Autoware decode: circle_nms_distance_m is {self.circle_nms_distance_m}, not positive.")
        if not 0.0 <= self.iou_nms_threshold <= 1.0 or not 0.0 <= self.iou_nms_search_distance_m < math.inf:
            raise ConfigError(
                f"Autoware decode: iou_nms_threshold {self.iou_nms_threshold} must lie in [0, 1] and "
                f"iou_nms_search_distance_m {self.iou_nms_search_distance_m} must not be negative."
            )

    @classmethod
    def from_spec(
        cls,
        spec: ModelSpec,
        score_thresholds: Mapping[str, Sequence[float]] | None = None,
        distance_bins_m: Sequence[float] = DEFAULT_DISTANCE_BINS_M,
    ) -> AutowareDecodeParams:
        """The node's defaults for a model.

        Args:
            spec: Its specification.
            score_thresholds: The model's class name -> threshold per bin; the default where a class is left out.
            distance_bins_m: Upper limits of the bins.

        Raises:
            ConfigError: a threshold for a class that the model lacks, or a value outside its limits.
        """
        given = dict(score_thresholds or {})
        unknown = sorted(set(given) - set(spec.class_names))
        if unknown:
            raise ConfigError(
                f"Score thresholds are given for {unknown}; model '{spec.name}' has {list(spec.class_names)}."
            )
        default = (DEFAULT_SCORE_THRESHOLD,) * len(distance_bins_m)
        names = node_class_names(spec.class_names)
        # A pedestrian has no front that LiDAR could see; neither has what the node does not know.
        turned = set(NODE_CLASS_LABELS) - {"PEDESTRIAN"}
        return cls(
            class_names=names,
            distance_bins_m=tuple(distance_bins_m),
            score_thresholds=tuple(tuple(given.get(name, default)) for name in spec.class_names),
            yaw_norm_thresholds=tuple(_YAW_NORM_THRESHOLD if name in turned else 0.0 for name in names),
            has_twist=any(head.name == "vel" for head in spec.heads),
        )

    def with_score_threshold(self, threshold: float) -> AutowareDecodeParams:
        """The same with one score threshold for every class and distance."""
        rows = ((threshold,) * len(self.distance_bins_m),) * len(self.class_names)
        return dataclasses.replace(self, score_thresholds=rows)
