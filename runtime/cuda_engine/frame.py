"""Points to boxes as one CUDA graph: nothing between the cloud and its boxes passes through the host."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import DataError
from runtime.cuda_engine.detections import DetectionKernels
from runtime.cuda_engine.network import DeviceNetwork
from runtime.cuda_engine.pillars import COUNTERS, CanvasMemory, PillarEncoderKernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from base.boxes import Boxes3D
    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.pillar_weights import PillarWeights
    from runtime.cuda_engine.plan import NetworkPlan

__all__ = ["DeviceFrame", "FrameResult"]

# What lies between the graph's events; the copy of the cloud runs in front of it.
_STAGES = ("voxel_encoder", "backbone_neck_head", "decode")


@dataclass(frozen=True, eq=False)
class FrameResult:
    """One frame.

    Attributes:
        boxes: By descending score.
        counters: Of the voxelization, by the names of `pillars.COUNTERS`.
        stages_ms: Stage -> milliseconds on the device: "h2d", "voxel_encoder" (with voxelization and scatter),
            "backbone_neck_head", "decode" (with the copy of the boxes back).
    """

    boxes: Boxes3D
    counters: dict[str, int]
    stages_ms: dict[str, float]


class _Slot:
    """Memory and marks of one frame in flight: the cloud on both sides, the result on the host."""

    def __init__(self, device: CudaDevice, capacity: int, columns: int) -> None:
        self.host_points = device.allocate_pinned((capacity, columns), np.float32)
        self.host_count = device.allocate_pinned((1,), np.int32)
        self.host_counters = device.allocate_pinned((len(COUNTERS),), np.int32)
        self.points = device.allocate(capacity * columns * 4)
        self.count = device.allocate(4)
        self.copy_begins, self.copied, self.done = (device.create_event() for _ in range(3))
        self.marks = [device.create_event() for _ in range(len(_STAGES) + 1)]
        self.host_result: NDArray[np.uint8] | None = None
        self.graph: Any = None


class DeviceFrame:
    """A model on one GPU, from a cloud of at most `capacity` points to boxes.

    Two slots of input memory let the next cloud travel while the present frame is computed (`detect_all`).

    Attributes:
        capacity: Most points of a cloud.
        network, pillars, detections: The three parts; their maps and outputs keep the last frame's values.
    """

    def __init__(
        self, device: CudaDevice, spec: ModelSpec, plan: NetworkPlan, weights: PillarWeights, *, capacity: int = 1 << 18
    ) -> None:
        """Compiles, allocates and captures.

        Args:
            capacity: Most points of a cloud.

        Raises:
            ConfigError: the kernels do not take the model.
        """
        self._device, self._spec, self.capacity = device, spec, capacity
        self._stream, self._copy_stream = device.create_stream(), device.create_stream()
        self.network = DeviceNetwork(device, plan)
        canvas = self.network.canvas
        memory = CanvasMemory(canvas.address, canvas.plane, plan.canvas.scale)
        self.pillars = PillarEncoderKernels(device, spec, weights, memory, capacity=capacity, keep_features=True)
        self.detections = DetectionKernels(device, spec)
        self._slots = [_Slot(device, capacity, spec.point_features) for _ in range(2)]
        for slot in self._slots:
            slot.host_result = self.detections.new_host()
            device.begin_capture(self._stream)
            self._enqueue(slot)
            slot.graph = device.end_capture(self._stream)

    @property
    def stream(self) -> int:
        """Where the frames run."""
        return self._stream

    def detect(self, points: NDArray[np.float32]) -> FrameResult:
        """One frame from its cloud to its boxes.

        Args:
            points: (N, C) float32, metres, ego frame; columns as the model's configuration has them.

        Raises:
            DataError: another shape or type, or more than `capacity` points.
        """
        slot = self._slots[0]
        self._submit(slot, points, self._stream)
        return self._finish(slot)

    def pillar_features(self, count: int) -> NDArray[np.float32]:
        """(count, C) float32 of the last frame's first `count` pillars, before quantization."""
        features = np.empty((count, self._spec.encoder_channels), np.float32)
        self._device.download(features, self.pillars.features, self._stream)
        self._device.synchronize(self._stream)
        return features

    def detect_all(self, clouds: Iterable[NDArray[np.float32]]) -> Iterator[FrameResult]:
        """Frames one after the other; each cloud's copy to the device overlaps with the frame before it."""
        flying: deque[_Slot] = deque()
        free = deque(self._slots)
        for points in clouds:
            slot = free.popleft()
            self._submit(slot, points, self._copy_stream)
            flying.append(slot)
            if not free:
                slot = flying.popleft()
                yield self._finish(slot)
                free.append(slot)
        while flying:
            yield self._finish(flying.popleft())

    def _submit(self, slot: _Slot, points: NDArray[np.float32], copy_stream: int) -> None:
        device = self._device
        self.check(points)
        slot.host_points[: len(points)] = points
        slot.host_count[0] = len(points)
        device.record(slot.copy_begins, copy_stream)
        if len(points):
            device.upload(slot.points, slot.host_points[: len(points)], copy_stream)
        device.upload(slot.count, slot.host_count, copy_stream)
        device.record(slot.copied, copy_stream)
        device.wait_in_stream(self._stream, slot.copied)
        device.launch_graph(slot.graph, self._stream)
        device.record(slot.done, self._stream)

    def _finish(self, slot: _Slot) -> FrameResult:
        device = self._device
        device.wait(slot.done)
        times = {"h2d": device.elapsed_ms(slot.copy_begins, slot.copied)}
        for name, before, after in zip(_STAGES, slot.marks, slot.marks[1:], strict=False):
            times[name] = device.elapsed_ms(before, after)
        counters = dict(zip(COUNTERS, map(int, slot.host_counters), strict=True))
        return FrameResult(self.detections.result(slot.host_result), counters, times)

    def _enqueue(self, slot: _Slot) -> None:
        device, stream, pillars = self._device, self._stream, self.pillars
        marks = iter(slot.marks)
        device.record(next(marks), stream, in_graph=True)
        pillars.enqueue(stream, points=slot.points, num_points=slot.count)
        device.record(next(marks), stream, in_graph=True)
        self.network.enqueue(stream)
        device.record(next(marks), stream, in_graph=True)
        self.detections.enqueue(self.network.outputs, stream)
        self.detections.enqueue_download(stream, slot.host_result)
        device.download(slot.host_counters, pillars.counters, stream)
        device.record(next(marks), stream, in_graph=True)

    def check(self, points: NDArray[np.float32]) -> None:
        """Raises `DataError` for a cloud of another shape or type, or of too many points."""
        columns = self._spec.point_features
        if points.ndim != 2 or points.shape[1] != columns or points.dtype != np.float32:
            raise DataError(
                f"Point cloud is {points.dtype} of shape {points.shape}; model '{self._spec.name}' needs float32 "
                f"(N, {columns})."
            )
        if len(points) > self.capacity:
            raise DataError(
                f"Point cloud has {len(points)} points; the 'cuda' backend was opened for {self.capacity}. Open it "
                "with a larger capacity."
            )
