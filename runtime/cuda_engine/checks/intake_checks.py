"""Checks of how clouds come to the device: whatever memory they lie in, their bits and their boxes are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda_engine.checks.cases import clumped_cloud, engine_spec, random_weights
from runtime.cuda_engine.checks.dense_checks import CanvasAsHeads
from runtime.cuda_engine.cloud_memory import CloudMemory
from runtime.cuda_engine.intake import CloudIntake
from runtime.cuda_engine.points_frame import FrameResult, PointsFrame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice

__all__ = ["check_intake"]


def check_intake(device: CudaDevice, capacity: int = 300_000, cells: int = 64) -> str:
    """Page-locked clouds, rows further apart, other memory, small and large: what comes to the device, and frames."""
    spec = engine_spec(cells, max_voxels=1000, score_threshold=0.6)
    intake, cloud, stream = (
        CloudIntake(device, spec, capacity),
        CloudMemory(device, spec, capacity),
        device.create_stream(),
    )
    begins, copied = device.create_event(), device.create_event()
    compared = 0
    try:
        for name, points in _clouds(intake, spec, capacity):
            for ahead in (False, True):
                (intake.send if ahead else intake.bring)(cloud, points, stream, begins, copied)
                intake.enqueue(cloud, stream)
                count: NDArray[np.int32] = np.zeros(1, np.int32)
                device.download(count, cloud.num_points, stream)
                found: NDArray[np.float32] = np.zeros(points.shape, np.float32)
                if len(points):
                    device.download(found, cloud.points, stream)
                device.synchronize(stream)
                if count[0] != len(points) or found.tobytes() != np.ascontiguousarray(points).tobytes():
                    raise AssertionError(f"{name}{', ahead' if ahead else ''}: not the cloud of {len(points)} points")
                compared += 1
    finally:
        intake.close()
    return f"{compared} clouds equal bit by bit; {_check_frames(device, spec, min(capacity, 1 << 16))}"


def _clouds(intake: CloudIntake, spec: ModelSpec, capacity: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    columns = spec.point_features
    locked, wide = intake.new_cloud(capacity), np.zeros((capacity, columns + 2), np.float32)
    intake.lock(wide)
    for count in (capacity, 1, 0, capacity // 2 + 1):
        points = clumped_cloud(spec, count, count) if count else np.zeros((0, columns), np.float32)
        locked[:count], wide[:count, :columns] = points, points
        yield f"{count} page-locked", locked[:count]
        yield f"{count} in wider rows", wide[:count, :columns]
        yield f"{count} in other memory", points
        yield f"{count} in other memory, columns apart", np.asfortranarray(points)
    yield "in the middle of page-locked memory", locked[3 : capacity // 2]


def _check_frames(device: CudaDevice, spec: ModelSpec, capacity: int) -> str:
    """Boxes that are read late are those of their own frame, wherever its cloud lay."""
    network = CanvasAsHeads(device, spec)
    frame = PointsFrame(
        device, spec, network, network.canvas, random_weights(spec, 16),
        stream=device.create_stream(), capacity=capacity,
    )  # fmt: skip
    clouds = [clumped_cloud(spec, capacity - 1000 * seed, seed) for seed in range(4)]
    locked = frame.intake.new_cloud(capacity)
    late: list[FrameResult] = []
    try:
        wanted = [frame.detect(cloud).boxes.boxes.tobytes() for cloud in clouds]
        for cloud in clouds:
            locked[: len(cloud)] = cloud
            late.append(frame.detect(locked[: len(cloud)]))
    finally:
        frame.intake.close()
    if [result.boxes.boxes.tobytes() for result in late] != wanted:
        raise AssertionError("boxes of page-locked clouds, read after later frames, are others")
    return f"{len(late)} frames"
