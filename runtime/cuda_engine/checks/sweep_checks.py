"""Checks of sweeps that stay on the device: the joined cloud is that of `runtime.sweeps`, bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda_engine.checks.cases import clumped_cloud, engine_spec, random_weights
from runtime.cuda_engine.checks.dense_checks import CanvasAsHeads
from runtime.cuda_engine.points_frame import PointsFrame
from runtime.sweeps import JoinedSweeps, SweepSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from runtime.cuda.device import CudaDevice

__all__ = ["check_sweeps", "drive"]


def check_sweeps(device: CudaDevice, capacity: int = 60_010, cells: int = 64, frames: int = 25) -> str:
    """Streams of clouds of all sizes, with and without close points, past clouds and copies: clouds and boxes."""
    spec = engine_spec(cells, max_voxels=1000, score_threshold=0.6)
    network = CanvasAsHeads(device, spec)
    frame = PointsFrame(
        device, spec, network, network.canvas, random_weights(spec, 16),
        stream=device.create_stream(), capacity=capacity,
    )  # fmt: skip
    compared = points = 0
    try:
        for settings in (
            SweepSettings(9, close_m=1.0, pad_empty=True),
            SweepSettings(2),
            SweepSettings(1, pad_empty=True),
            SweepSettings(0, close_m=2.5),
        ):
            ring, host = frame.open_sweeps(settings), JoinedSweeps(spec, settings)
            locked = frame.intake.new_cloud(ring.capacity)
            for index, (time_s, pose) in enumerate(drive(frames)):
                if index == frames - 3:
                    ring.reset()
                    host.reset()
                count = (ring.capacity, 0, 1, ring.capacity // 3)[index] if index < 4 else index * ring.capacity // 50
                cloud = clumped_cloud(spec, count, index) if count else np.zeros((0, 5), np.float32)
                cloud[: count // 4, :2] *= 0.1  # what is close to the vehicle
                if index % 2:
                    locked[:count] = cloud
                    cloud = locked[:count]
                wanted = host.add(cloud, time_s, pose)
                found = frame.detect_joined(ring, cloud, time_s, pose)
                where = f"{settings}, frame {index}"
                _expect_cloud(device, frame, wanted, where)
                again = frame.detect(wanted)
                if again.counts != found.counts or again.boxes.boxes.tobytes() != found.boxes.boxes.tobytes():
                    raise AssertionError(f"{where}: counts or boxes are not those of the cloud that numpy joined")
                compared, points = compared + 1, points + len(wanted)
    finally:
        frame.intake.close()
    return f"{compared} joined clouds of {points} points equal bit by bit, and their boxes"


def drive(frames: int) -> Iterator[tuple[float, NDArray[np.float64]]]:
    """Times and poses of a vehicle that turns, far from the map's origin."""
    place, yaw = np.array([89_000.0, 42_000.0, 12.0]), 0.3
    for index in range(frames):
        yaw += 0.04 * np.sin(index)
        place = place + 0.9 * np.array([np.cos(yaw), np.sin(yaw), 0.01])
        pose = np.eye(4)
        tilt = 0.01 * np.cos(index)
        around = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        pose[:3, :3] = around @ np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
        pose[:3, 3] = place
        yield 1_700_000_000.0 + 0.1 * index, pose


def _expect_cloud(device: CudaDevice, frame: PointsFrame, wanted: NDArray[np.float32], where: str) -> None:
    cloud = frame.first_cloud
    count, found = np.zeros(1, np.int32), np.zeros_like(wanted)
    device.download(count, cloud.num_points, frame.stream)
    if len(wanted):
        device.download(found, cloud.points, frame.stream)
    device.synchronize(frame.stream)
    if count[0] != len(wanted):
        raise AssertionError(f"{where}: {count[0]} points, not {len(wanted)}")
    if found.tobytes() != wanted.tobytes():
        rows = np.flatnonzero((found.view(np.uint32) != wanted.view(np.uint32)).any(axis=1))
        raise AssertionError(f"{where}: {len(rows)} of {len(wanted)} points differ, the first is {rows[0]}")
