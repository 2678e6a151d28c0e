"""What `//eval:score` scores: perception_eval's configuration dictionaries, checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import ConfigError, DataError
from base.messages import printable, shown
from eval.metrics import (
    CENTER_DISTANCE,
    CENTER_DISTANCE_BEV,
    IOU_3D,
    IOU_BEV,
    NOT_A_TARGET,
    PERCEPTION_EVAL,
    PERCEPTION_EVAL_COMPAT,
    PLANE_DISTANCE,
    ApPolicy,
    MatchingMode,
    MatchingRules,
    ObjectLimits,
)
from eval.score_labels import HAZARD, UNKNOWN, canonical_label

__all__ = ["REFERENCE_MODES", "ScoreConfig", "Thresholds", "parse_config"]

Thresholds = tuple[tuple[float, ...], ...]
"""Per class, the thresholds at which it is scored."""

REFERENCE_MODES: dict[str, tuple[str, MatchingMode]] = {
    "CENTERDISTANCE": ("center_distance_thresholds", CENTER_DISTANCE),
    "CENTERDISTANCEBEV": ("center_distance_bev_thresholds", CENTER_DISTANCE_BEV),
    "PLANEDISTANCE": ("plane_distance_thresholds", PLANE_DISTANCE),
    "IOU2D": ("iou_2d_thresholds", IOU_BEV),
    "IOU3D": ("iou_3d_thresholds", IOU_3D),
}
"""perception_eval's name of a mode -> (its key in the configuration, the mode)."""

_MAX_NUMBER = 1e9
_MAX_LABELS = 256
_GROUPS = ({"car", "truck", "bus"}, {"bicycle", "motorbike", "pedestrian", "animal"})
_POLICIES = ("DEFAULT", "ALLOW_UNKNOWN", "ALLOW_SAME_GROUP", "ALLOW_ANY")
_USED = {
    "evaluation_task",
    "target_labels",
    "label_prefix",
    "merge_similar_labels",
    "matching_label_policy",
    "allow_matching_unknown",
    "matching_class_agnostic_fps",
    "max_x_position",
    "max_y_position",
    "max_distance",
    "min_distance",
    "min_point_numbers",
    "confidence_threshold",
    "ignore_attributes",
    *(key for key, _ in REFERENCE_MODES.values()),
}
# Keys that perception_eval accepts and does not use for detection.
_WITHOUT_EFFECT = {"count_label_number", "max_matchable_radii", "uuid_matching_first", "top_ks", "miss_tolerance"}
_CRITICAL = ("max_x_position_list", "max_y_position_list", "max_distance_list", "min_distance_list")


@dataclass(frozen=True)
class ScoreConfig:
    """One way to score, with perception_eval's semantics.

    Attributes:
        name: As in the results.
        class_names: The scored classes.
        modes: perception_eval's name of a matching mode -> thresholds.
        limits: Objects outside take no part.
        critical: Objects outside are dropped after the matching.
        policy: Conventions of AP and APH.
        compat: Reproduce what perception_eval does even where it is odd.
        in_map: The boxes are given in the map, and each frame's ego2map says where the ego is; otherwise they are given
            as the ego sees them.
        label_policy: "DEFAULT", "ALLOW_UNKNOWN", "ALLOW_SAME_GROUP" or "ALLOW_ANY".
        merge_similar_labels: Trucks and buses count as cars, motorbikes as bicycles.
        agnostic_false_positives: See `MatchingRules`.
        ignored: Objects whose name contains one of these are left out.
        pass_fail_thresholds: Per class, the plane distance at which objects pass; None: not counted.
    """

    name: str
    class_names: tuple[str, ...]
    modes: dict[str, Thresholds]
    limits: ObjectLimits
    critical: ObjectLimits = field(default_factory=ObjectLimits)
    policy: ApPolicy = PERCEPTION_EVAL
    compat: bool = False
    in_map: bool = False
    label_policy: str = "DEFAULT"
    merge_similar_labels: bool = False
    agnostic_false_positives: bool = False
    ignored: tuple[str, ...] = ()
    pass_fail_thresholds: tuple[float, ...] | None = None

    @property
    def needs_points(self) -> bool:
        """Whether ground truth without a point count cannot be judged."""
        return any(
            value is not None and np.max(value) > 0
            for value in (self.limits.min_num_points, self.critical.min_num_points)
        )

    def rules(self, mode: MatchingMode) -> MatchingRules:
        """Matching rules in one mode."""
        return MatchingRules(
            mode,
            self.policy,
            self._compatible(),
            self.agnostic_false_positives,
            stray_false_positives=self.compat and self.label_policy in ("ALLOW_UNKNOWN", "ALLOW_ANY"),
            critical=self.critical,
        )

    def _compatible(self) -> NDArray[np.bool_] | None:
        if self.label_policy == "DEFAULT":
            return None
        count = len(self.class_names)
        allowed = np.zeros((count + 1, count), bool)
        allowed[:count] = np.eye(count, dtype=bool)
        for label, name in enumerate(self.class_names):
            allowed[label] |= name in (UNKNOWN, HAZARD)
        if self.label_policy == "ALLOW_ANY":
            allowed[:] = True
        if self.label_policy == "ALLOW_SAME_GROUP":
            for group in _GROUPS:
                inside = np.array([name in group for name in self.class_names])
                allowed[:count] |= inside[:, None] & inside[None]
        return allowed

    def label_table(self, names: list[str], *, ground_truth: bool) -> NDArray[np.int64]:
        """(len(names),) label in the sense of `ObjectTable` of each name that occurs in the data."""
        return np.array([self._label(name, ground_truth) for name in names], np.int64)

    def _label(self, name: str, ground_truth: bool) -> int:
        label = canonical_label(name, merge=self.merge_similar_labels)
        if label == UNKNOWN and not ground_truth and UNKNOWN not in self.class_names:
            return len(self.class_names)
        if label not in self.class_names or any(part in name for part in self.ignored):
            return NOT_A_TARGET
        return self.class_names.index(label)


def _nearest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key[:100], sorted(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(sorted(known))}"


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MAX_NUMBER:
        raise ConfigError(f"{where} is {shown(value)}; it must be a number")
    return float(value)


def _flag(options: Mapping[str, Any], key: str, where: str) -> bool:
    value = options.get(key)
    if not isinstance(value, bool | None):
        raise ConfigError(f"{where}.{key} is {shown(value)}; it must be true or false")
    return bool(value)


def _spread(value: Any, count: int, where: str) -> tuple[float, ...] | None:
    """One value per class from a number, a list of one, or a list of one per class."""
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    numbers = tuple(_number(item, where) for item in values)
    if len(numbers) not in (1, count):
        raise ConfigError(
            f"{where} has {len(numbers)} values for {count} labels: {shown(value)}; give one, or one per label"
        )
    return numbers * count if len(numbers) == 1 else numbers


def _thresholds(value: Any, count: int, mode: MatchingMode, where: str) -> Thresholds:
    """Per class, from perception_eval's nested or flat lists (a flat list as long as the labels is one per label)."""
    if not isinstance(value, list) or not value:
        value = [value]
    if len(value) > _MAX_LABELS:
        raise ConfigError(f"{where} has {len(value)} thresholds; at most {_MAX_LABELS} are scored")
    if all(isinstance(item, list) for item in value):
        rows = [_spread(item, count, where) for item in value]
    else:
        numbers = [_number(item, where) for item in value]
        rows = [tuple(numbers)] if len(numbers) == count and count > 1 else [(number,) * count for number in numbers]
    for row in rows:
        for number in row or ():
            if number < 0 or (mode.larger_is_better and number > 1):
                allowed = "in [0, 1]" if mode.larger_is_better else "0 or more"
                raise ConfigError(f"{where} has the threshold {number:g}; it must be {allowed}")
    return tuple(tuple(sorted({row[label] for row in rows if row is not None})) for label in range(count))


def parse_config(name: str, raw: Any, *, compat: bool = True, stable_ties: bool = True) -> ScoreConfig:
    """A configuration in the golden files' form.

    Args:
        name: Its name in the file.
        raw: {"frame_id", "evaluation_config_dict", "critical", "pass_fail_threshold"}; the first and the last two are
            optional.
        compat: In the frame base_link, take headings as perception_eval does (without the sign of the turn).
        stable_ties: See `ApPolicy`.

    Raises:
        ConfigError: a key or value that cannot be honoured; the message gives its path.
    """
    where = f"configs.{name}"
    if not isinstance(raw, dict) or not isinstance(raw.get("evaluation_config_dict"), dict):
        raise ConfigError(f"{where} has no 'evaluation_config_dict'; see docs/metrics.md for the format")
    top = {"frame_id", "evaluation_config_dict", "critical", "pass_fail_threshold"}
    for key in sorted(set(raw) - top):
        raise ConfigError(f"{where} has the unknown key '{printable(key)}'{_nearest(key, top)}")
    frame_id = raw.get("frame_id", "base_link")
    if frame_id not in ("base_link", "map"):
        raise ConfigError(f"{where}.frame_id is {shown(frame_id)}; boxes are given in 'base_link' or in the 'map'")
    options = raw["evaluation_config_dict"]
    for key in sorted(set(options) - _USED - _WITHOUT_EFFECT):
        if key == "target_uuids":
            raise ConfigError(f"{where}.target_uuids cannot be honoured: the frames name no objects; remove the key")
        raise ConfigError(
            f"{where}.evaluation_config_dict has the unknown key '{printable(key)}'{_nearest(key, _USED)}"
        )
    if options.get("evaluation_task", "detection") != "detection":
        raise ConfigError(f"{where}.evaluation_task is {shown(options['evaluation_task'])}; only 'detection' is scored")
    merge = _flag(options, "merge_similar_labels", where)
    classes = _target_labels(options.get("target_labels"), merge, where)
    count = len(classes)
    modes = {
        reference: _thresholds(options[key], count, mode, f"{where}.{key}")
        for reference, (key, mode) in REFERENCE_MODES.items()
        if options.get(key) is not None
    }
    if not modes:
        keys = ", ".join(key for key, _ in REFERENCE_MODES.values())
        raise ConfigError(f"{where} has no thresholds: give at least one of {keys}")
    return ScoreConfig(
        name=name,
        class_names=classes,
        modes=modes,
        limits=_limits(options, count, where),
        critical=_critical(raw.get("critical"), count, f"{where}.critical"),
        policy=replace(
            PERCEPTION_EVAL_COMPAT if compat and frame_id == "base_link" else PERCEPTION_EVAL, stable_ties=stable_ties
        ),
        compat=compat,
        in_map=frame_id == "map",
        label_policy=_label_policy(options, classes, where),
        merge_similar_labels=merge,
        agnostic_false_positives=_flag(options, "matching_class_agnostic_fps", where),
        ignored=_ignored(options.get("ignore_attributes"), where),
        pass_fail_thresholds=_pass_fail(raw.get("pass_fail_threshold"), modes, count, where),
    )


def _ignored(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{where}.ignore_attributes is {shown(value)}; give a list of names")
    return tuple(value)


def _target_labels(value: Any, merge: bool, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or len(value) > _MAX_LABELS:
        raise ConfigError(f"{where}.target_labels is {shown(value)}; give a list of class names")
    try:
        labels = tuple(canonical_label(str(name), merge=merge) for name in value)
    except DataError as error:
        raise ConfigError(f"{where}.target_labels: {error}") from error
    if len(set(labels)) != len(labels):
        raise ConfigError(f"{where}.target_labels {shown(value)} name a class twice: they stand for {list(labels)}")
    return labels


def _limits(options: dict[str, Any], count: int, where: str) -> ObjectLimits:
    def value(key: str) -> tuple[float, ...] | None:
        return _spread(options.get(key), count, f"{where}.{key}")

    x, y = value("max_x_position"), value("max_y_position")
    far, near = value("max_distance"), value("min_distance")
    points = value("min_point_numbers")
    if points is None:
        raise ConfigError(f"{where} has no 'min_point_numbers'; give 0 to count every ground truth")
    score = value("confidence_threshold")
    if x is not None and y is not None:
        return ObjectLimits(max_abs_x_m=x, max_abs_y_m=y, min_score=score, min_num_points=points)
    if far is not None and near is not None:
        return ObjectLimits(near, far, min_score=score, min_num_points=points)
    raise ConfigError(f"{where} has no range: give max_x_position and max_y_position, or min_distance and max_distance")


def _critical(raw: Any, count: int, where: str) -> ObjectLimits:
    if raw is None:
        return ObjectLimits()
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} is {shown(raw)}; it must be an object of limits")
    known = {*_CRITICAL, "min_point_numbers", "confidence_threshold_list"}
    for key in sorted(set(raw) - known):
        raise ConfigError(f"{where} has the unknown key '{printable(key)}'{_nearest(key, known)}")
    x, y, far, near, points, score = (
        _spread(raw.get(key), count, f"{where}.{key}")
        for key in (*_CRITICAL, "min_point_numbers", "confidence_threshold_list")
    )
    if x is not None and y is not None:
        return ObjectLimits(None, None, x, y, score, points)
    return ObjectLimits(near, far, None, None, score, points)


def _label_policy(options: dict[str, Any], classes: tuple[str, ...], where: str) -> str:
    policy = options.get("matching_label_policy")
    if not policy:
        policy = "ALLOW_UNKNOWN" if _flag(options, "allow_matching_unknown", where) else "DEFAULT"
    if str(policy).upper() not in _POLICIES:
        raise ConfigError(f"{where}.matching_label_policy is {shown(policy)}; it must be one of {', '.join(_POLICIES)}")
    policy = str(policy).upper()
    if policy in ("ALLOW_UNKNOWN", "ALLOW_SAME_GROUP") and UNKNOWN not in classes:
        raise ConfigError(f"{where}: {policy} needs '{UNKNOWN}' among target_labels, which are {list(classes)}")
    return policy


def _pass_fail(value: Any, modes: dict[str, Thresholds], count: int, where: str) -> tuple[float, ...] | None:
    limits = _spread(value, count, f"{where}.pass_fail_threshold")
    if limits is None:
        return None
    scored = modes.get("PLANEDISTANCE")
    for label, limit in enumerate(limits):
        if scored is None or limit not in scored[label]:
            raise ConfigError(
                f"{where}.pass_fail_threshold {limit:g} is not among its plane_distance_thresholds; add it there, or "
                "remove pass_fail_threshold"
            )
    return limits
