"""Named ways to score, for files without configurations."""

from __future__ import annotations

from dataclasses import replace

from eval.metrics import PERCEPTION_EVAL_COMPAT, ObjectLimits
from eval.score_configs import ScoreConfig, Thresholds

__all__ = ["NUSCENES_PRESET", "PRESETS"]

NUSCENES_PRESET = "nuscenes"

_AWML_CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")
_AWML_RANGES = {
    "awml": (0.0, 121.0),
    "awml/0-50m": (0.0, 50.0),
    "awml/50-90m": (50.0, 90.0),
    "awml/90-121m": (90.0, 121.0),
}


def _same(thresholds: tuple[float, ...]) -> Thresholds:
    return (thresholds,) * len(_AWML_CLASSES)


_AWML = tuple(
    ScoreConfig(
        name=name,
        class_names=_AWML_CLASSES,
        modes={"CENTERDISTANCEBEV": _same((0.5, 1.0, 2.0, 4.0)), "PLANEDISTANCE": _same((2.0, 4.0))},
        limits=ObjectLimits(low, high, min_num_points=0.0),
        pass_fail_thresholds=(2.0,) * len(_AWML_CLASSES),
    )
    for name, (low, high) in _AWML_RANGES.items()
)
_OVERLAP = ScoreConfig(
    name="overlap",
    class_names=_AWML_CLASSES,
    modes={"IOU2D": _same((0.3, 0.5, 0.7)), "IOU3D": _same((0.3, 0.5, 0.7))},
    limits=ObjectLimits(0.0, 121.0, min_num_points=0.0),
)

PRESETS: dict[str, tuple[ScoreConfig, ...]] = {
    "awml": _AWML,
    "awml_compat": tuple(
        replace(item, name=item.name.replace("awml", "awml_compat"), policy=PERCEPTION_EVAL_COMPAT, compat=True)
        for item in _AWML
    ),
    "overlap": (_OVERLAP,),
}
"""Named ways to score: AWML's production configuration in each of its distance ranges, the same with perception_eval's
headings, and overlaps. `NUSCENES_PRESET` is one more."""
