"""Points to boxes around any network on the device: nothing between the cloud and its boxes passes through the host."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from base.arguments import DEFAULT_POINTS
from base.boxes import Boxes3D
from runtime.capacity import cloud_bytes
from runtime.counts import BoxCounts
from runtime.cuda_engine.cloud_memory import CloudMemory
from runtime.cuda_engine.detections import DetectionKernels
from runtime.cuda_engine.device_sweeps import DeviceSweeps
from runtime.cuda_engine.intake import CloudIntake
from runtime.cuda_engine.pillars import PillarEncoderKernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.counts import VoxelCounts
    from runtime.cuda.device import CudaDevice
    from runtime.cuda_engine.canvas import Canvas
    from runtime.pillar_weights import PillarWeights
    from runtime.sweeps import SweepSettings

__all__ = ["FrameNetwork", "FrameResult", "PointsFrame"]

_log = logging.getLogger(__name__)

# What lies between the graph's events.
_STAGES = ("h2d", "voxel_encoder", "backbone_neck_head", "decode")


class FrameNetwork(Protocol):
    """The network between the two ends: it reads the canvas that the pillar kernels write."""

    @property
    def outputs(self) -> Mapping[str, int]:
        """Head name -> address of (C, h, w) float32, aligned to 16 bytes; always the same."""

    def enqueue(self, stream: int) -> None:
        """Puts one execution on the stream.

        Raises:
            RuntimeError: it cannot be enqueued, for example not while the stream is captured.
        """


@dataclass(frozen=True, eq=False)
class FrameResult:
    """One frame.

    Attributes:
        counts: Of the voxelization.
        dropped: Candidates of which no box was made.
        stages_ms: Stage -> milliseconds on the device: "h2d" (for a cloud that was copied in parts, until the last one
            came, with what the host needs for the others), "voxel_encoder" (with voxelization and scatter),
            "backbone_neck_head", "decode" (with the copy of the boxes back).
        read: Makes the boxes of the frame's bytes.
    """

    counts: VoxelCounts
    dropped: BoxCounts
    stages_ms: dict[str, float]
    read: Callable[[], Boxes3D]

    @cached_property
    def boxes(self) -> Boxes3D:
        """By descending score; none where no point lay in range. Made when they are asked for first."""
        return self.read()


class _Slot:
    """Memory and marks of one frame in flight: the cloud on both sides, the result on the host."""

    def __init__(
        self,
        device: CudaDevice,
        spec: ModelSpec,
        capacity: int,
        host_counts: NDArray[np.int32],
        host_result: NDArray[np.uint8],
    ) -> None:
        self.cloud = CloudMemory(device, spec, capacity)
        self.host_counts = host_counts
        self.host_result = host_result
        self.copy_begins, self.copied, self.done = (device.create_event() for _ in range(3))
        self.marks = [device.create_event() for _ in range(len(_STAGES) + 1)]
        self.graph: Any = None
        self.was_copied = False  # ahead of the graph, between `copy_begins` and `copied`


class PointsFrame:
    """A model on one GPU, from a cloud of at most `capacity` points to boxes, as one CUDA graph.

    Two slots of input memory let the next cloud travel while the present frame is computed (`detect_all`).

    Attributes:
        capacity: Most points of a cloud.
        is_captured: Whether frames are a graph; else their work is put on the stream piece by piece.
        intake: How clouds come to the device; gives page-locked memory for them.
        pillars, detections: Both ends; their outputs keep the last frame's values, as the network's do.
    """

    def __init__(
        self,
        device: CudaDevice,
        spec: ModelSpec,
        network: FrameNetwork,
        canvas: Canvas,
        weights: PillarWeights,
        *,
        stream: int,
        capacity: int = DEFAULT_POINTS,
        needs_graph: bool = True,
    ) -> None:
        """Compiles, allocates and captures.

        Args:
            network: Runs on `stream`.
            canvas: Its input, zeroed; the frame's from now on.
            weights: Of the pillar encoder.
            stream: Where the frames run.
            capacity: Most points of a cloud.
            needs_graph: Raise where the network cannot be captured; without, say so once in the log and do without a
                graph.

        Raises:
            ConfigError: the kernels do not take the model.
            RuntimeError: the network cannot be captured.
        """
        self._device, self._spec, self._network, self._stream = device, spec, network, stream
        self._canvas = canvas
        self.capacity = capacity
        megabytes = cloud_bytes(spec, capacity) / 2**20
        _log.info("clouds of at most %d points: %.0f MB of device memory", capacity, megabytes)
        self._copy_stream = device.create_stream()
        self.pillars = PillarEncoderKernels(device, spec, weights, canvas.memory, capacity=capacity)
        self.intake = CloudIntake(device, spec, capacity)
        self.detections = DetectionKernels(device, spec)
        self._slots = [
            _Slot(device, spec, capacity, self.pillars.new_host_counts(), self.detections.new_host()) for _ in range(2)
        ]
        self.is_captured = self._capture(needs_graph)

    @property
    def stream(self) -> int:
        """Where the frames run."""
        return self._stream

    @property
    def first_cloud(self) -> CloudMemory:
        """Where `detect` and `detect_joined` have their cloud."""
        return self._slots[0].cloud

    def detect(self, points: NDArray[np.float32]) -> FrameResult:
        """One frame from its cloud to its boxes.

        Args:
            points: (N, C) float32, metres, ego frame; columns as the model's configuration has them. Fastest in
                page-locked memory (`intake.new_cloud`).

        Raises:
            DataError: another shape or type, or more than `capacity` points.
        """
        slot = self._slots[0]
        self._submit(slot, points)
        return self._finish(slot)

    def detect_all(self, clouds: Iterable[NDArray[np.float32]]) -> Iterator[FrameResult]:
        """Frames one after the other; each cloud's copy to the device overlaps with the frame before it.

        A cloud in page-locked memory must stay as it is until its result has come.
        """
        flying: deque[_Slot] = deque()
        free = deque(self._slots)
        for points in clouds:
            slot = free.popleft()
            self._submit_ahead(slot, points)
            flying.append(slot)
            if not free:
                slot = flying.popleft()
                yield self._finish(slot)
                free.append(slot)
        while flying:
            yield self._finish(flying.popleft())

    def open_sweeps(self, settings: SweepSettings) -> DeviceSweeps:
        """A stream of clouds that are joined on the device, for `detect_joined`.

        Raises:
            ConfigError: the model has no time lag.
        """
        return DeviceSweeps(self._device, self._spec, self.intake, settings, self._slots[0].cloud, self._stream)

    def detect_joined(
        self, sweeps: DeviceSweeps, points: NDArray[np.float32], timestamp_s: float, pose: NDArray[np.float64]
    ) -> FrameResult:
        """One frame of the present cloud and those before it. The stage "h2d" ends with their being joined.

        Args:
            sweeps: From `open_sweeps`; the other arguments and errors are those of its `add`.
        """
        slot = self._slots[0]
        self._device.record(slot.copy_begins, self._stream)
        sweeps.add(points, timestamp_s, pose)
        self._device.record(slot.copied, self._stream)
        slot.was_copied = True
        self._start(slot)
        sweeps.keep()
        return self._finish(slot)

    def check(self, points: NDArray[np.float32]) -> None:
        """Raises `DataError` for a cloud of another shape or type, or of too many points."""
        self._slots[0].cloud.check(points)

    def run_network(self, canvas: NDArray[np.float32]) -> None:
        """The network alone on a canvas from the host; `read_outputs` brings its result. Waits for the stream.

        The frame's own canvas is lent for it and is clear again afterwards, as the pillar kernels need it.

        Args:
            canvas: (1, C, H, W) float32.

        Raises:
            RuntimeError: the network refuses; the canvas is clear.
        """
        values = np.ascontiguousarray(canvas)
        self._canvas.write(values, self._stream)
        try:
            self._network.enqueue(self._stream)
        finally:
            self._canvas.clear(self._stream)
            self._device.synchronize(self._stream)

    def new_host_outputs(self) -> dict[str, NDArray[np.float32]]:
        """Page-locked memory for `read_outputs`."""
        shapes = {head.name: self._spec.head_shape(head) for head in self._spec.heads}
        return {name: self._device.allocate_pinned(shape, np.float32) for name, shape in shapes.items()}

    def read_outputs(self, into: Mapping[str, NDArray[np.float32]]) -> None:
        """The head maps of the last frame, or of `run_network`, into arrays of (1, C, h, w). Waits for the stream."""
        for name, array in into.items():
            self._device.download(array, self._network.outputs[name], self._stream)
        self._device.synchronize(self._stream)

    def read_pillars(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(count, C) float32 features before quantization and (count, 3) int32 [z, y, x] of the last frame's pillars.

        Args:
            count: As the frame's counts have it.
        """
        features: NDArray[np.float32] = np.zeros((count, self._spec.encoder_channels), np.float32)
        records: NDArray[np.int32] = np.zeros((count, 4), np.int32)
        if count:
            self._device.download(features, self.pillars.features, self._stream)
            self._device.download(records, self.pillars.pillars, self._stream)
        self._device.synchronize(self._stream)
        y, x = np.divmod(records[:, 0], np.int32(self._spec.grid_size[0]))
        return features, np.stack([np.zeros_like(y), y, x], axis=1)

    def _capture(self, needs_graph: bool) -> bool:
        device, graphs = self._device, []
        for slot in self._slots:
            device.begin_capture(self._stream)
            try:
                self._enqueue(slot, in_graph=True)
                graphs.append(device.end_capture(self._stream))
            except RuntimeError as refusal:
                device.abandon_capture(self._stream)
                if needs_graph:
                    raise
                _log.warning(
                    "Model '%s' runs without a CUDA graph, its kernels put on the stream one by one: capturing them "
                    "failed: %s",
                    self._spec.name,
                    refusal,
                )
                return False
        for slot, graph in zip(self._slots, graphs, strict=True):
            slot.graph = graph
        return True

    def _submit(self, slot: _Slot, points: NDArray[np.float32]) -> None:
        slot.was_copied = self.intake.bring(slot.cloud, points, self._stream, slot.copy_begins, slot.copied)
        self._start(slot)

    def _submit_ahead(self, slot: _Slot, points: NDArray[np.float32]) -> None:
        """The cloud travels on a stream of its own, which the frame waits for."""
        self.intake.send(slot.cloud, points, self._copy_stream, slot.copy_begins, slot.copied)
        self._device.wait_in_stream(self._stream, slot.copied)
        slot.was_copied = True
        self._start(slot)

    def _start(self, slot: _Slot) -> None:
        if self.is_captured:
            self._device.launch_graph(slot.graph, self._stream)
        else:
            self._enqueue(slot, in_graph=False)
        self._device.record(slot.done, self._stream)

    def _finish(self, slot: _Slot) -> FrameResult:
        device = self._device
        device.wait(slot.done)
        spans = zip(_STAGES, slot.marks, slot.marks[1:], strict=False)
        times = {name: device.elapsed_ms(before, after) for name, before, after in spans}
        if slot.was_copied:
            times["h2d"] += device.elapsed_ms(slot.copy_begins, slot.copied)
        counts = self.pillars.counts(slot.host_counts)
        # As everywhere (`runtime.pipeline`): what a network makes of an empty canvas is nothing that was seen.
        if not counts.voxels:
            return FrameResult(counts, BoxCounts(), times, Boxes3D.empty)
        # The slot is the next frame's; boxes are made of a copy, if ever.
        host, detections = slot.host_result.copy(), self.detections
        dropped = detections.dropped(host)
        result = FrameResult(counts, dropped, times, lambda: detections.result(host))
        if dropped.broken:
            _ = result.boxes  # says so now
        return result

    def _enqueue(self, slot: _Slot, *, in_graph: bool) -> None:
        device, stream, pillars = self._device, self._stream, self.pillars
        marks = iter(slot.marks)
        device.record(next(marks), stream, in_graph=in_graph)
        self.intake.enqueue(slot.cloud, stream)
        device.record(next(marks), stream, in_graph=in_graph)
        pillars.enqueue(slot.cloud, stream)
        self._canvas.enqueue_marks(pillars.pillars, pillars.counters, stream)
        device.record(next(marks), stream, in_graph=in_graph)
        self._network.enqueue(stream)
        device.record(next(marks), stream, in_graph=in_graph)
        self.detections.enqueue(self._network.outputs, stream)
        self.detections.enqueue_download(stream, slot.host_result)
        pillars.enqueue_counts(slot.host_counts, stream)
        device.record(next(marks), stream, in_graph=in_graph)
