"""A point cloud to boxes on one backend, with the time of every stage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import Boxes3D
from runtime.decoders import TRAINING_DECODER, Decoder
from runtime.preprocess import preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.backends.base import Backend
    from runtime.counts import VoxelCounts

__all__ = ["Inference", "Pipeline"]


@dataclass(frozen=True, eq=False)
class Inference:
    """Result of one frame.

    Attributes:
        detections: Boxes by descending score.
        outputs: Head name -> (1, C, h, w) float32, raw; the backend overwrites them with its next frame. Empty for a
            cloud without a point in the model's range, and where the pipeline does not keep them.
        stages_ms: Stage -> milliseconds, in order; names from `runtime.backends.base.STAGES`.
        total_ms: Wall time of the whole call.
        counts: Pillars that entered the network, and what was left out.
    """

    detections: Boxes3D
    outputs: dict[str, NDArray[np.float32]]
    stages_ms: dict[str, float]
    total_ms: float
    counts: VoxelCounts


class Pipeline:
    """Preprocess, infer, decode. Preprocessing and decoding are the same numpy code for every backend that starts from
    pillars; one that `detects_points` may do all of it, to the same result.

    A cloud without a single valid point in range has no detections; the network is not run for it, and the frame's
    stages are `preprocess` and `decode` alone.
    """

    def __init__(
        self, spec: ModelSpec, backend: Backend, decoder: Decoder = TRAINING_DECODER, *, keep_outputs: bool = True
    ) -> None:
        """Args:
        decoder: What makes boxes of the raw outputs.
        keep_outputs: Bring the raw outputs to the host. Without it a backend that can goes from points to boxes by
            itself, on its device, where the decoder is the training framework's.
        """
        if backend.spec != spec:
            raise ValueError(
                f"The backend runs model '{backend.spec.name}' whose specification differs from '{spec.name}'."
            )
        self.spec = spec
        self.backend = backend
        self.decoder = decoder
        self._on_device = backend.detects_points and not keep_outputs and decoder is TRAINING_DECODER

    @property
    def keeps_outputs(self) -> bool:
        """Whether `Inference.outputs` hold what the network made."""
        return not self._on_device

    def __call__(self, points: NDArray[np.float32]) -> Inference:
        """Runs one frame.

        Args:
            points: (N, C) float32, metres, ego frame, columns as the model config's test pipeline leaves them.

        Raises:
            DataError: the points have another shape or type.
        """
        begin = time.perf_counter()
        if self._on_device:
            found = self.backend.detect(points)
            return Inference(found.boxes, {}, found.stages_ms, (time.perf_counter() - begin) * 1e3, found.counts)
        frame = preprocess(points, self.spec)
        stages = {"preprocess": (time.perf_counter() - begin) * 1e3}
        outputs: dict[str, NDArray[np.float32]] = {}
        if len(frame):
            result = self.backend.infer(frame.features, frame.coords)
            outputs = result.outputs
            stages.update(result.stages_ms)
        decoding = time.perf_counter()
        detections = self.decoder(outputs, self.spec)
        end = time.perf_counter()
        stages["decode"] = (end - decoding) * 1e3
        return Inference(detections, outputs, stages, (end - begin) * 1e3, frame.counts)
