"""Configurations in perception_eval's form: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from base.errors import ConfigError, DataError
from eval.metrics import CENTER_DISTANCE_BEV, NOT_A_TARGET, MatchingMode, ObjectLimits
from eval.score_configs import ScoreConfig, parse_config
from eval.score_labels import canonical_label


def options(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "target_labels": ["car", "bus"],
        "min_distance": 0.0,
        "max_distance": 50.0,
        "min_point_numbers": 0,
        "center_distance_bev_thresholds": [[1.0]],
    }
    return {key: value for key, value in (values | changes).items() if value is not ...}


def parse(top: dict[str, Any] | None = None, **changes: Any) -> ScoreConfig:
    return parse_config("mine", {"evaluation_config_dict": options(**changes), **(top or {})})


def test_thresholds_are_spread_over_the_labels() -> None:
    def thresholds(value: Any) -> Any:
        return parse(center_distance_bev_thresholds=value).modes["CENTERDISTANCEBEV"]

    assert thresholds([[1.0], [2.0]]) == ((1.0, 2.0), (1.0, 2.0))
    assert thresholds([0.5, 1.0, 2.0]) == ((0.5, 1.0, 2.0), (0.5, 1.0, 2.0))
    # A flat list as long as the labels is one threshold per label.
    assert thresholds([0.5, 1.0]) == ((0.5,), (1.0,))
    assert thresholds([[0.5, 1.0], [2.0]]) == ((0.5, 2.0), (1.0, 2.0))
    assert thresholds(2) == ((2.0,), (2.0,))


def test_limits() -> None:
    assert parse(max_distance=[40, 50]).limits == ObjectLimits((0.0, 0.0), (40.0, 50.0), min_num_points=(0.0, 0.0))
    # Where both are given, x and y win.
    both = parse(max_x_position=60, max_y_position=[30.0]).limits
    assert both == ObjectLimits(max_abs_x_m=(60.0, 60.0), max_abs_y_m=(30.0, 30.0), min_num_points=(0.0, 0.0))
    critical = parse({"critical": {"max_distance_list": [20, 30], "min_point_numbers": [5, 5]}}).critical
    assert critical == ObjectLimits(max_distance_m=(20.0, 30.0), min_num_points=(5.0, 5.0))


def test_headings_lose_their_sign_in_base_link_only() -> None:
    assert parse().policy.unsigned_heading
    assert not parse({"frame_id": "map"}).policy.unsigned_heading
    assert not parse_config("mine", {"evaluation_config_dict": options()}, compat=False).policy.unsigned_heading


def test_labels() -> None:
    config = parse()
    names = ["car", "ambulance", "Bus", "truck", "unknown", "traffic_cone"]
    assert config.label_table(names, ground_truth=True).tolist() == [0, 0, 1, *[NOT_A_TARGET] * 3]
    # A detection of unknown class is kept: what it may match is for the policy to say.
    assert config.label_table(names, ground_truth=False).tolist() == [0, 0, 1, NOT_A_TARGET, 2, NOT_A_TARGET]
    ignoring = parse(ignore_attributes=["ambul"])
    assert ignoring.label_table(["car", "ambulance"], ground_truth=True).tolist() == [0, NOT_A_TARGET]
    merged = parse(target_labels=["car", "bicycle"], merge_similar_labels=True)
    assert merged.label_table(["truck", "bus", "motorcycle"], ground_truth=True).tolist() == [0, 0, 1]


def test_label_policies() -> None:
    labels = ["car", "truck", "bicycle", "unknown"]

    def compatible(**changes: Any) -> Any:
        return parse(target_labels=labels, **changes).rules(parse_mode()).label_matrix(4)[:4, :4].astype(int).tolist()

    diagonal = np.eye(4, dtype=int).tolist()
    assert compatible() == diagonal
    unknown = [*diagonal[:3], [1, 1, 1, 1]]
    assert compatible(allow_matching_unknown=True) == unknown
    grouped = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]]
    assert compatible(matching_label_policy="ALLOW_SAME_GROUP") == grouped
    assert compatible(matching_label_policy="allow_any") == np.ones((4, 4), int).tolist()


def parse_mode() -> MatchingMode:
    return CENTER_DISTANCE_BEV


@pytest.mark.parametrize(
    ("top", "changes", "words"),
    [
        ({}, {"max_distanc": 3}, "unknown key 'max_distanc'; did you mean 'max_distance'?"),
        ({"critcal": None}, {}, "has the unknown key 'critcal'; did you mean 'critical'?"),
        ({"critical": {"max_distance": 3}}, {}, r"critical has the unknown key 'max_distance'; did you mean 'max_dist"),
        ({"frame_id": "lidar"}, {}, "frame_id is 'lidar'; boxes are given in 'base_link' or in the 'map'"),
        ({"pass_fail_threshold": 2.0}, {}, "pass_fail_threshold 2 is not among its plane_distance_thresholds"),
        ({}, {"evaluation_task": "tracking"}, "evaluation_task is 'tracking'; only 'detection' is scored"),
        ({}, {"target_labels": []}, r"target_labels is \[\]; give a list of class names"),
        ({}, {"target_labels": ["car", "bsu"]}, "target_labels: unknown label 'bsu'; did you mean 'bus'?"),
        ({}, {"target_labels": ["car", "kart"]}, r"name a class twice: they stand for \['car', 'car'\]"),
        ({}, {"max_distance": [1, 2, 3]}, r"max_distance has 3 values for 2 labels: \[1, 2, 3\]"),
        ({}, {"max_distance": "far"}, "max_distance is 'far'; it must be a number"),
        ({}, {"max_distance": ...}, "has no range: give max_x_position and max_y_position, or"),
        ({}, {"min_point_numbers": ...}, "has no 'min_point_numbers'; give 0"),
        ({}, {"center_distance_bev_thresholds": ...}, "has no thresholds: give at least one of center_distance_thresh"),
        ({}, {"iou_3d_thresholds": [[1.5]]}, r"iou_3d_thresholds has the threshold 1.5; it must be in \[0, 1\]"),
        ({}, {"plane_distance_thresholds": [[-1]]}, "has the threshold -1; it must be 0 or more"),
        (
            {},
            {"matching_label_policy": "NONE"},
            "matching_label_policy is 'NONE'; it must be one of DEFAULT, ALLOW_UNK",
        ),
        ({}, {"allow_matching_unknown": True}, "ALLOW_UNKNOWN needs 'unknown' among target_labels"),
        ({}, {"target_uuids": ["a"]}, "target_uuids cannot be honoured"),
        ({"critical": 5}, {}, r"critical is 5; it must be an object of limits"),
        ({}, {"ignore_attributes": 5}, "ignore_attributes is 5; give a list of names"),
        ({}, {"ignore_attributes": [5]}, r"ignore_attributes is \[5\]; give a list of names"),
        ({}, {"merge_similar_labels": "no"}, "merge_similar_labels is 'no'; it must be true or false"),
        ({}, {"max_distance": 10**400}, "max_distance is an integer of 1329 bits; it must be a number"),
        ({}, {"max_distance": float("nan")}, "max_distance is nan; it must be a number"),
        ({}, {"plane_distance_thresholds": [1.0] * 1000}, "has 1000 thresholds; at most 256"),
    ],
)
def test_what_cannot_be_honoured(top: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        parse(top, **changes)
    assert "configs.mine" in str(error.value)


def test_a_configuration_must_be_one() -> None:
    with pytest.raises(ConfigError, match=r"configs\.mine has no 'evaluation_config_dict'"):
        parse_config("mine", {"target_labels": ["car"]})


def test_labels_that_mean_nothing() -> None:
    assert canonical_label("Vehicle.Bus (bendy & rigid)") == "bus"
    assert canonical_label("traffic_cone", merge=True) == "unknown"
    with pytest.raises(DataError, match="unknown label 'qqq'; use one of car, "):
        canonical_label("qqq")
