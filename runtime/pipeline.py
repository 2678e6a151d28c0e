"""A detector of a network backend with preprocessing and decoding on the host around it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from models.spec import BACKBONE_NECK_HEAD, INPUT_FEATURES, PILLAR_FEATURES, SPATIAL_FEATURES, VOXEL_ENCODER
from runtime.decoders import TRAINING_DECODER, Decoder
from runtime.detector import Inference, InspectableDetector, Inspection, Outputs, Pillars
from runtime.preprocess import preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.backends.base import Backend
    from runtime.voxels import EncoderInput

__all__ = ["Pipeline"]


class Pipeline(InspectableDetector):
    """Preprocess, infer, decode. Preprocessing and decoding are the same numpy code for every backend.

    A cloud without a single valid point in range has no detections; the network is not run for it, and the frame's
    stages are `preprocess` and `decode` alone. Every frame's raw outputs are on the host. It closes its backend.
    """

    def __init__(self, spec: ModelSpec, backend: Backend, decoder: Decoder = TRAINING_DECODER) -> None:
        """Args:
        decoder: What makes boxes of the raw outputs.
        """
        if backend.spec != spec:
            raise ValueError(
                f"The backend runs model '{backend.spec.name}' whose specification differs from '{spec.name}'."
            )
        super().__init__(spec, backend.name, backend.device, decoder)
        self.backend = backend

    def detect(self, points: NDArray[np.float32]) -> Inference:
        begin = time.perf_counter()
        return self._detect(preprocess(points, self.spec), begin)[0]

    def inspect(self, points: NDArray[np.float32]) -> Inspection:
        begin = time.perf_counter()
        frame = preprocess(points, self.spec)
        inference, outputs = self._detect(frame, begin)
        return Inspection(inference, self._encode(frame), outputs)

    def encode(self, points: NDArray[np.float32]) -> Pillars:
        return self._encode(preprocess(points, self.spec))

    def outputs_of(self, canvas: NDArray[np.float32]) -> Outputs:
        return self.backend.run(BACKBONE_NECK_HEAD, {SPATIAL_FEATURES: canvas})

    def _detect(self, frame: EncoderInput, begin: float) -> tuple[Inference, Outputs]:
        stages = {"preprocess": (time.perf_counter() - begin) * 1e3}
        outputs: Outputs = {}
        if len(frame):
            result = self.backend.infer(frame.features, frame.coords)
            outputs = result.outputs
            stages.update(result.stages_ms)
        decoding = time.perf_counter()
        decoded = self.decoder.counted(outputs, self.spec)
        end = time.perf_counter()
        stages["decode"] = (end - decoding) * 1e3
        total = (end - begin) * 1e3
        return Inference(decoded.boxes, outputs, stages, total, frame.counts, decoded.dropped), outputs

    def _encode(self, frame: EncoderInput) -> Pillars:
        if not len(frame):
            nothing = np.zeros((0, 1, self.spec.encoder_channels), np.float32)
            return Pillars(nothing, frame.coords, frame.counts)
        features = self.backend.run(VOXEL_ENCODER, {INPUT_FEATURES: frame.features})[PILLAR_FEATURES]
        return Pillars(features, frame.coords, frame.counts)

    def _release(self) -> None:
        self.backend.close()
