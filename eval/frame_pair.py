"""One frame on two detectors: what must be equal, and what is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ConfigError
from eval.decode_check import decode_difference
from models.spec import PILLAR_FEATURES
from runtime.detector import Detector, Inference, InspectableDetector, Inspection, Pillars
from runtime.scatter import scatter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.decoders import Decoder

__all__ = ["FramePair"]


@dataclass(frozen=True, eq=False)
class FramePair:
    """Both sides of one frame.

    Attributes:
        spec: The model.
        decoder: What the tested detector's boxes are of its outputs.
        reference, test: The results.
        inspected: What lies between points and boxes, reference first; None where a side shows its boxes alone.
    """

    spec: ModelSpec
    decoder: Decoder
    reference: Inference
    test: Inference
    inspected: tuple[Inspection, Inspection] | None

    @classmethod
    def of(
        cls, reference: Detector, test: Detector, points: NDArray[np.float32], *, equal_inputs: bool = False
    ) -> FramePair:
        """Runs the frame on both; the arrays are valid until the detectors' next frames.

        Raises:
            ConfigError: `equal_inputs` of a detector that shows its boxes alone.
        """
        spec, decoder = reference.spec, test.decoder
        if not (isinstance(reference, InspectableDetector) and isinstance(test, InspectableDetector)):
            if equal_inputs:
                silent = test if isinstance(reference, InspectableDetector) else reference
                raise ConfigError(
                    f"'{silent.name}' shows nothing but its boxes: it cannot be compared on equal inputs, which a "
                    "quantized network needs."
                )
            return cls(spec, decoder, reference.detect(points), test.detect(points), None)
        seen = test.inspect(points)
        wanted = _behind(reference, seen, points) if equal_inputs else reference.inspect(points)
        return cls(spec, decoder, wanted.inference, seen.inference, (wanted, seen))

    @staticmethod
    def shows(reference: Detector, test: Detector) -> bool:
        """Whether pairs of these have `tensors`."""
        return isinstance(reference, InspectableDetector) and isinstance(test, InspectableDetector)

    @property
    def is_empty(self) -> bool:
        """Neither side had a point in the model's range."""
        return not self.reference.counts.voxels and not self.test.counts.voxels

    def problems(self) -> list[str]:
        """What differs of what must be equal, in words."""
        found = []
        if self.test.counts != self.reference.counts:
            found.append(f"{self.test.counts} of the tested backend, {self.reference.counts} of the reference")
        if self.inspected is None:
            return found
        (wanted, seen) = self.inspected
        if self.test.counts == self.reference.counts:
            cells, expected = seen.pillars.coords, wanted.pillars.coords
            if not np.array_equal(cells, expected):
                rows = int(np.count_nonzero((cells != expected).any(axis=1)))
                found.append(f"{rows} of {len(expected)} pillars lie in another cell than the reference's")
        if set(seen.outputs) != set(wanted.outputs):
            missing = sorted(set(seen.outputs) ^ set(wanted.outputs))
            found.append(f"output {missing[0]} is missing on one side")
        decoded = self.decoder(seen.outputs, self.spec)
        difference = decode_difference(seen.inference.detections, decoded, self.spec.class_names)
        return [*found, difference] if difference else found

    def tensors(self) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Pillar features and the outputs that both sides have: name -> (reference, test)."""
        if self.inspected is None:
            return {}
        wanted, seen = self.inspected
        pairs = {name: (wanted.outputs[name], seen.outputs[name]) for name in wanted.outputs if name in seen.outputs}
        return {PILLAR_FEATURES: (wanted.pillars.features, seen.pillars.features), **pairs}


def _behind(reference: InspectableDetector, seen: Inspection, points: NDArray[np.float32]) -> Inspection:
    """The reference with its own pillars, and its backbone, neck and head behind the tested detector's."""
    pillars: Pillars = reference.encode(points)
    outputs = {}
    if len(seen.pillars.coords):
        canvas = scatter(seen.pillars.features, seen.pillars.coords, reference.spec)
        outputs = dict(reference.outputs_of(canvas))
    detections = reference.decoder(outputs, reference.spec)
    # Measured for no report: the two halves run on different detectors.
    return Inspection(Inference(detections, outputs, {}, 0.0, pillars.counts), pillars, outputs)
