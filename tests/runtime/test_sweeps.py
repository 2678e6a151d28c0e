"""Joined sweeps: numpy against mmdet3d's loader, the kernels against numpy, and streams of detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import ConfigError, DataError
from datasets.synthetic.sweeps import sweep_to_key
from models.spec import ModelSpec
from runtime.cuda_engine.checks.cases import clumped_cloud, engine_spec
from runtime.cuda_engine.checks.sweep_checks import check_sweeps, drive
from runtime.graphs.detector import GraphDetector
from runtime.pipeline import Pipeline
from runtime.sweeps import JoinedSweeps, SweepMotion, SweepSettings
from tests.runtime.emulated_device import EmulatedDevice
from tests.runtime.recording_device import RecordingDevice
from tests.runtime.small_model import cloud, small_config
from tests.runtime.test_intake import open_frame

SPEC = engine_spec(32)


def scans(number: int, count: int = 400) -> list[NDArray[np.float32]]:
    found = [cloud(seed, count + 10 * seed) for seed in range(number)]
    for points in found:
        points[::5, :2] *= 0.05
    return found


def loaded(
    folder: Path, clouds: list[NDArray[np.float32]], where: list[tuple[float, Any]], **step: Any
) -> NDArray[np.float32]:
    """What the data pipeline makes of the last scan and those before it."""
    from datasets.transforms import CheckedLoadSweeps

    structures = pytest.importorskip("mmdet3d.structures")
    (key_time, key_pose), before = where[len(clouds) - 1], []
    for index in reversed(range(len(clouds) - 1)):
        path = folder / f"{index}.bin"
        clouds[index].tofile(path)
        time_s, pose = where[index]
        points = {"lidar_path": str(path), "lidar2sensor": sweep_to_key(key_pose, pose).tolist()}
        before.append({"timestamp": time_s, "lidar_points": points})
    import torch

    points = structures.LiDARPoints(torch.from_numpy(clouds[-1].copy()), points_dim=5)
    given = {"points": points, "timestamp": key_time} | ({"lidar_sweeps": before} if before else {})
    options: dict[str, Any] = {"sweeps_num": 3, "use_dim": [0, 1, 2, 3, 4], "test_mode": True} | step
    joined: NDArray[np.float32] = CheckedLoadSweeps(**options).transform(given)["points"].tensor.numpy()
    return joined


@pytest.mark.parametrize("close", [False, True])
def test_a_stream_gives_what_the_data_pipeline_loads(tmp_path: Path, close: bool) -> None:
    clouds, where = scans(6), list(drive(6))
    joined = JoinedSweeps(SPEC, SweepSettings(3, close_m=1.0 if close else 0.0, pad_empty=True))
    for index, (points, (time_s, pose)) in enumerate(zip(clouds, where, strict=True)):
        found = joined.add(points, time_s, pose)
        wanted = loaded(tmp_path, clouds[: index + 1], where, remove_close=close, pad_empty_sweeps=True)
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found[:, 3:], wanted[:, 3:])
        np.testing.assert_array_equal(found[: len(points)], wanted[: len(points)])
        # mmdet3d rounds to float32 twice on the way, at coordinates below 32 m.
        np.testing.assert_allclose(found[:, :3], wanted[:, :3], rtol=0, atol=2 * np.spacing(np.float32(16)))
    assert sorted(set(found[:, 4].tolist())) == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-5)


def test_settings_are_those_of_the_models_own_pipeline(spec: ModelSpec) -> None:
    cfg = small_config(spec)
    assert SweepSettings.from_config(cfg) == SweepSettings(10)
    join = cfg.val_dataloader.dataset.pipeline[1]
    join.update(sweeps_num=4, remove_close=True, pad_empty_sweeps=True)
    assert SweepSettings.from_config(cfg) == SweepSettings(4, close_m=1.0, pad_empty=True)
    join.update(close_is_circle=True)
    with pytest.raises(ConfigError, match=r"the model config: sweeps lose what lies in a circle"):
        SweepSettings.from_config(cfg)
    cfg.val_dataloader.dataset.pipeline.pop()
    with pytest.raises(ConfigError, match=r"small\.py: no step of its test pipeline joins sweeps"):
        SweepSettings.from_config(cfg, "small.py")


def test_a_point_that_stands_still_stays_where_it_is_on_the_map() -> None:
    joined = JoinedSweeps(SPEC, SweepSettings(4))
    on_map = np.array([89_010.0, 42_020.0, 13.0])
    for time_s, pose in drive(5):
        seen = np.linalg.inv(pose) @ np.append(on_map, 1)
        found = joined.add(np.array([[*seen[:3], 0.5, 9.0]], np.float32), time_s, pose)
    np.testing.assert_allclose(found[:, :3], np.repeat(seen[None, :3], 5, axis=0), atol=1e-5)
    np.testing.assert_allclose(found[:, 4], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)


def test_what_is_no_stream_is_refused() -> None:
    motion = SweepMotion(SweepSettings(2))
    motion.add(10.0, np.eye(4))
    with pytest.raises(DataError, match=r"time 10\.0 s follows one of 10\.0: times rise .* Call reset\(\)"):
        motion.add(10.0, np.eye(4))
    motion.reset()
    assert len(motion.add(3.0, np.eye(4))) == 1
    moved_away = np.eye(4)
    moved_away[:3, 3] = 5.0, 1.0, 0.0
    assert motion.add(4.0, moved_away)[1].move is not None
    # Columns for rows, as of a library that stores them so; and what keeps lengths, but mirrors.
    for pose in (np.eye(3), np.full((4, 4), np.nan), 2 * np.eye(4), moved_away.T, np.diag([1.0, -1.0, 1.0, 1.0])):
        with pytest.raises(DataError, match="The pose of a cloud is a rigid motion"):
            motion.add(11.0, pose)
    alone = SweepMotion(SweepSettings(0))
    for seconds in (10.0, 10.1):
        assert len(alone.add(seconds, np.eye(4))) == 1
    with pytest.raises(DataError, match="times rise"):
        alone.add(10.05, np.eye(4))
    with pytest.raises(ConfigError, match="num_past is 65"):
        SweepSettings(65)
    with pytest.raises(ConfigError, match="close_m is nan"):
        SweepSettings(1, close_m=float("nan"))
    with pytest.raises(ConfigError, match=r"reads x, y, z: without a time lag"):
        JoinedSweeps(engine_spec(32, point_columns=("x", "y", "z")), SweepSettings(1))
    with pytest.raises(DataError, match=r"shape \(3, 4\)"):
        JoinedSweeps(SPEC, SweepSettings(1)).add(np.zeros((3, 4), np.float32), 0.0, np.eye(4))


@pytest.fixture
def device() -> Any:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return RecordingDevice()


def test_the_gpu_machines_check(device: Any) -> None:
    assert check_sweeps(device, capacity=700, cells=32, frames=7).startswith("28 joined clouds of ")


def test_the_check_finds_a_move_that_is_wrong(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.cuda_engine import device_sweeps

    class Late(SweepMotion):
        def add(self, timestamp_s: float, pose: Any) -> Any:
            pose = np.array(pose)
            pose[0, 3] += 1e-3 * (timestamp_s % 1)
            return super().add(timestamp_s, pose)

    monkeypatch.setattr(device_sweeps, "SweepMotion", Late)
    with pytest.raises(AssertionError, match="points differ, the first is"):
        check_sweeps(device, capacity=700, cells=32, frames=7)


def test_a_detector_on_the_host_and_a_graph_take_a_stream(device: Any) -> None:
    frame = open_frame(device)
    graph = GraphDetector(frame._spec, "cuda", "cuda:0", frame, device.close)
    settings = SweepSettings(3, close_m=1.0)
    stream, joined = graph.sweeps(settings), JoinedSweeps(frame._spec, settings)
    for index, (time_s, pose) in enumerate(drive(6)):
        points = clumped_cloud(frame._spec, 300 + index, index)
        device.calls.clear()
        found = stream(points, time_s, pose)
        kinds = device.kinds()
        # One cloud travels, the others are there.
        assert kinds.count("launch_graph") == 2
        assert kinds.index("cloud_take") < kinds.index("sweeps_join") < kinds.index("pillars_assign")
        assert kinds.index("sweeps_compact") < kinds.index("wait")
        whole = joined.add(points, time_s, pose)
        wanted = graph(whole)
        assert found.counts == wanted.counts
        np.testing.assert_array_equal(found.detections.boxes, wanted.detections.boxes)
        assert list(found.stages_ms) == list(wanted.stages_ms)
    with pytest.raises(DataError, match=r"has 501 points; of the 2000 of a joined cloud .* 4 sweeps has room for 500"):
        stream(np.zeros((501, 5), np.float32), 2e9, np.eye(4))
    stream.reset()
    joined.reset()
    assert stream(points, 0.0, np.eye(4)).counts == graph(joined.add(points, 0.0, np.eye(4))).counts
    graph.close()


def test_a_pipelines_stream_is_that_of_its_joined_clouds(spec: ModelSpec, onnx_dir: Path) -> None:
    pytest.importorskip("onnxruntime")
    from runtime.backends import open_backend

    with Pipeline(spec, open_backend("onnx", spec=spec, onnx_dir=onnx_dir)) as detector:
        stream, joined = detector.sweeps(SweepSettings(2)), JoinedSweeps(spec, SweepSettings(2))
        for (time_s, pose), points in zip(drive(4), scans(4), strict=True):
            wanted = detector(joined.add(points, time_s, pose))
            found = stream(points, time_s, pose)
            assert found.counts == wanted.counts
            np.testing.assert_array_equal(found.detections.boxes, wanted.detections.boxes)
        stream.reset()
