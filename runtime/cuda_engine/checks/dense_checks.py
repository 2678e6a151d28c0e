"""Checks of frames around a network that takes the dense canvas, as an engine of TensorRT does: a stand-in for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.cuda_engine.canvas import DenseCanvas
from runtime.cuda_engine.checks.cases import engine_spec, hard_clouds, large_cloud, random_weights
from runtime.cuda_engine.checks.frame_agreement import expect_host_boxes, expect_same_with_overlap
from runtime.cuda_engine.points_frame import FrameResult, PointsFrame
from runtime.preprocess import decorate, voxelize
from runtime.scatter import scatter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.cuda.device import CudaDevice
    from runtime.pillar_weights import PillarWeights

__all__ = ["CanvasAsHeads", "check_dense_frames", "check_large_dense_frame"]

# As in pillar_checks: sums are taken in another order.
_SHARE = 2e-6
# Cells without a pillar have the logit zero, which is the score 0.5: they are no candidates.
_THRESHOLD = 0.6


class CanvasAsHeads:
    """A network whose outputs are the canvas' first channels in turn; the head maps must be as large as the canvas.

    Attributes:
        canvas: Its input.
        outputs: Head name -> address of (C, H, W) float32.
    """

    def __init__(self, device: CudaDevice, spec: ModelSpec, *, synchronizes: bool = False) -> None:
        """Args:
        synchronizes: Wait for the stream in the middle of each execution, which cannot be captured.
        """
        self._device, self._synchronizes = device, synchronizes
        self.canvas = DenseCanvas(device, spec)
        self._bytes = {head.name: int(np.prod(spec.head_shape(head))) * 4 for head in spec.heads}
        self.outputs = {name: device.allocate(size) for name, size in self._bytes.items()}

    def enqueue(self, stream: int) -> None:
        """Puts one copy a head on the stream."""
        source = self.canvas.address
        for name, size in self._bytes.items():
            self._device.device_copy(self.outputs[name], source, size, stream)
            source += size
        if self._synchronizes:
            self._device.synchronize(stream)


class _Bench:
    def __init__(self, device: CudaDevice, spec: ModelSpec, capacity: int, *, synchronizes: bool = False) -> None:
        self._device, self.spec = device, spec
        self._weights: PillarWeights = random_weights(spec, 16)
        self._network = CanvasAsHeads(device, spec, synchronizes=synchronizes)
        self.frame = PointsFrame(
            device, spec, self._network, self._network.canvas, self._weights,
            stream=device.create_stream(), capacity=capacity, needs_graph=not synchronizes,
        )  # fmt: skip
        if self.frame.is_captured == synchronizes:
            raise AssertionError("a network that waits for the stream was captured")

    def check_all(self, clouds: Iterable[tuple[str, NDArray[np.float32]]]) -> str:
        """Each cloud alone, then all again with overlapping copies."""
        kept: list[NDArray[np.float32]] = []
        alone: list[FrameResult] = []
        for name, cloud in clouds:
            alone.append(self._check(name, cloud))
            kept.append(cloud)
        expect_same_with_overlap(self.frame, kept, alone)
        return f"{len(kept)} frames, {sum(len(result.boxes) for result in alone)} boxes"

    def _check(self, name: str, cloud: NDArray[np.float32]) -> FrameResult:
        spec = self.spec
        result = self.frame.detect(cloud)
        voxels = voxelize(cloud, spec)
        if result.counts != voxels.counts:
            raise AssertionError(f"{name}: {result.counts}, not {voxels.counts}")
        wanted: NDArray[np.float32] = np.zeros((0, spec.encoder_channels), np.float32)
        if len(voxels):
            wanted = self._weights.apply(decorate(voxels, spec))
        found = self._read(self._network.canvas.address, spec.canvas_shape)
        limit = _SHARE * max(float(np.abs(wanted).max(initial=0)), 1e-6)
        difference = float(np.abs(found - scatter(wanted, voxels.coords, spec)).max())
        if not difference <= limit:
            raise AssertionError(f"{name}: the canvas differs by {difference:g}, beyond {limit:g}")
        features = self._read(self.frame.pillars.features, wanted.shape)
        if not np.array_equal(found, scatter(features, voxels.coords, spec)):
            raise AssertionError(f"{name}: the canvas is not the scattered features")
        outputs, first = {}, 0
        for head in spec.heads:
            outputs[head.name] = np.ascontiguousarray(found[:, first : first + head.channels])
            first += head.channels
        expect_host_boxes(result, outputs, spec, name)
        return result

    def _read(self, address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        values = np.empty(shape, np.float32)
        if values.size:
            self._device.download(values, address, self.frame.stream)
            self._device.synchronize(self.frame.stream)
        return values


def check_dense_frames(device: CudaDevice, capacity: int = 1 << 14, cells: int = 64) -> str:
    """Clouds at the kernels' limits through a captured frame, and through one whose network cannot be captured."""
    spec = engine_spec(cells, max_voxels=1000, score_threshold=_THRESHOLD)
    notes = []
    for synchronizes in (False, True):
        bench = _Bench(device, spec, capacity, synchronizes=synchronizes)
        kind = "without a graph" if synchronizes else "in one graph"
        notes.append(f"{kind}: {bench.check_all(hard_clouds(spec, capacity))}")
    return "; ".join(notes)


def check_large_dense_frame(device: CudaDevice) -> str:
    """The 760 x 760 model's shapes with 200,000 points: what both ends cost around a network of TensorRT."""
    spec = engine_spec(760, score_threshold=_THRESHOLD)
    cloud = large_cloud(spec)
    bench = _Bench(device, spec, 1 << 18)
    detail = bench.check_all([("large cloud", cloud), ("small cloud", cloud[:1000]), ("large cloud again", cloud)])
    runs = [bench.frame.detect(cloud).stages_ms for _ in range(100)]
    medians = {stage: sorted(run[stage] for run in runs)[len(runs) // 2] for stage in runs[0]}
    return f"{detail}; " + ", ".join(f"{stage} {value:.3f} ms" for stage, value in medians.items())
