"""Every check of what is read, by its id: the registry that `--accept`, `accepted_checks` and docs/checks.md go by.

What finds something is in `models.consistency`, `datasets.consistency` and beside the readers; what it is called and
what of it may be accepted is here, in the order of the page.
"""

from __future__ import annotations

from base.checks import Check
from base.errors import CheckpointError, ConfigError
from models.annotation_checks import ANNOTATION_CHECKS
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
        "shapes do not show: voxel size, range in height, type of pillars and of their encoder, stride of the heatmap, "
        "form of the sizes.",
        accepting="the weights work with this config",
        error=CheckpointError,
    ),
    Check(
        "checkpoint-range",
        "The same config agrees in the range along x and y and in the points of a pillar. A network works with others, "
        "but nobody has measured how well.",
        "warning",
    ),
    Check(
        "dataset-classes",
        "The classes that a split of the dataset selects (`metainfo.classes` of the model config, else the info file's "
        "own: `classes` or `categories`) are those of the head, in the same order.",
        accepting="the dataset's labels are the head's under other names",
        error=ConfigError,
    ),
    Check(
        "columns-unstated",
        "The model config says what the columns of a point are: one of its pipelines loads points with steps that are "
        "known.",
        "warning",
    ),
    Check(
        "columns-of-pipelines",
        "Pipelines of the model config (`val_dataloader`, `test_dataloader`, `train_dataloader`) that leave the same "
        "number of columns leave the same columns.",
        "warning",
    ),
    Check(
        "columns-of-node",
        "A model whose boxes are made as Autoware's node makes them (`evaluation.decode`) takes the columns that the "
        "node feeds.",
        "warning",
    ),
    Check(
        "dataset-categories",
        "`classes` and `categories` of an info file's `metainfo`, where it has both, are the same in the same order.",
    ),
    Check(
        "label-names",
        "Objects whose category (`gt_nusc_name`) is called as one of the info file's classes have that class's label.",
        accepting="categories of the dataset count as other classes than their names say",
    ),
    Check(
        "point-features",
        "`num_pts_feats` of key frames and sweeps in the info file is `load_dim` of the step that reads them.",
        accepting="the files' points have load_dim numbers, and the info file is wrong",
    ),
    Check(
        "sweep-times",
        "Sweeps are 0 to 10 s earlier than their key frame and more than a millisecond, key frames of a scene at most "
        "a minute apart: anything else is a slip of units or of sign.",
        accepting="the timestamps are right",
    ),
    Check(
        "key-frame-times",
        "In raw T4 tables, `timestamp` of a sample and of its LiDAR key frame (`sample_data`) are within a second.",
        accepting="the timestamps are right",
    ),
    Check(
        "sweep-order",
        "Where a sample has more sweeps than the config takes, they are listed latest first, as they are taken.",
        accepting="the first sweeps of a sample are those that are meant",
    ),
    Check(
        "sweep-order-whole",
        "Where all sweeps of a sample are taken, they are listed latest first; else points come in another order, and "
        "other points are left out of full pillars.",
        "warning",
    ),
    Check(
        "sweep-count",
        "Some sample of the info file has as many sweeps as the config takes (`sweeps_num`).",
        "warning",
    ),
    Check(
        "valid-flags",
        "`bbox_3d_isvalid` of an object and its number of points agree: valid where LiDAR or radar saw it.",
        "warning",
    ),
    Check(
        "range-filter",
        "`PointsRangeFilter` of the test pipeline leaves all points of the model's `point_cloud_range`.",
        accepting="the network is to see less than its range",
        error=ConfigError,
    ),
    Check(
        "range-filter-wider",
        "`PointsRangeFilter` of the test pipeline leaves no points that the model's `point_cloud_range` drops anyway.",
        "warning",
    ),
    Check(
        "file-form",
        "A point file that is called `.pcd` begins with a PCD header, and `fileformat` of raw T4 tables is one of "
        "point files.",
    ),
    Check(
        "file-name",
        "The name of a point file and `fileformat` of raw T4 tables say what its first bytes say: a PCD file, or "
        "float32 records. The bytes decide how it is read.",
        "warning",
    ),
    Check(
        "key-frame-valid",
        "In raw T4 tables, `is_valid` of LiDAR data that is used is true.",
        accepting="the data is sound all the same",
    ),
    Check(
        "key-frame-files",
        "In an info file with ten samples or more, at most half of them name a point file that another sample names.",
        accepting="they show the same scan",
    ),
    Check(
        "key-frames",
        "In raw T4 tables, a sample has one LiDAR key frame.",
    ),
)

KNOWN_CHECKS = {check.id: check for check in _ROWS} | POINT_CHECKS | ANNOTATION_CHECKS
