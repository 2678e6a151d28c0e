"""A detector on the CPU whose points are never padded: packed pillars, their encoder in numpy, a network behind it."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from models.spec import BACKBONE_NECK_HEAD, SPATIAL_FEATURES
from runtime.decoders import TRAINING_DECODER, Decoder
from runtime.detector import Inference, InspectableDetector, Inspection, Outputs, Pillars
from runtime.preprocess import decorate_packed, pack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.backends.openvino import OpenVinoBackend
    from runtime.pillar_weights import PillarWeights
    from runtime.voxels import PackedVoxels

__all__ = ["PackedPipeline"]


class PackedPipeline(InspectableDetector):
    """Pack, encode, scatter, infer, decode.

    A pillar of the demo model has 32 slots and 5 points: an encoder that runs all slots works six times too much. As in
    every detector, a cloud without a single valid point in range has no detections. It closes its backend.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backend: OpenVinoBackend,
        encoder: PillarWeights,
        decoder: Decoder = TRAINING_DECODER,
    ) -> None:
        """Args:
        backend: Runs backbone, neck and head.
        encoder: Of the same files.
        decoder: What makes boxes of the raw outputs.

        Raises:
            ValueError: the encoder's sizes are not the model's.
        """
        if (encoder.features, encoder.channels) != (spec.encoder_in_features, spec.encoder_channels):
            raise ValueError(
                f"The encoder takes {encoder.features} features and gives {encoder.channels} channels; model "
                f"'{spec.name}' has {spec.encoder_in_features} and {spec.encoder_channels}."
            )
        super().__init__(spec, backend.name, backend.device, decoder)
        self.backend = backend
        self._encoder = encoder

    def detect(self, points: NDArray[np.float32]) -> Inference:
        return self.inspect(points).inference

    def inspect(self, points: NDArray[np.float32]) -> Inspection:
        times = [time.perf_counter()]
        voxels = pack(points, self.spec)
        features = decorate_packed(voxels, self.spec)
        times.append(time.perf_counter())
        names = ["preprocess"]
        outputs: Outputs = {}
        pillars = self._encode(features, voxels)
        if len(voxels):
            times.append(time.perf_counter())
            self.backend.canvas.fill(pillars.features, pillars.coords)
            times.append(time.perf_counter())
            outputs = self.backend.run_canvas()
            times.append(time.perf_counter())
            names += ["voxel_encoder", "scatter", "backbone_neck_head"]
        decoded = self.decoder.counted(outputs, self.spec)
        times.append(time.perf_counter())
        spans = zip([*names, "decode"], pairwise(times), strict=True)
        stages = {name: (after - before) * 1e3 for name, (before, after) in spans}
        total = (times[-1] - times[0]) * 1e3
        inference = Inference(decoded.boxes, outputs, stages, total, voxels.counts, decoded.dropped)
        return Inspection(inference, pillars, outputs)

    def encode(self, points: NDArray[np.float32]) -> Pillars:
        voxels = pack(points, self.spec)
        return self._encode(decorate_packed(voxels, self.spec), voxels)

    def outputs_of(self, canvas: NDArray[np.float32]) -> Outputs:
        return self.backend.run(BACKBONE_NECK_HEAD, {SPATIAL_FEATURES: canvas})

    def _encode(self, features: NDArray[np.float32], voxels: PackedVoxels) -> Pillars:
        encoded = self._encoder.apply_packed(features, voxels, self.spec.max_points_per_voxel)
        return Pillars(encoded[:, None], voxels.coords, voxels.counts)

    def _release(self) -> None:
        self.backend.close()
