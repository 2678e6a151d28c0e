"""Every check of what is read, by its id: the registry that `--accept`, `accepted_checks` and docs/checks.md go by.

What finds something is in `models.consistency`, `datasets.consistency` and beside the readers; what it is called and
what of it may be accepted is here, in the order of the page.
"""

from __future__ import annotations

from base.checks import Check
from base.errors import CheckpointError, ConfigError
from models.point_checks import POINT_CHECKS

__all__ = ["KNOWN_CHECKS"]

_ROWS = (
    Check(
        "checkpoint-classes",
        "The classes that a checkpoint says it was trained on (`dataset_meta.classes`, `CLASSES`, `class_names` of its "
        "`meta`) are those of the model config's head, in the same order.",
        accepting="the weights' classes are those of the config under other names",
        error=CheckpointError,
    ),
    Check(
        "checkpoint-classes-unknown",
        "A checkpoint says which classes it was trained on. Without that nothing can tell whether their order is the "
        "model config's.",
        "warning",
    ),
    Check(
        "checkpoint-version",
        "The checkpoint was made with mmdet3d 1.0 or later (`mmdet3d_version` of its `meta`): before, length, width "
        "and yaw of a box meant something else.",
        accepting="the weights were converted",
        error=CheckpointError,
    ),
    Check(
        "checkpoint-config",
        "The config that a checkpoint carries (`cfg` or `config` of its `meta`) and the model config agree in what "
        "shapes do not show: range, voxel size, points a pillar, type of pillars and of their encoder, stride of the "
        "heatmap, form of the sizes.",
        accepting="the weights work with this config",
        error=CheckpointError,
    ),
    Check(
        "dataset-classes",
        "The classes that a split of the dataset selects (`metainfo.classes` of the model config, else the info file's "
        "own: `classes` or `categories`) are those of the head, in the same order.",
        accepting="the dataset's labels are the head's under other names",
        error=ConfigError,
    ),
)

KNOWN_CHECKS = {check.id: check for check in _ROWS} | POINT_CHECKS
