"""A reference that starts from the same canvas as the backend under test.

A quantized network rounds every activation to one of 255 codes. A difference of 1e-4 in front of it, such as a voxel
encoder in FP16 makes, moves a few activations to the next code; each of those moves others, and after twenty layers
the two sides have different rounding errors everywhere. They are as good as one another, and as far apart as either is
from the float network: comparing them end to end would find no defect. On equal inputs the codes of both sides agree.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from models.spec import BACKBONE_NECK_HEAD, INPUT_FEATURES, PILLAR_FEATURES, SPATIAL_FEATURES, VOXEL_ENCODER
from runtime.backends.base import Backend, BackendOutput
from runtime.preprocess import preprocess
from runtime.scatter import scatter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runtime.pipeline import Pipeline

__all__ = ["EqualInputs", "canvases"]


def canvases(pipeline: Pipeline, frames: Iterable[Any]) -> Iterator[NDArray[np.float32]]:
    """The canvas (1, C, H, W) of each frame that has points in the model's range, through a backend's voxel encoder."""
    spec = pipeline.spec
    for frame in frames:
        voxels = preprocess(frame.points, spec)
        if len(voxels):
            pillars = pipeline.backend.run(VOXEL_ENCODER, {INPUT_FEATURES: voxels.features})[PILLAR_FEATURES]
            yield scatter(pillars, voxels.coords, spec)


class EqualInputs(Backend):
    """The reference's backbone, neck and head behind the voxel encoder of the backend under test.

    `run` is the reference's own for every component, so that the encoders are still compared with each other. Both
    backends stay their owners' to close.
    """

    def __init__(self, reference: Backend, test: Backend) -> None:
        super().__init__(reference.spec, reference.device)
        self.name = reference.name
        self._reference = reference
        self._test = test

    def _run(self, component: str, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return self._reference.run(component, inputs)

    def _infer(self, features: NDArray[np.float32], coords: NDArray[np.int32]) -> BackendOutput:
        started = time.perf_counter()
        pillars = self._test.run(VOXEL_ENCODER, {INPUT_FEATURES: features})[PILLAR_FEATURES]
        canvas = scatter(pillars, coords, self.spec)
        outputs = self._reference.run(BACKBONE_NECK_HEAD, {SPATIAL_FEATURES: canvas})
        # Measured for no report: the two halves run on different backends.
        return BackendOutput(outputs, {"backbone_neck_head": (time.perf_counter() - started) * 1e3})

    def _release(self) -> None:
        pass
