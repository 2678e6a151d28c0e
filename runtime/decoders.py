"""The two ways from raw head outputs to boxes, as values that a pipeline takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.boxes import Boxes3D

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.autoware_params import AutowareDecodeParams
    from runtime.decode import Decoded

__all__ = ["AUTOWARE", "TRAINING", "TRAINING_DECODER", "Decoder", "autoware_decoder", "candidates_decoder"]

TRAINING, AUTOWARE = "training", "autoware"


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decode with its name.

    Attributes:
        name: `TRAINING` or `AUTOWARE`.
        function: Head name -> (1, C, h, w) float32 raw outputs, and the model's specification, to boxes by descending
            score whose labels index the model's classes, and what was dropped on the way.
    """

    name: str
    function: Callable[[Mapping[str, NDArray[np.float32]], ModelSpec], Decoded]

    def __call__(self, outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Boxes3D:
        """The boxes of `counted`."""
        return self.counted(outputs, spec).boxes

    def counted(self, outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Decoded:
        """Boxes of one frame; none of a frame without outputs, which is one without a point in range."""
        if outputs:
            return self.function(outputs, spec)
        from runtime.counts import BoxCounts
        from runtime.decode import Decoded

        return Decoded(Boxes3D.empty(), BoxCounts())


def _as_trained(outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Decoded:
    from runtime.decode import decode_counted

    return decode_counted(outputs, spec)


TRAINING_DECODER = Decoder(TRAINING, _as_trained)
"""mmdet3d's, with which models are trained and usually scored."""


def autoware_decoder(params: AutowareDecodeParams) -> Decoder:
    """Autoware's node with its thresholds, suppressions and classes by area; trailers are the model's trucks."""
    from runtime.autoware_postprocess import publish, with_model_labels, without_remapping
    from runtime.decode import Decoded

    def published(outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Decoded:
        found = without_remapping(outputs, spec, params)
        return Decoded(with_model_labels(publish(found.boxes, params), spec.class_names), found.dropped)

    return Decoder(AUTOWARE, published)


def candidates_decoder(params: AutowareDecodeParams) -> Decoder:
    """The same before classes change by area."""
    from runtime.autoware_postprocess import without_remapping

    return Decoder(AUTOWARE, lambda outputs, spec: without_remapping(outputs, spec, params))
