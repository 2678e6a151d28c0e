"""What a cloud of a street is found to be when it is moved, turned, scaled, padded and dimmed by formulas."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine import Config
from numpy.typing import NDArray

from base.checks import checking
from base.errors import ConfigError, DataError
from datasets.cloud_facts import MIN_JUDGED, CloudFacts, measure_cloud
from datasets.plausibility import CloudRemedies, CloudWatch, PointsExpected, judge_cloud
from tests.datasets.street import street

Cloud = NDArray[np.float32]
RANGE = (-51.2, -51.2, -3.0, 51.2, 51.2, 5.0)
COLUMNS = ("x", "y", "z", "intensity", "ring")
EXPECTED = PointsExpected(range_m=RANGE)


def found(points: Cloud, expected: PointsExpected = EXPECTED) -> dict[str, str]:
    """Check -> text of what is found of a cloud."""
    facts = measure_cloud(points, COLUMNS.index("intensity"), expected.range_m)
    return {finding.check.id: finding.text for finding in judge_cloud("'a.bin'", facts, expected)}


def changed(columns: slice | int, change: Callable[[Cloud], NDArray[np.floating[Any]]]) -> Cloud:
    points = street().copy()
    points[:, columns] = change(points[:, columns])
    return points


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    yaw=st.floats(-math.pi, math.pi),
    pitch=st.floats(-0.05, 0.05),
    lift=st.floats(-0.5, 0.5),
    dim=st.floats(0.05, 1.0),
    thinned=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_a_street_is_a_street(yaw: float, pitch: float, lift: float, dim: float, thinned: int, seed: int) -> None:
    points = street(seed=seed)
    turned = points.copy()
    turned[:, 0] = math.cos(yaw) * points[:, 0] - math.sin(yaw) * points[:, 1]
    turned[:, 1] = math.sin(yaw) * points[:, 0] + math.cos(yaw) * points[:, 1]
    turned[:, 2] += np.float32(lift) + np.float32(pitch) * points[:, 0].clip(-10, 10)
    turned[:, 3] *= np.float32(dim)
    assert found(np.random.default_rng(seed).permutation(turned)[::thinned]) == {}


@pytest.mark.parametrize("height", [1.2, 1.73, 1.84, 2.6])
def test_the_sensors_frame_is_told_by_the_ground(height: float) -> None:
    text = found(street(height_m=height))["cloud-height"]
    facts = measure_cloud(street(height_m=height), 3)
    assert facts.ground_z_m == pytest.approx(-height, abs=0.05)
    assert "but the ground of base_link is z = 0" in text
    assert "sensor's frame" in text
    # The advice, followed.
    added = float(text.split("add ")[1].split(" m to z")[0])
    assert found(changed(2, lambda z: z - np.float32(height) + np.float32(added))) == {}


def test_a_model_that_was_trained_in_the_sensors_frame() -> None:
    expected = dataclasses.replace(EXPECTED, ground_z_m=-1.8)
    assert found(street(height_m=1.8), expected) == {}
    assert "expects it at z = -1.8 m" in found(street(), expected)["cloud-height"]
    assert found(street(), dataclasses.replace(EXPECTED, ground_z_m=None)) == {}


@pytest.mark.parametrize(("factor", "unit", "back"), [(1000, "millimetres", 0.001), (100, "centimetres", 0.01)])
def test_units(factor: float, unit: str, back: float) -> None:
    points = changed(slice(0, 3), lambda xyz: xyz * np.float32(factor))
    text = found(points)["cloud-unit"]
    assert f"look like {unit}" in text
    assert f"Multiply x, y, z by {back:g}" in text
    points[:, :3] *= np.float32(back)
    assert found(points) == {}


def test_kilometres_and_unit_cubes() -> None:
    assert "not metres around a vehicle" in found(changed(slice(0, 3), lambda xyz: xyz / 1000))["cloud-unit"]
    assert "not metres around a vehicle" in found(changed(slice(0, 3), lambda xyz: xyz / 91))["cloud-unit"]


@pytest.mark.parametrize("away", [(3_000, 1_000), (369_000, 55_000), (-5_000_000, 100)])
def test_a_maps_frame(away: tuple[float, float]) -> None:
    moved = changed(slice(0, 2), lambda xy: xy + np.array(away, "<f4"))
    assert list(found(moved)) == ["cloud-frame"]
    distance = float(found(moved)["cloud-frame"].split("all points lie together, ")[1].split(" m ")[0])
    assert distance == pytest.approx(math.hypot(*away), rel=0.01)


def test_z_down_and_other_axes() -> None:
    down = changed(slice(1, 3), np.negative)
    assert "z seems to point down" in found(down)["cloud-axes"]
    sensor = street(height_m=1.9)
    camera = np.c_[-sensor[:, 1], -sensor[:, 2], sensor[:, 0], sensor[:, 3:]].astype("<f4")
    assert "flat along y, not along z" in found(camera)["cloud-axes"]
    sideways = np.c_[sensor[:, 2], sensor[:, 1], sensor[:, 0], sensor[:, 3:]].astype("<f4")
    assert "flat along x, not along z" in found(sideways)["cloud-axes"]


def test_a_cloud_out_of_range() -> None:
    away = changed(0, lambda x: x + 200)
    text = found(away)["cloud-range"]
    assert "(model -51.2 to 51.2)" in text
    assert "cloud-range" not in found(away, dataclasses.replace(EXPECTED, range_m=None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i / 255, "intensities reach 1, the model expects 0 to 255; they look like 0 to 1. Multiply"),
        (
            lambda i: i * 257,
            "intensities reach 6.55e+04, the model expects 0 to 255. Multiply them by 0.00389",
        ),
        (lambda i: i * 16, "intensities reach 4.08e+03"),
        (lambda i: i * 0, "every intensity is 0, so the model sees none"),
        (lambda i: i * 0 + 7, "every intensity is 7"),
        (lambda i: i - 200, "intensities go down to -200"),
    ],
)
def test_intensities(change: Callable[[Cloud], NDArray[np.floating[Any]]], said: str) -> None:
    text = found(changed(3, change))["cloud-intensity"]
    assert said in text
    if "Multiply" in text:
        factor = float(text.split("Multiply them by ")[1].split(" ")[0])
        assert found(changed(3, lambda i: change(i) * np.float32(factor))) == {}


def test_a_model_trained_on_reflectances() -> None:
    expected = dataclasses.replace(EXPECTED, intensity_max=1.0)
    assert found(changed(3, lambda i: i / 255), expected) == {}
    assert "expects 0 to 1" in found(street(), expected)["cloud-intensity"]
    assert found(street(), dataclasses.replace(EXPECTED, intensity_max=None)) == {}


def test_zeros_repetitions_and_nan_are_counted() -> None:
    points = street()
    count = len(points)
    holes = points.copy()
    holes[1::2] = 0
    assert f"{count // 2} of {count} points (50%) are exactly (0, 0, 0)" in found(holes)["cloud-zeros"]
    assert "in the file more than once" in found(np.concatenate([points, points]))["cloud-repeated"]
    facts = measure_cloud(np.concatenate([points, points, points]), 3)
    assert facts.repeated == pytest.approx(2 * count, rel=0.1)
    broken = points.copy()
    broken[: 2 * count // 3, 1] = np.nan
    broken[-1, 3] = np.inf
    assert "hold NaN or infinite values" in found(broken)["cloud-invalid"]
    assert measure_cloud(broken, 3).invalid == 2 * count // 3 + 1
    nothing = np.full_like(points, np.nan)
    assert measure_cloud(nothing, 3) == CloudFacts(count, 0, 0, count)
    assert list(found(nothing)) == ["cloud-invalid"]
    assert list(found(np.zeros_like(points))) == ["cloud-zeros"]


def test_values_that_no_sensor_makes() -> None:
    points = street()
    points[::10, 0] = 1e19
    text = found(points)["cloud-values"]
    assert "10% of" in text
    assert "up to 1e+19 m" in text
    points = street()
    points[0, 0] = 1e19
    assert found(points) == {}, "one wild point says nothing about the others"


@pytest.mark.parametrize("count", [0, 1, MIN_JUDGED - 1])
def test_a_few_points_are_not_judged(count: int) -> None:
    points = (street()[:count] * np.float32(1000)).copy()
    points[:, 3] = 5 + np.arange(count) % 9
    assert found(points) == {}


def test_a_watch_tells_once_counts_all_and_looks_at_a_file_once() -> None:
    watch = CloudWatch(EXPECTED, COLUMNS)
    dim = changed(3, lambda i: i / 255)
    with checking() as record:
        for index in range(40):
            for _ in range(2):
                watch.look(f"{index}.bin", f"Point file '{index}.bin'", dim)
    (result,) = record.results()
    assert result.messages[0].startswith("Point file '0.bin': intensities reach 1")
    # The first sixteen, then 16, 24 and 32.
    assert (result.check, result.count, len(result.messages)) == ("cloud-intensity", 19, 1)
    assert len(watch.seen) == 40


def test_a_watch_raises_what_makes_every_result_meaningless() -> None:
    points = changed(slice(0, 3), lambda xyz: xyz * np.float32(1000))
    with pytest.raises(DataError, match=r"look like millimetres, .*--accept=cloud-unit"):
        CloudWatch(EXPECTED, COLUMNS).look("a.bin", "Point file 'a.bin'", points)
    with checking(["cloud-unit"]) as record:
        CloudWatch(EXPECTED, COLUMNS).look("a.bin", "Point file 'a.bin'", points)
    assert ("cloud-unit", "accepted") in [(item.check, item.outcome) for item in record.results()]


def test_columns_go_by_name() -> None:
    points = street()
    moved = np.ascontiguousarray(points[:, [0, 1, 2, 4, 3]])
    moved[:, 4] /= 255
    with checking() as record:
        CloudWatch(EXPECTED, ("x", "y", "z", "ring", "intensity")).look("a", "'a'", moved)
        CloudWatch(EXPECTED, ("x", "y", "z")).look("b", "'b'", points)
    assert [item.check for item in record.results()] == ["cloud-intensity"]


def test_a_commands_own_words() -> None:
    facts = measure_cloud(street(height_m=1.8), 3)
    remedies = CloudRemedies(raise_by=lambda metres: f"Give --lidar-height={metres:.1f}")
    (finding,) = judge_cloud("'a.bin'", facts, EXPECTED, remedies)
    assert "Give --lidar-height=1.8." in finding.text


@pytest.mark.parametrize(
    ("kind", "intensity", "ground"),
    [("T4Dataset", 255.0, 0.0), ("NuScenesDataset", 255.0, None), ("KittiDataset", 1.0, None), ("Other", None, None)],
)
def test_what_a_dataset_implies_and_a_config_says(kind: str, intensity: float | None, ground: float | None) -> None:
    implied = PointsExpected.of_config(Config({}), kind, RANGE)
    assert implied == PointsExpected(intensity, ground, RANGE)
    said = Config({"points_trained_on": {"intensity_max": 100.0, "ground_z_m": -1.5}})
    assert PointsExpected.of_config(said, kind) == PointsExpected(100.0, -1.5, None)
    unknown = Config({"points_trained_on": {"intensity_max": None}})
    assert PointsExpected.of_config(unknown, kind) == PointsExpected(None, ground, None)
    for wrong in ({"intensity": 1}, {"intensity_max": -1.0}, {"ground_z_m": math.inf}, 3):
        with pytest.raises(ConfigError, match="points_trained_on"):
            PointsExpected.of_config(Config({"points_trained_on": wrong}), kind)
