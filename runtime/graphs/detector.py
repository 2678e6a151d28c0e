"""A detector that goes from points to boxes in one CUDA graph, with nothing in between passing through the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from models.spec import BACKBONE_NECK_HEAD
from runtime.backends.base import check_tensor
from runtime.decoders import TRAINING_DECODER, Decoder
from runtime.detector import Inference, InspectableDetector, Inspection, Outputs, Pillars
from runtime.sweeps import SweepStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.counts import VoxelCounts
    from runtime.cuda_engine.points_frame import FrameResult, PointsFrame
    from runtime.sweeps import SweepSettings

__all__ = ["GraphDetector"]


class GraphDetector(InspectableDetector):
    """`PointsFrame` as a detector.

    The training framework's boxes are made on the device, and the raw outputs stay there. Another decoder makes boxes
    on the host, of the outputs that it brings there. `inspect` runs the same graph and reads what it left behind.
    """

    def __init__(
        self,
        spec: ModelSpec,
        name: str,
        device: str,
        frame: PointsFrame,
        release: Callable[[], None],
        decoder: Decoder = TRAINING_DECODER,
    ) -> None:
        """Args:
        frame: On the device; the detector's from now on.
        release: Frees the device; called once, when nothing of the frame is used any more.
        decoder: What makes boxes.
        """
        super().__init__(spec, name, device, decoder)
        self._frame: PointsFrame | None = frame
        self._free_device = release
        self._outputs: dict[str, NDArray[np.float32]] = {}

    @property
    def frame(self) -> PointsFrame:
        """What runs; for several clouds in flight (`PointsFrame.detect_all`).

        Raises:
            RuntimeError: the detector was closed.
        """
        self._check_open()
        assert self._frame is not None
        return self._frame

    def new_cloud(self, count: int) -> NDArray[np.float32]:
        return self.frame.intake.new_cloud(count)

    def sweeps(self, settings: SweepSettings) -> SweepStream:
        ring = self.frame.open_sweeps(settings)

        def detect(points: NDArray[np.float32], timestamp_s: float, pose: NDArray[np.float64]) -> Inference:
            return self._inference(lambda: self.frame.detect_joined(ring, points, timestamp_s, pose))

        return SweepStream(detect, ring.reset)

    def detect(self, points: NDArray[np.float32]) -> Inference:
        return self._inference(lambda: self.frame.detect(points))

    def _inference(self, run: Callable[[], FrameResult]) -> Inference:
        begin = time.perf_counter()
        result = run()
        if self.decoder is TRAINING_DECODER:
            total = (time.perf_counter() - begin) * 1e3
            return Inference(lambda: result.boxes, None, result.stages_ms, total, result.counts, result.dropped)
        copying = time.perf_counter()
        outputs = self._read_outputs(result.counts)
        decoding = time.perf_counter()
        decoded = self.decoder.counted(outputs, self.spec)
        end = time.perf_counter()
        stages = {name: value for name, value in result.stages_ms.items() if name != "decode"}
        stages |= {"d2h": (decoding - copying) * 1e3, "decode": (end - decoding) * 1e3}
        return Inference(decoded.boxes, outputs, stages, (end - begin) * 1e3, result.counts, decoded.dropped)

    def inspect(self, points: NDArray[np.float32]) -> Inspection:
        inference = self.detect(points)
        outputs = inference.outputs
        if outputs is None:
            outputs = self._read_outputs(inference.counts)
        return Inspection(inference, self._read_pillars(inference.counts), outputs)

    def encode(self, points: NDArray[np.float32]) -> Pillars:
        return self._read_pillars(self.frame.detect(points).counts)

    def outputs_of(self, canvas: NDArray[np.float32]) -> Outputs:
        (component,) = (item for item in self.spec.components if item.name == BACKBONE_NECK_HEAD)
        check_tensor(canvas, component.inputs[0], component.name)
        self.frame.run_network(canvas)
        outputs = {head.name: np.zeros(self.spec.head_shape(head), np.float32) for head in self.spec.heads}
        self.frame.read_outputs(outputs)
        return outputs

    def _read_outputs(self, counts: VoxelCounts) -> Outputs:
        # As everywhere: what the network makes of an empty canvas is nothing that was seen.
        if not counts.voxels:
            return {}
        self._outputs = self._outputs or self.frame.new_host_outputs()
        self.frame.read_outputs(self._outputs)
        return dict(self._outputs)

    def _read_pillars(self, counts: VoxelCounts) -> Pillars:
        features, coords = self.frame.read_pillars(counts.voxels)
        return Pillars(features[:, None, :], coords, counts)

    def _release(self) -> None:
        if self._frame is not None:
            self._frame.intake.close()
        self._frame = None
        self._free_device()
