"""The checks of what a number means: whether there is something to find, and whether the network sees it."""

from __future__ import annotations

from base.checks import Check

__all__ = ["SCORE_CHECKS"]

_ROWS = (
    Check(
        "no-ground-truth",
        "The frames that are evaluated have an object to find: of a class, with LiDAR points, within the evaluated "
        "range.",
        accepting="latency alone is wanted",
    ),
    Check(
        "class-without-ground-truth",
        "Every class of the model has an object to find in the frames that are evaluated; the AP of one without is "
        "none.",
        "warning",
    ),
    Check(
        "frames-without-points",
        "Every frame has a point in the model's range; where none has, a run fails.",
        "warning",
    ),
    Check(
        "dropped-pillars",
        "No frame has more pillars than the model takes (`max_voxels`); evaluation.gates.max_dropped_pillars_share "
        "says how many may be lost before a run fails.",
        "warning",
    ),
    Check(
        "unmapped-categories",
        "Every category of a raw T4 dataset with objects is mapped to a class, or named as one that is not wanted.",
        "warning",
    ),
    Check(
        "no-mapped-category",
        "An object of a raw T4 dataset with objects has a class.",
        accepting="the dataset holds nothing to detect",
    ),
)

SCORE_CHECKS = {check.id: check for check in _ROWS}
