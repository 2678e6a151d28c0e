"""Sensors by name: where their beams go, what they leave out, and that the usual one is what it was."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import ConfigError
from datasets.synthetic import DatasetConfig, Lidar
from datasets.synthetic.lidar import measure, trace
from datasets.synthetic.scene import Scene, make_scene
from datasets.synthetic.sensors import SENSORS, sensor_units


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(np.random.SeedSequence(4), 0.5)


def _cloud(lidar: Lidar, scene: Scene, noise: bool = True) -> NDArray[np.float32]:
    still = lidar if noise else Lidar(**{**lidar.__dict__, "range_sigma_m": 0.0, "range_step_m": 1e-6})
    return measure(still, scene, trace(still, scene, 0.0, 7), np.random.default_rng(0))


def test_the_usual_sensor_is_what_it_was(scene: Scene) -> None:
    (unit,) = sensor_units("spinning", 64)
    assert unit.elevations.tobytes() == Lidar.with_beams(64).elevations.tobytes()
    before = hashlib.sha256(_cloud(Lidar.with_beams(64), scene).tobytes()).hexdigest()
    assert hashlib.sha256(_cloud(unit, scene).tobytes()).hexdigest() == before


def test_kittis_scans_are_what_its_camera_sees(scene: Scene) -> None:
    (unit,) = sensor_units("kitti", 64)
    cloud = _cloud(unit, scene, noise=False).astype(np.float64)
    assert np.abs(np.degrees(np.arctan2(cloud[:, 1], cloud[:, 0]))).max() < 42.0
    elevation = np.degrees(np.arctan2(cloud[:, 2] - 1.73, np.hypot(cloud[:, 0], cloud[:, 1])))
    # Of its manual: two blocks of 32 beams, a third and half of a degree apart.
    np.testing.assert_allclose(elevation, np.degrees(unit.elevations)[cloud[:, 4].astype(int)], atol=0.01)
    steps = np.diff(np.degrees(unit.elevations))
    np.testing.assert_allclose(steps[:31], 0.5, atol=1e-9)
    np.testing.assert_allclose(steps[32:], 1 / 3, atol=1e-3)
    assert 0.08 < (cloud[:, 3] == 0).mean() < 0.16
    ground = cloud[(np.hypot(cloud[:, 0], cloud[:, 1]) < 12.0) & (cloud[:, 2] < 0.2)]
    assert abs(np.median(ground[:, 2])) < 0.15


def test_nuscenes_turns_twice_as_fast(scene: Scene) -> None:
    (unit,) = sensor_units("nuscenes", 64)
    cloud = _cloud(unit, scene)
    assert unit.period_s == 0.05
    assert set(np.unique(cloud[:, 4])) <= set(range(32))
    assert math.degrees(unit.elevations[0]) == pytest.approx(-30.67)


def test_units_of_one_vehicle_have_rings_of_their_own(scene: Scene) -> None:
    units = sensor_units("long_range", 64)
    clouds = [_cloud(unit, scene) for unit in units[:2]]
    rings = [(int(cloud[:, 4].min()), int(cloud[:, 4].max())) for cloud in clouds]
    assert rings[0][1] < 128 <= rings[1][0]
    assert len(units) == 4
    reach = [float(np.hypot(cloud[:, 0], cloud[:, 1]).max()) for cloud in clouds]
    assert reach[0] > 120.0
    assert reach[1] < 70.0


def test_unknown_sensors_are_named() -> None:
    with pytest.raises(ConfigError, match=f"unknown sensor 'lidar9'; there are {', '.join(SENSORS)}"):
        DatasetConfig({"val": 1}, 1, sensor="lidar9")


def test_unknown_riders() -> None:
    with pytest.raises(ConfigError, match="unknown riders 'none'; there are plain, varied"):
        DatasetConfig({"val": 1}, 1, riders="none")
