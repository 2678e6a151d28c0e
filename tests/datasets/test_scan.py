"""A scan's file to a model's points."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from base.errors import ConfigError, DataError
from datasets.scan import FORMATS, ScanFormat, read_scan
from models.spec import ModelSpec

Write = Callable[[ArrayLike], Path]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    from models.config import load_model_config

    config = Path(__file__).parents[2] / "configs" / "model" / "centerpoint_t4_demo.py"
    return ModelSpec.from_config(load_model_config(config))


def spinning_scan(columns: int, height_m: float = 0.0, shuffle: bool = False) -> NDArray[np.float32]:
    """Rings on flat ground and a wall of 16 beams, in firing order: x, y, z, intensity, ring, further zeros."""
    azimuth, beam = np.meshgrid(np.linspace(-math.pi, math.pi, 400, endpoint=False), np.arange(16), indexing="ij")
    distance = np.minimum(5.0 + 1.6 * beam, 20.0 / np.maximum(np.cos(azimuth), 0.3))
    on_wall = distance < 5.0 + 1.6 * beam
    z = np.where(on_wall, 0.4 * (beam - 9.0).clip(0.1), 0.0) - height_m
    rows = np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), z, 40.0 + 100.0 * on_wall, beam], axis=2)
    points = np.zeros((azimuth.size, columns), np.float32)
    points[:, : min(columns, 5)] = rows.reshape(-1, 5)[:, :columns]
    return np.random.default_rng(0).permutation(points) if shuffle else points


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(points: ArrayLike) -> Path:
        path = tmp_path / "scan.bin"
        np.asarray(points, "<f4").tofile(path)
        return path

    return to_file


def test_columns_and_pose(write: Write, spec: ModelSpec) -> None:
    # One point 10 m ahead and 2 m to the right, 0.5 m above the ground, among others that keep the range busy.
    scan = spinning_scan(5)
    ahead, right, up = 10.0, 2.0, 0.5
    as_stored = {
        "t4": [ahead, -right, up, 51.0, 7.0],
        "nuscenes": [right, ahead, up - 1.84, 51.0, 7.0],
        "kitti": [ahead, -right, up - 1.73, 0.2],
    }
    for name, values in as_stored.items():
        form = FORMATS[name]
        points = scan[:, : form.columns].copy()
        points[:, 3] *= 1 / form.intensity_scale
        points[0] = values
        found = read_scan(write(points), form, spec)
        assert found.points.dtype == np.float32
        assert found.points.shape == (len(scan), 5)
        np.testing.assert_allclose(found.points[0], [ahead, -right, up, 51.0, 0.0], atol=1e-5)
        assert not found.points[:, 4].any(), "the last column is the time lag, 0 for the key frame"


def test_a_model_without_intensity(write: Write, spec: ModelSpec) -> None:
    narrow = dataclasses.replace(spec, point_columns=("x", "y", "z", "time_lag"))
    points = spinning_scan(5)
    found = read_scan(write(points), FORMATS["t4"], narrow)
    np.testing.assert_array_equal(found.points, np.c_[points[:, :3], np.zeros(len(points), np.float32)])
    wide = dataclasses.replace(spec, point_columns=("x", "y", "z", "intensity", "time_lag", "column5"))
    with pytest.raises(DataError, match=r"is read as x, y, z, intensity, ring; .* lacks column5"):
        read_scan(write(points), FORMATS["t4"], wide)


@pytest.mark.parametrize("true", [4, 5, 6])
@pytest.mark.parametrize("said", [4, 5, 6, 7])
def test_the_wrong_number_of_columns_is_found_out(write: Write, spec: ModelSpec, true: int, said: int) -> None:
    # A number of points that every record length divides, so that the file's size tells nothing.
    points = spinning_scan(true)[: 6400 - 6400 % 420]
    assert points.size % said == 0
    if said == true:
        assert len(read_scan(write(points), ScanFormat(said), spec).points) == len(points)
        return
    with pytest.raises(DataError, match=f"look like {true} a point") as error:
        read_scan(write(points), ScanFormat(said), spec)
    assert f"--columns={true}" in str(error.value)


@pytest.mark.parametrize("columns", [4, 5, 6])
def test_points_in_random_order_are_not_refused(write: Write, spec: ModelSpec, columns: int) -> None:
    points = spinning_scan(columns, shuffle=True)[: 6400 - 6400 % 420]
    assert len(read_scan(write(points), ScanFormat(columns), spec).points) == len(points)


def test_a_few_points_are_not_judged(write: Write, spec: ModelSpec) -> None:
    assert len(read_scan(write([[1, 2, 0, 9, 0]]), ScanFormat(5), spec).points) == 1


def test_a_sensor_height_that_was_forgotten(write: Write, spec: ModelSpec, caplog: pytest.LogCaptureFixture) -> None:
    path = write(spinning_scan(5, height_m=1.8))
    found = read_scan(path, ScanFormat(5), spec)
    assert found.ground_z_m == pytest.approx(-1.8, abs=0.051)
    assert "Give the sensor's height above the ground: --lidar-height=1.8" in caplog.text
    caplog.clear()
    found = read_scan(path, ScanFormat(5, height_m=1.8), spec)
    assert found.ground_z_m == pytest.approx(0.0, abs=0.051)
    assert not caplog.text


@pytest.mark.parametrize(
    ("factor", "advice"), [(1 / 255, "--intensity-scale=255"), (100.0, "--intensity-scale=0.0182"), (1.0, "")]
)
def test_intensities_of_another_scale(
    write: Write, spec: ModelSpec, caplog: pytest.LogCaptureFixture, factor: float, advice: str
) -> None:
    points = spinning_scan(4)
    points[:, 3] *= factor
    read_scan(write(points), ScanFormat(4), spec)
    assert advice in caplog.text
    assert bool(caplog.text) == bool(advice)


def test_formats_are_checked() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"columns": 3}, "--columns is 3"),
        ({"columns": 17}, "--columns is 17"),
        ({"intensity_scale": -1.0}, "--intensity-scale is -1"),
        ({"yaw_deg": math.inf}, "--lidar-yaw is inf"),
        ({"yaw_deg": -400.0}, "--lidar-yaw is -400; it must be -360 to 360"),
        ({"height_m": math.nan}, "--lidar-height is nan"),
        ({"height_m": 1e38}, "--lidar-height is 1e[+]38; it must be -100 to 100"),
        ({"intensity_scale": math.nan}, "--intensity-scale is nan"),
        ({"intensity_scale": 1e30}, "--intensity-scale is 1e[+]30"),
    )
    for wrong, message in cases:
        with pytest.raises(ConfigError, match=message):
            ScanFormat(**{"columns": 5, **wrong})


def test_points_that_leave_single_precision_are_left_out(write: Write, spec: ModelSpec) -> None:
    points = spinning_scan(4)
    points[3, :2], points[5, 3] = 3e38, 3e38
    found = read_scan(write(points), ScanFormat(4, intensity_scale=255.0, yaw_deg=45.0), spec)
    assert (found.num_in_file, found.num_invalid) == (len(points), 2)
    assert np.isfinite(found.points).all()


def test_what_is_no_file_is_not_read(tmp_path: Path, spec: ModelSpec) -> None:
    with pytest.raises(DataError, match=r"'/dev/zero' is a device, not a file\. Give its path with --points"):
        read_scan(Path("/dev/zero"), ScanFormat(4), spec)
    with pytest.raises(DataError, match="is a folder"):
        read_scan(tmp_path, ScanFormat(4), spec)
    with pytest.raises(DataError, match="does not exist"):
        read_scan(tmp_path / "absent.bin", ScanFormat(4), spec)
    with (tmp_path / "large.pcd").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match="1099511627776 bytes; at most 268435456 are read"):
        read_scan(tmp_path / "large.pcd", ScanFormat(4), spec)


def test_a_pcd_file_needs_no_columns(tmp_path: Path, spec: ModelSpec) -> None:
    points = spinning_scan(4, height_m=1.8)
    points[5] = np.nan  # as in an organized cloud
    head = (
        "VERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
        f"WIDTH {len(points)}\nHEIGHT 1\nPOINTS {len(points)}\nDATA binary\n"
    )
    path = tmp_path / "scan.PCD"
    path.write_bytes(head.encode() + points.astype("<f4").tobytes())
    found = read_scan(path, ScanFormat(5, height_m=1.8), spec)
    kept = np.delete(points, 5, axis=0)
    kept[:, 2] += np.float32(1.8)
    np.testing.assert_array_equal(found.points[:, :4], kept)
    assert (found.num_in_file, found.num_invalid) == (len(points), 1)
