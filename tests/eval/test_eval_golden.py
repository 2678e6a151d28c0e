"""Our metrics against stored results of autoware_perception_evaluation 1.3.6 (see tests/data/golden/README.md)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.metrics import (
    CENTER_DISTANCE,
    CENTER_DISTANCE_BEV,
    ClassMetrics,
    MatchingRules,
    ObjectLimits,
    ObjectTable,
    evaluate_tables,
)

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))
MODES = {
    "CENTERDISTANCEBEV": (CENTER_DISTANCE_BEV, "center_distance_bev_thresholds"),
    "CENTERDISTANCE": (CENTER_DISTANCE, "center_distance_thresholds"),
}
# 1e-6 is what a user may rely on; the stored values are rounded to ten decimals.
TOLERANCE = 1e-6

# Detections named "unknown" take ground truth there although "unknown" is not scored: not supported yet.
UNSUPPORTED = {("n_unknown", "any")}


def load(case: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / f"{case}.json").read_text()))


def runs() -> list[tuple[str, str, str]]:
    found = []
    for case in CASES:
        data = load(case)
        for name, config in data["configs"].items():
            for mode, (_, key) in MODES.items():
                if config["evaluation_config_dict"].get(key) and (case, name) not in UNSUPPORTED:
                    found.append((case, name, mode))
    return found


def scored_label(name: str, targets: list[str], merge: bool) -> int:
    if merge:
        name = {"truck": "car", "bus": "car", "trailer": "car", "motorbike": "bicycle"}.get(name, name)
    return targets.index(name) if name in targets else -1


def table(frames: list[dict[str, Any]], key: str, targets: list[str], merge: bool) -> ObjectTable:
    rows = [(index, item) for index, frame in enumerate(frames) for item in frame[key]]

    def column(*names: str, default: float = 0.0) -> NDArray[Any]:
        values = [[item.get(name, default) for name in names] for _, item in rows]
        return np.array(values, np.float64).reshape(len(rows), len(names))

    return ObjectTable(
        frame=np.array([index for index, _ in rows], np.int64),
        label=np.array([scored_label(item["label"], targets, merge) for _, item in rows], np.int64),
        score=column("score", default=1.0)[:, 0],
        center=column("x", "y", "z"),
        size=column("l", "w", "h"),
        yaw=column("yaw")[:, 0],
        velocity=column("vx", "vy"),
        num_points=column("num_points")[:, 0].astype(np.int64),
    )


def per_label(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def compatible(config: dict[str, Any], targets: list[str]) -> NDArray[Any] | None:
    policy = config.get("matching_label_policy", "DEFAULT")
    if config.get("allow_matching_unknown"):
        policy = "ALLOW_UNKNOWN"
    if policy == "DEFAULT":
        return None
    allowed = np.eye(len(targets), dtype=bool)
    if policy == "ALLOW_ANY":
        allowed[:] = True
    if "unknown" in targets:
        allowed[targets.index("unknown")] = True
    if policy == "ALLOW_SAME_GROUP":
        for group in ({"car", "truck", "bus"}, {"bicycle", "motorbike", "pedestrian", "animal"}):
            inside = np.array([name in group for name in targets])
            allowed |= inside[:, None] & inside[None]
    return allowed


def score(data: dict[str, Any], config_name: str, mode: str) -> tuple[ClassMetrics, ...]:
    config = data["configs"][config_name]
    options = config["evaluation_config_dict"]
    targets = options["target_labels"]
    matching, key = MODES[mode]
    thresholds = [[row[label] if len(row) > 1 else row[0] for row in options[key]] for label in range(len(targets))]
    critical = config["critical"] or {}
    rules = MatchingRules(
        matching,
        compatible=compatible(options, targets),
        agnostic_false_positives=options.get("matching_class_agnostic_fps", False),
        critical=ObjectLimits(
            per_label(critical.get("min_distance_list")),
            per_label(critical.get("max_distance_list")),
            min_num_points=per_label(critical.get("min_point_numbers")),
        ),
    )
    limits = ObjectLimits(
        per_label(options.get("min_distance")),
        per_label(options.get("max_distance")),
        per_label(options.get("max_x_position")),
        per_label(options.get("max_y_position")),
        per_label(options.get("confidence_threshold")),
        per_label(options["min_point_numbers"]),
    )
    merge = options["merge_similar_labels"]
    estimates, truth = (table(data["frames"], key, targets, merge) for key in ("est", "gt"))
    return evaluate_tables(estimates, truth, targets, thresholds, {"all": limits}, rules)["all"]


def number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def assert_close(got: float, expected: float | None, what: str) -> None:
    wanted = number(expected)
    if math.isnan(wanted):
        assert math.isnan(got), f"{what}: {got}, expected no value"
    else:
        assert got == pytest.approx(wanted, abs=TOLERANCE), what


@pytest.mark.parametrize(("case", "config", "mode"), runs())
def test_equals_perception_eval(case: str, config: str, mode: str) -> None:
    data = load(case)
    expected = data.get("results_stable", data["results"])[config]["modes"][mode]
    classes = score(data, config, mode)
    compared = 0
    for item in classes:
        wanted = expected["labels"][item.class_name]
        assert_close(item.mean_ap, wanted["mean_ap"], f"{item.class_name} mean")
        assert len(item.thresholds) == len(wanted["thresholds"])
        for got in item.thresholds:
            golden = wanted["thresholds"][f"{got.threshold:g}"]
            what = f"{item.class_name} at {got.threshold:g} m"
            assert got.num_ground_truth == golden["num_gt"], what
            assert got.num_detections == golden["num_est"], what
            assert got.num_true_positives == golden["num_tp"], what
            assert got.num_false_positives == golden["num_fp"], what
            assert_close(got.ap, golden["ap"], what + " AP")
            assert_close(got.max_f1, golden["max_f1"], what + " max F1")
            assert_close(got.best_score, golden["opt_conf"], what + " confidence")
            assert_close(got.best_precision, golden["opt_precision"], what + " precision")
            assert_close(got.best_recall, golden["opt_recall"], what + " recall")
            compared += 1
    assert compared >= len(classes)
    means = [item.mean_ap for item in classes if not math.isnan(item.mean_ap)]
    mean_ap = sum(means) / len(means) if means else math.nan
    assert_close(mean_ap, expected["mAP"], "mAP")


def test_every_golden_file_takes_part() -> None:
    assert len(CASES) == 16
    assert {case for case, _, _ in runs()} == set(CASES)
