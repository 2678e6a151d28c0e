"""Points to boxes around a network that takes the dense canvas, on the CPU emulator; the kernels through nvcc."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import DataError
from runtime.cuda.scatter import ScatterKernel
from runtime.cuda_engine.checks.cases import clumped_cloud, engine_spec, random_weights
from runtime.cuda_engine.checks.dense_checks import CanvasAsHeads, check_dense_frames
from runtime.cuda_engine.cloud_memory import CloudMemory
from runtime.cuda_engine.detections import DetectionKernels
from runtime.cuda_engine.device_sweeps import DeviceSweeps
from runtime.cuda_engine.intake import CloudIntake
from runtime.cuda_engine.pillars import CanvasMemory, PillarEncoderKernels
from runtime.cuda_engine.points_frame import PointsFrame
from runtime.sweeps import SweepSettings
from tests.runtime.emulated_device import EmulatedDevice
from tests.runtime.fake_engine import FakeDevice
from tests.runtime.nvcc import compile_cubin, needs_nvcc
from tests.runtime.recording_device import RecordingDevice


@pytest.fixture
def device() -> Any:
    if EmulatedDevice.compiler() is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the CPU")
    return RecordingDevice()


def open_frame(device: Any, *, synchronizes: bool = False, needs_graph: bool = True) -> PointsFrame:
    spec = engine_spec(32, max_voxels=300, score_threshold=0.6)
    network = CanvasAsHeads(device, spec, synchronizes=synchronizes)
    return PointsFrame(
        device, spec, network, network.canvas, random_weights(spec, 16),
        stream=device.create_stream(), capacity=2000, needs_graph=needs_graph,
    )  # fmt: skip


def test_dense_canvas_and_boxes_at_the_limits(device: Any) -> None:
    check_dense_frames(device, capacity=3000, cells=32)


def test_a_network_that_waits_for_the_stream_is_not_captured(device: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match=r"cudaStreamSynchronize failed: cudaErrorStreamCaptureUnsupported"):
        open_frame(device, synchronizes=True)
    caplog.set_level(logging.WARNING)
    device.calls.clear()
    frame = open_frame(device, synchronizes=True, needs_graph=False)
    # Tried once for both slots, and said once.
    kinds = device.kinds()
    assert [kind for kind in kinds if "capture" in kind] == ["begin_capture", "abandon_capture"]
    assert not frame.is_captured
    cloud = clumped_cloud(engine_spec(32), 500, 0)
    for _ in frame.detect_all([cloud] * 3):
        pass
    (message,) = [record.getMessage() for record in caplog.records]
    assert "'check32' runs without a CUDA graph" in message
    assert "cudaErrorStreamCaptureUnsupported" in message


def test_the_next_clouds_copy_is_put_before_the_host_waits_for_the_frame(device: Any) -> None:
    frame = open_frame(device)
    clouds = [clumped_cloud(engine_spec(32), count, count) for count in (700, 0, 900)]
    device.calls.clear()
    assert len(list(frame.detect_all(clouds))) == 3
    kinds = [kind for kind in device.kinds() if kind in ("upload", "launch_graph", "wait")]
    # An empty cloud has nothing to copy: its number of points is in the request.
    assert kinds == ["upload", "launch_graph", "launch_graph", "wait", "upload", "launch_graph", "wait", "wait"]
    copies = {call[3] for call in device.calls if call[0] == "upload"}
    launches = {call[1] for call in device.calls if call[0] == "launch_graph"}
    assert launches == {frame.stream}
    assert len(copies) == 1
    assert copies.isdisjoint(launches)
    waits = [call for call in device.calls if call[0] == "wait_in_stream"]
    assert [call[1] for call in waits] == [frame.stream] * 3


def test_clouds_that_do_not_fit_are_refused_before_anything_is_put_on_a_stream(device: Any) -> None:
    frame = open_frame(device)
    device.calls.clear()
    for cloud, message in (
        (np.zeros((2001, 5), np.float32), r"has 2001 points, but at most 2000 are taken"),
        (np.zeros((10, 4), np.float32), r"float32 of shape \(10, 4\); model 'check32' needs float32 \(N, 5\)"),
        (np.zeros((10, 5)), r"Point cloud is float64"),
    ):
        with pytest.raises(DataError, match=message):
            frame.detect(cloud)  # type: ignore[arg-type]
    assert device.calls == []


class _Sources(FakeDevice):
    """Keeps what it is given to compile."""

    def __init__(self) -> None:
        super().__init__(engine_spec(64))
        self.sources: dict[str, str] = {}

    def compile_all(self, source: str, functions: Any, **options: Any) -> dict[str, str]:
        self.sources[functions[0]] = source
        return super().compile_all(source, functions, **options)


def _sources() -> dict[str, str]:
    """The kernels of a frame at the released models' sizes, one name a source."""
    found: dict[str, str] = {}
    spec = engine_spec(760)
    canvases = {
        "dense": CanvasMemory.dense(0, spec),
        "int8": CanvasMemory(0, 0, 0.05),
        "float16": CanvasMemory(0, 0, None),
    }
    for name, canvas in canvases.items():
        device: Any = _Sources()
        weights = random_weights(spec, 16, float16=name == "float16")
        PillarEncoderKernels(device, spec, weights, canvas, capacity=1 << 18)
        found[f"pillars {name}"] = device.sources["pillars_assign"]
    device = _Sources()
    DetectionKernels(device, spec)
    ScatterKernel(device, spec)
    CloudIntake(device, spec, 1 << 18)
    found["take"] = device.sources["cloud_take"]
    intake, joined = CloudIntake(device, spec, 1 << 18), CloudMemory(device, spec, 1 << 18)
    DeviceSweeps(device, spec, intake, SweepSettings(9, close_m=1.0), joined, 17)
    found["sweeps"] = device.sources["sweeps_join"]
    return found | {"decode": device.sources["detect_collect"], "scatter": device.sources["scatter_pillars"]}


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90a"])
def test_kernels_compile(architecture: str, tmp_path: Path) -> None:
    for source in _sources().values():
        compile_cubin(source, architecture, tmp_path, "--fmad=false")
