"""Clouds on their way to the device: from page-locked memory by the kernel, from other memory part by part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import DataError
from benchmarks.gpu_host import measure_frame, measure_sweeps
from runtime.cuda_engine import host_copy, intake
from runtime.cuda_engine.checks.cases import clumped_cloud, engine_spec, random_weights
from runtime.cuda_engine.checks.dense_checks import CanvasAsHeads
from runtime.cuda_engine.checks.intake_checks import check_intake
from runtime.cuda_engine.cloud_memory import CloudMemory
from runtime.cuda_engine.host_copy import HostCopy
from runtime.cuda_engine.intake import CloudIntake
from runtime.cuda_engine.points_frame import PointsFrame
from tests.runtime.emulated_device import EmulatedDevice
from tests.runtime.recording_device import RecordingDevice

CAPACITY = 2000
SPEC = engine_spec(32, max_voxels=300, score_threshold=0.6)


@pytest.fixture
def device() -> Any:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return RecordingDevice()


def test_the_gpu_machines_check(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (host_copy, intake):
        monkeypatch.setattr(module, "PART_BYTES", 4000)
    assert check_intake(device, capacity=4200, cells=32) == "34 clouds equal bit by bit; 4 frames"


class Bench:
    """The intake alone: what a cloud is on the device after it."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.intake = CloudIntake(device, SPEC, CAPACITY)
        self.cloud = CloudMemory(device, SPEC, CAPACITY)

    def take(self, points: NDArray[np.float32], *, ahead: bool = False) -> NDArray[np.float32]:
        self.device.calls.clear()
        if ahead:
            self.intake.send(self.cloud, points, 1, 8, 9)
        else:
            self.intake.bring(self.cloud, points, 1, 8, 9)
        self.intake.enqueue(self.cloud, 1)
        self.device.check_guards()
        (count,) = self.device.view(self.cloud.num_points, (1,), np.int32)
        found: NDArray[np.float32] = self.device.view(self.cloud.points, (CAPACITY, 5))[:count].copy()
        return found


def test_page_locked_clouds_are_read_from_where_they_lie(device: Any) -> None:
    bench = Bench(device)
    memory = bench.intake.new_cloud(CAPACITY)
    assert (memory.shape, memory.dtype, memory.any()) == ((CAPACITY, 5), np.dtype(np.float32), np.False_)
    for count in (CAPACITY, 7, 1, 0, 1999):
        memory[:count] = clumped_cloud(SPEC, count, count) if count else 0
        np.testing.assert_array_equal(bench.take(memory[:count]), memory[:count])
        assert device.kinds() == ["cloud_take"]
    # One in the middle of it begins at an address that four numbers at a time do not fit.
    np.testing.assert_array_equal(bench.take(memory[3:1000]), memory[3:1000])
    assert bench.cloud.request[0] == memory.ctypes.data + 60


def test_columns_that_the_model_does_not_read_stay_behind(device: Any) -> None:
    bench = Bench(device)
    rows = np.arange(7 * 900, dtype=np.float32).reshape(900, 7)
    bench.intake.lock(rows)
    for columns in (rows[:, :5], rows[::3, :5], rows[1:, 2:]):
        np.testing.assert_array_equal(bench.take(columns), columns)
        assert device.kinds() == ["cloud_take"]
        np.testing.assert_array_equal(bench.take(columns, ahead=True), columns)
    # Rows from behind, or columns that are not neighbours, are copied by the host.
    for odd in (rows[::-1, :5], np.asfortranarray(rows[:, :5])):
        np.testing.assert_array_equal(bench.take(odd), odd)


@pytest.mark.parametrize("threads", [1, 3])
def test_other_memory_travels_part_by_part(device: Any, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    for module in (host_copy, intake):
        monkeypatch.setattr(module, "PART_BYTES", 4000)
    monkeypatch.setattr(intake, "HostCopy", lambda: HostCopy(threads))
    bench = Bench(device)
    for count in (1999, 200, 201, 0):
        points = clumped_cloud(SPEC, count, count) if count else np.zeros((0, 5), np.float32)
        np.testing.assert_array_equal(bench.take(points), points)
        # One thread has parts of 200 points; of several each has its share.
        used = min(threads, -(-count // 200))
        parts = -(-count // 200) if used <= 1 else used
        uploads = [call for call in device.calls if call[0] == "upload"]
        assert len(uploads) == (parts if parts > 1 else 0)
        assert sum(call[2] for call in uploads) == (points.nbytes if parts > 1 else 0)
        assert ("record" in device.kinds()) == (parts > 1)
    wide = np.arange(1500 * 6, dtype=np.float32).reshape(1500, 6)[:, :5]
    np.testing.assert_array_equal(bench.take(wide), wide)
    np.testing.assert_array_equal(bench.take(wide, ahead=True), wide)
    bench.intake.close()
    bench.intake.close()


def test_a_thread_that_cannot_copy_tells_so() -> None:
    source = np.zeros((3 * host_copy.PART_BYTES // 8, 2), np.float32)
    # Only the second half, which the other thread has, finds no room.
    with pytest.raises(ValueError, match="could not broadcast"):
        HostCopy(2).copy(np.zeros((host_copy.PART_BYTES // 4, 2), np.float32), source, lambda part: None)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 9000])
def test_parts_are_all_rows_once(monkeypatch: pytest.MonkeyPatch, threads: int, count: int) -> None:
    monkeypatch.setattr(host_copy, "PART_BYTES", 1000 * 8)
    source = np.random.default_rng(0).random((count, 2), np.float32)
    target, seen, copy = np.zeros_like(source), np.zeros(count, int), HostCopy(threads)

    def copied(part: slice) -> None:
        np.testing.assert_array_equal(target[part], source[part])
        seen[part] += 1

    copy.copy(target, source, copied)
    copy.close()
    assert (seen == 1).all()


def test_memory_that_cannot_be_locked(device: Any) -> None:
    bench = Bench(device)
    for wrong in (np.zeros((4, 5)), np.zeros((4, 6), np.float32)[:, :5], np.zeros((0, 5), np.float32)):
        with pytest.raises(ValueError, match="Memory to page-lock is contiguous float32, not"):
            bench.intake.lock(wrong)  # type: ignore[arg-type]
    memory = bench.intake.new_cloud(CAPACITY + 1)
    with pytest.raises(DataError, match="has 2001 points, but at most 2000 are taken"):
        bench.take(memory)
    assert device.calls == []


def open_frame(device: Any) -> PointsFrame:
    network = CanvasAsHeads(device, SPEC)
    return PointsFrame(
        device, SPEC, network, network.canvas, random_weights(SPEC, 16),
        stream=device.create_stream(), capacity=CAPACITY,
    )  # fmt: skip


def test_the_hosts_time_is_measured_for_each_place_of_a_cloud(device: Any) -> None:
    frame = open_frame(device)
    clouds = [clumped_cloud(SPEC, 300, seed) for seed in range(2)]
    rows = measure_frame(frame, "small", clouds, frames=2, rounds=1)
    assert [row.place for row in rows] == [
        "page-locked", "page-locked, boxes read", "page-locked, one column too many", "other memory",
        "page-locked, copied ahead",
    ]  # fmt: skip
    for row in rows:
        # The stand-in's events are one millisecond apart, and a graph has four spans of them.
        assert row.device_p50_ms == 4
        assert row.host_p50_ms == pytest.approx(row.wall_p50_ms - 4)
    joined, by_numpy = measure_sweeps(frame, "small", SPEC, 600, frames=2)
    assert (joined.place, by_numpy.place) == ("ten sweeps, joined on the device", "ten sweeps, joined by numpy")
    # The cloud's way into the ring and the joining lie in front of the graph's four spans.
    assert (joined.device_p50_ms, by_numpy.device_p50_ms) == (5, 4)


def test_boxes_are_made_when_asked_for_and_stay(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = open_frame(device)
    made: list[int] = []
    make = frame.detections.result

    def count(host: Any) -> Any:
        made.append(len(host))
        return make(host)

    monkeypatch.setattr(frame.detections, "result", count)
    memory = frame.intake.new_cloud(CAPACITY)
    clouds = [clumped_cloud(SPEC, 900, seed) for seed in range(3)]
    wanted = [frame.detect(cloud).boxes for cloud in clouds]
    assert len(wanted[0]) > 3
    made.clear()
    results = []
    for cloud in clouds:
        memory[: len(cloud)] = cloud
        results.append(frame.detect(memory[: len(cloud)]))
    assert made == []
    for result, boxes in zip(results, wanted, strict=True):
        np.testing.assert_array_equal(result.boxes.boxes, boxes.boxes)
        np.testing.assert_array_equal(result.boxes.scores, boxes.scores)
        assert result.boxes is result.boxes
    assert len(made) == 3
