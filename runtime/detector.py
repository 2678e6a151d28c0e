"""The one contract for detecting: a point cloud goes in, boxes come out, on whatever runs the network.

`runtime.pipeline.Pipeline` is one detector: preprocessing and decoding on the host around a network backend.
`runtime.graphs.detector.GraphDetector` is another: one CUDA graph from points to boxes. What is verified is what
detects.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.closing import Closing
from runtime.counts import BoxCounts
from runtime.sweeps import JoinedSweeps, SweepStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from base.boxes import Boxes3D
    from models.spec import ModelSpec
    from runtime.counts import VoxelCounts
    from runtime.decoders import Decoder
    from runtime.sweeps import SweepSettings

__all__ = ["Detector", "Inference", "InspectableDetector", "Inspection", "Outputs", "Pillars"]

_log = logging.getLogger(__name__)

Outputs = Mapping[str, "NDArray[np.float32]"]
"""Head name -> (1, C, h, w) float32, raw, in graph order; empty for a cloud without a point in the model's range."""


class Inference:
    """Result of one frame.

    Attributes:
        outputs: What its boxes were decoded of, where it came to the host on the way; None where it stayed on the
            device. The arrays are overwritten by the detector's next frame.
        stages_ms: Stage -> milliseconds, in order; names from `runtime.backends.base.STAGES`.
        total_ms: Wall time of the whole call.
        counts: Pillars that entered the network, and what was left out.
        dropped: Candidates of which no box was made.
    """

    def __init__(
        self,
        detections: Boxes3D | Callable[[], Boxes3D],
        outputs: Outputs | None,
        stages_ms: Mapping[str, float],
        total_ms: float,
        counts: VoxelCounts,
        dropped: BoxCounts | None = None,
    ) -> None:
        """Args:
        detections: The boxes, or what makes them of the frame's own memory when they are asked for.
        """
        self._detections = detections
        self.outputs = outputs
        self.stages_ms = stages_ms
        self.total_ms = total_ms
        self.counts = counts
        self.dropped = BoxCounts() if dropped is None else dropped

    @property
    def detections(self) -> Boxes3D:
        """Boxes by descending score; always the same ones, whatever the detector has done since."""
        if callable(self._detections):
            self._detections = self._detections()
        return self._detections


@dataclass(frozen=True, eq=False)
class Pillars:
    """What the voxel encoder made of a cloud.

    Attributes:
        features: (M, 1, C) float32, before any quantization.
        coords: (M, 3) int32 cells [z, y, x].
        counts: M, and what was left out.
    """

    features: NDArray[np.float32]
    coords: NDArray[np.int32]
    counts: VoxelCounts


@dataclass(frozen=True, eq=False)
class Inspection:
    """One frame with what lies between its points and its boxes.

    Attributes:
        inference: As `Detector.detect` gives it, of the very same run.
        pillars: Of the voxel encoder.
        outputs: What the boxes were decoded of. The arrays are overwritten by the detector's next frame.
    """

    inference: Inference
    pillars: Pillars
    outputs: Outputs


class Detector(Closing, ABC):
    """Points to boxes. Close it, or use it as a context manager: it owns what runs its network.

    Attributes:
        spec: The model.
        name: "pytorch", "onnx", "openvino", "tensorrt" or "cuda".
        device: "cpu" or "cuda:N".
        decoder: What its boxes are of its raw outputs. One that decodes by itself, on its device, gives the same boxes,
            to the last place of exp and atan2.
    """

    def __init__(self, spec: ModelSpec, name: str, device: str, decoder: Decoder) -> None:
        super().__init__(f"Detector '{name}'")
        self.spec = spec
        self.name = name
        self.device = device
        self.decoder = decoder
        self._told = False

    def __call__(self, points: NDArray[np.float32]) -> Inference:
        """`detect`, and a warning for the first frame with boxes without a size."""
        inference = self.detect(points)
        if inference.dropped.without_size and not self._told:
            self._told = True
            _log.warning(
                "Model '%s' on '%s': %d candidate boxes of a frame have a length, width or height of 0 or less and "
                "were dropped; those of later frames are counted without a word.%s",
                self.spec.name,
                self.name,
                inference.dropped.without_size,
                "" if self.spec.norm_bbox else " The network learns metres (norm_bbox=False), not their logarithms.",
            )
        return inference

    def new_cloud(self, count: int) -> NDArray[np.float32]:
        """Memory for clouds, to be filled again for each frame: (count, C) float32, zeroed.

        `detect` takes a leading part of it, `cloud[:n]`. On a GPU that reads clouds by itself it is page-locked, and
        is read from where it lies, without a copy of the host's; it stays locked until the detector is closed.

        Args:
            count: Most points that it is to hold.
        """
        return np.zeros((count, self.spec.point_features), np.float32)

    def sweeps(self, settings: SweepSettings) -> SweepStream:
        """A stream of single clouds for a model of several sweeps: each is joined with those before it.

        On a GPU that reads clouds by itself the past ones stay on the device.

        Args:
            settings: How the model's own pipeline joins them.

        Raises:
            ConfigError: the model has no time lag.
        """
        joined = JoinedSweeps(self.spec, settings)
        return SweepStream(lambda points, timestamp_s, pose: self(joined.add(points, timestamp_s, pose)), joined.reset)

    @abstractmethod
    def detect(self, points: NDArray[np.float32]) -> Inference:
        """Runs one frame.

        A cloud without a single valid point in range has no detections, whatever the network would make of an empty
        canvas.

        Args:
            points: (N, C) float32, metres, ego frame, columns as the model config's test pipeline leaves them.

        Raises:
            DataError: the points have another shape or type, or are more than the detector was opened for.
        """


class InspectableDetector(Detector):
    """One that shows what lies between points and boxes, for verification: slower, by the same kernels."""

    @abstractmethod
    def inspect(self, points: NDArray[np.float32]) -> Inspection:
        """`detect`, and what its boxes came of. Arguments and errors as there."""

    @abstractmethod
    def encode(self, points: NDArray[np.float32]) -> Pillars:
        """The cloud's pillars alone. Arguments and errors as for `detect`."""

    @abstractmethod
    def outputs_of(self, canvas: NDArray[np.float32]) -> Outputs:
        """Backbone, neck and head alone, on a canvas from the host; arrays of the caller's own.

        Args:
            canvas: (1, C, H, W) float32, scattered pillar features.

        Raises:
            DataError: it has another shape or type.
        """
