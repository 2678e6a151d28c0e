"""Sensors by name: where their beams go, what they leave out, and that the usual one is what it was."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import ConfigError
from datasets.synthetic import DatasetConfig, Lidar, generate
from datasets.synthetic.carrier import Carrier
from datasets.synthetic.lidar import measure, trace
from datasets.synthetic.primitives import METAL, Shape
from datasets.synthetic.scene import Scene, make_scene
from datasets.synthetic.sensors import SENSORS, sensor_rig
from datasets.synthetic.surroundings import STREETS


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(np.random.SeedSequence(4), 0.5)


def _cloud(lidar: Lidar, scene: Scene, noise: bool = True) -> NDArray[np.float32]:
    still = lidar if noise else Lidar(**{**lidar.__dict__, "range_sigma_m": 0.0, "range_step_m": 1e-6})
    return measure(still, scene, trace(still, scene, 0.0, 7), np.random.default_rng(0))


def test_the_usual_sensor_is_what_it_was(scene: Scene) -> None:
    (unit,) = sensor_rig("spinning", 64).units
    assert unit.elevations.tobytes() == Lidar.with_beams(64).elevations.tobytes()
    before = hashlib.sha256(_cloud(Lidar.with_beams(64), scene).tobytes()).hexdigest()
    assert hashlib.sha256(_cloud(unit, scene).tobytes()).hexdigest() == before


def test_kittis_scans_are_what_its_camera_sees(scene: Scene) -> None:
    lower, upper = sensor_rig("kitti", 64).units
    assert (lower.mount_m[2] - 1.73, upper.mount_m[2] - 1.73) == pytest.approx((0.12, 0.20))
    for unit, apart, outer in ((lower, 1 / 2, -24.8), (upper, 1 / 3, 2.0)):
        cloud = _cloud(unit, scene, noise=False).astype(np.float64)
        away = cloud[:, :3] - unit.mount_m
        assert np.abs(np.degrees(np.arctan2(away[:, 1], away[:, 0]))).max() < 42.0
        elevation = np.degrees(np.arctan2(away[:, 2], np.hypot(away[:, 0], away[:, 1])))
        assert unit.beam_bias_m is not None  # along the beam: it moves no point to another elevation
        ring = cloud[:, 4].astype(int) - unit.first_ring
        np.testing.assert_allclose(elevation, np.degrees(unit.elevations)[ring], atol=0.01)
        # Of its manual: two blocks of 32 beams, a third and half of a degree apart.
        np.testing.assert_allclose(np.diff(np.degrees(unit.elevations)), apart, atol=0.02)
        assert np.degrees(unit.elevations)[0 if outer < 0 else -1] == pytest.approx(outer, abs=0.25)
        assert 0.08 < (cloud[:, 3] == 0).mean() < 0.16
        ground = cloud[(np.hypot(cloud[:, 0], cloud[:, 1]) < 12.0) & (cloud[:, 2] < 0.2)]
        assert abs(np.median(ground[:, 2])) < 0.15


def test_a_beams_bias_lengthens_its_own_points_alone(scene: Scene) -> None:
    unit = sensor_rig("kitti_full", 64).units[0]
    bias = np.zeros(32)
    bias[3] = 0.25
    ranges = []
    for biases in (np.zeros(32), bias):
        cloud = _cloud(dataclasses.replace(unit, beam_bias_m=biases), scene, noise=False).astype(np.float64)
        ranges.append((np.linalg.norm(cloud[:, :3] - unit.mount_m, axis=1), cloud[:, 4]))
    (before, ring), (after, _) = ranges
    np.testing.assert_allclose(after - before, np.where(ring == 3, 0.25, 0.0), atol=1e-4)


def test_nuscenes_turns_twice_as_fast(scene: Scene) -> None:
    (unit,) = sensor_rig("nuscenes", 64).units
    cloud = _cloud(unit, scene)
    assert unit.period_s == 0.05
    assert set(np.unique(cloud[:, 4])) <= set(range(32))
    assert math.degrees(unit.elevations[0]) == pytest.approx(-30.67)
    assert unit.directions().shape[:2] == (32, 1084)  # a file of nuScenes has 34,688 records, a ray each


def test_units_of_one_vehicle_have_rings_of_their_own(scene: Scene) -> None:
    units = sensor_rig("long_range", 64).units
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


@pytest.mark.parametrize("name", [name for name in SENSORS if name != "spinning"])
def test_units_stand_outside_their_vehicle(name: str) -> None:
    rig = sensor_rig(name, 64)
    assert rig.carrier is not None
    met = 0
    for unit in rig.units:
        own = rig.carrier.hits(unit.directions(), unit.elevations, unit.azimuth_offsets, unit.mount_m)
        assert own.hit.mean() < 0.5
        assert own.depth.min() > 0.02
        met += int(own.hit.sum())
    assert met > 0


def test_a_vehicle_hides_what_lies_behind_its_edges() -> None:
    """A bonnet whose edge is 2 m ahead and 1 m below the unit: beams lower than atan(1 / 2) do not pass it."""
    shape = Shape()
    shape.box((-2.0, 2.0), (-20.0, 20.0), (0.2, 1.0), METAL)
    down = np.radians(np.array([-40.0, -27.0, -26.0, -10.0]))
    ahead = np.stack([np.cos(down), np.zeros(4), np.sin(down)], axis=1)[:, None]
    own = Carrier(shape, reported=True).hits(ahead, down, np.zeros(4), (0.0, 0.0, 2.0))
    assert own.hit[:, 0].tolist() == [True, True, False, False]
    np.testing.assert_allclose(own.depth[:2, 0], 1.0 / np.sin(-down[:2]), rtol=1e-12)
    np.testing.assert_allclose(own.cosine[:2, 0], np.sin(-down[:2]), rtol=1e-12)
    assert own.reflectivity[:, 0].tolist() == [METAL.reflectivity, METAL.reflectivity, 0.0, 0.0]


def test_a_vehicle_is_reported_or_lacks(scene: Scene) -> None:
    rig = sensor_rig("nuscenes", 64)
    (unit,), carrier = rig.units, rig.carrier
    assert carrier is not None
    close = {}
    for reported in (True, False):
        own = dataclasses.replace(carrier, reported=reported)
        cloud = measure(unit, scene, trace(unit, scene, 0.0, 7, own), np.random.default_rng(0))
        close[reported] = cloud[np.hypot(cloud[:, 0], cloud[:, 1]) < 2.4]
        # Nothing of the ground is seen through the vehicle: the lowest beams would meet it at 3.1 m.
        low = cloud[(cloud[:, 4] == 0) & (np.hypot(cloud[:, 0], cloud[:, 1]) > 2.9)]
        assert len(low) < 0.35 * unit.columns
    free = measure(unit, scene, trace(unit, scene, 0.0, 7), np.random.default_rng(0))
    assert (free[:, 4] == 0).sum() > 0.9 * unit.columns
    assert len(close[True]) > 2_000
    np.testing.assert_array_less(close[True][:, 2], 1.7)  # the roof, not the sky
    assert len(close[False]) < 0.1 * len(close[True])


def test_beams_among_leaves_come_back_in_part(scene: Scene) -> None:
    """u ** gaps of the light: of a strength s, a share 1 - (t / s) ** (1 / gaps) is brighter than t."""
    unit = Lidar(np.radians(np.linspace(-1, 1, 40)), np.zeros(40), dropout=0.0, speckle=0.0, threshold=0.0)
    returns = trace(unit, scene, 0.0, 7)
    flat = {"depth": 20.0, "cosine": 1.0, "reflectivity": 1.0, "gaps": 2.0}
    same = {name: np.full(returns.depth.shape, value) for name, value in flat.items()}
    leaves = dataclasses.replace(returns, hit=np.zeros(returns.hit.shape, np.int64), **same)
    brightness = measure(unit, scene, leaves, np.random.default_rng(0))[:, 3] / (160.0 * math.exp(-20.0 / 150.0))
    for part in (0.1, 0.3, 0.6):
        assert (brightness > part).mean() == pytest.approx(1.0 - math.sqrt(part), abs=0.01)


def test_hinterland_leaves_roads_free() -> None:
    place = dataclasses.replace(STREETS, trees_per_ha=30.0, houses_per_ha=4.0, hills=2.0)
    plain, filled = (make_scene(np.random.SeedSequence(4), 0.5, place=kind) for kind in (STREETS, place))
    assert len(filled.fixed_poses) > len(plain.fixed_poses) + 100
    added = filled.fixed_poses[len(plain.fixed_poses) :]
    np.testing.assert_array_less(12.0, filled.terrain.edge_distance(added[:, 0], added[:, 1]))
    np.testing.assert_allclose(filled.terrain.height, 2.0 * plain.terrain.height)
    # Roads and road users are drawn before: they are the same.
    assert [actor.class_name for actor in filled.actors] == [actor.class_name for actor in plain.actors]


def test_poses_without_height_part_joined_sweeps_by_the_climb(tmp_path: Path) -> None:
    for name in ("kitti_full", "nuscenes"):
        generate(DatasetConfig({"val": 2}, 1, sweeps=3, sensor=name), tmp_path / name, workers=1)
        info = pickle.loads((tmp_path / name / "centerpoint_infos_val.pkl").read_bytes())
        climbs, shifts = [], []
        for index, frame in enumerate(info["data_list"]):
            seeds = np.random.SeedSequence(0, spawn_key=(1, index)).spawn(2)
            rig = sensor_rig(name, 64)
            period = rig.units[0].period_s
            world = make_scene(seeds[0], 0.0, 3 * period, place=rig.surroundings)
            key, oldest = world.ego_pose(0.0), world.ego_pose(-3 * period)
            climbs.append((key[:3, :3].T @ (oldest[:3, 3] - key[:3, 3]))[2])
            shifts.append(-frame["lidar_sweeps"][2]["lidar_points"]["lidar2sensor"][2][3])
            flat = key[:3, :3].T @ np.array([0.0, 0.0, oldest[2, 3] - key[2, 3]])
            expected = climbs[-1] - (flat[2] if name == "nuscenes" else 0.0)
            assert shifts[-1] == pytest.approx(expected, abs=1e-6)


def test_a_rigs_bytes_do_not_depend_on_workers(tmp_path: Path) -> None:
    found = []
    for workers in (1, 3):
        out = tmp_path / str(workers)
        generate(DatasetConfig({"val": 3}, 1, sweeps=1, sensor="nuscenes"), out, workers=workers)
        found.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert len(found[0]) == 3 * 2 + 1
    assert found[0] == found[1]
