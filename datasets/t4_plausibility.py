"""Whether what is made of a raw T4 dataset can be right: categories that nothing maps, and a few of its clouds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from base.checks import Finding, settle
from base.messages import printable
from datasets.box_plausibility import BoxPoints, BoxWatch
from datasets.plausibility import CloudRemedies, CloudWatch, PointsExpected
from datasets.points import read_points
from datasets.t4_classes import ClassRules
from models.known_checks import KNOWN_CHECKS
from models.point_columns import XYZ_INTENSITY, record_columns

__all__ = ["judge_boxes", "judge_categories", "look_at_clouds", "unused_attributes"]

# Of a dataset's key frames, so many are read: the first, the last, and one between.
_LOOKED_AT = 3
_SHOWN = 20


def judge_categories(infos: Sequence[dict[str, Any]], rules: ClassRules, place: str) -> Iterator[Finding]:
    """What of the annotated categories leads to no class.

    Args:
        infos: Key frames as `create_infos` makes them.
        rules: What maps categories.
        place: The datasets, for messages.
    """
    instances = [instance for info in infos for instance in info["instances"]]
    known = {*rules.name_mapping, *rules.classes}
    names = Counter(item["gt_nusc_name"] for item in instances if item["bbox_label"] < 0)
    unmapped = Counter({name: count for name, count in names.items() if name not in known})
    remedy = f"Map them to {', '.join(rules.classes)} in name_mapping of a file for --classes"
    if instances and all(item["bbox_label_3d"] < 0 for item in instances):
        reasons = Counter(item["gt_nusc_name"] for item in instances)
        value = f"none of {len(instances)} objects has a class: {_listed(reasons)}"
        yield Finding(KNOWN_CHECKS["no-mapped-category"], place, value, remedy=f"{remedy}.")
    elif unmapped:
        value = (
            f"{unmapped.total()} of {len(instances)} objects are of categories that nothing maps: {_listed(unmapped)}"
        )
        end = "; to a name that is no class where they are not wanted."
        yield Finding(KNOWN_CHECKS["unmapped-categories"], place, value, remedy=f"{remedy}{end}")


def unused_attributes(infos: Sequence[dict[str, Any]], rules: ClassRules) -> str:
    """Attributes of objects that no rule names, with their counts; empty where there is none."""
    used = {attribute for _, attribute in rules.filter_attributes}
    found = Counter(name for info in infos for item in info["instances"] for name in item["gt_attrs"])
    return _listed(Counter({name: count for name, count in found.items() if name not in used}))


def _listed(counts: Counter[str]) -> str:
    parts = [f"{printable(name, 100)} {count}" for name, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]
    more = [f"and {len(parts) - _SHOWN} more"] if len(parts) > _SHOWN else []
    return ", ".join([*parts[:_SHOWN], *more])


def judge_boxes(infos: Iterable[dict[str, Any]], place: str) -> Iterator[Finding]:
    """What of the annotated sizes, angles and places no object around a vehicle has.

    Args:
        infos: Key frames as `create_infos` makes them.
        place: The datasets, for messages.
    """
    watch = BoxWatch()
    for info in infos:
        for item in info["instances"]:
            watch.add(item["gt_nusc_name"], item["bbox_3d"], item["num_lidar_pts"])
    yield from watch.findings(place)


def look_at_clouds(infos: Sequence[dict[str, Any]], root: Path, place: str) -> None:
    """Reads a few key frames of a dataset, for what `datasets.plausibility` says of them and of the boxes in them.

    Args:
        infos: Its key frames.
        root: Folder of their point files.
        place: The dataset, for messages.

    Raises:
        DataError: a file is broken, or holds something else than points.
    """
    watches: dict[tuple[float, int], CloudWatch] = {}
    in_boxes = BoxPoints()
    for info in _some(infos):
        points, features = info["lidar_points"], info["lidar_points"]["num_pts_feats"]
        # In a sensor's own frame the ground lies as deep as the sensor stands high.
        height = float(np.asarray(points["lidar2ego"], float)[2, 3])
        if (watch := watches.get((height, features))) is None:
            expected = PointsExpected(ground_z_m=-height)
            watch = CloudWatch(expected, record_columns(features), _remedies(height))
            watches[height, features] = watch
        # PCD files of a dataset may lack what follows intensity: whether a model needs it is asked when it is opened.
        unused = watch.columns[len(XYZ_INTENSITY) :]
        cloud = read_points(root / points["lidar_path"], features, watch, unused)
        boxes = np.asarray([item["bbox_3d"] for item in info["instances"]], float).reshape(-1, 7)
        in_boxes.add(cloud, boxes, [item["num_lidar_pts"] for item in info["instances"]])
    settle(in_boxes.findings(place))


def _remedies(height_m: float) -> CloudRemedies:
    """Advice where no model is there yet: the points or the tables are to be corrected."""
    if height_m == 0:
        return CloudRemedies()
    stated = f"calibrated_sensor.json says that the sensor stands {height_m:.1f} m above the ground"
    return CloudRemedies(
        raise_by=lambda metres: (
            f"{stated}, so that the ground should lie at z = {-height_m:.1f} m in its frame. If the points are in "
            f"base_link already, its translation must be 0; else it should say {height_m - metres:.1f} m"
        )
    )


def _some(infos: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    indices = {round(index) for index in np.linspace(0, len(infos) - 1, _LOOKED_AT)} if infos else set()
    return (infos[index] for index in sorted(indices))
