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

__all__ = ["AUTOWARE", "TRAINING", "TRAINING_DECODER", "Decoder", "autoware_decoder"]

TRAINING, AUTOWARE = "training", "autoware"


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decode with its name.

    Attributes:
        name: `TRAINING` or `AUTOWARE`.
        function: Head name -> (1, C, h, w) float32 raw outputs, and the model's specification, to boxes by descending
            score whose labels index the model's classes.
    """

    name: str
    function: Callable[[Mapping[str, NDArray[np.float32]], ModelSpec], Boxes3D]

    def __call__(self, outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Boxes3D:
        """Boxes of one frame; none of a frame without outputs, which is one without a point in range."""
        return self.function(outputs, spec) if outputs else Boxes3D.empty()


def _as_trained(outputs: Mapping[str, NDArray[np.float32]], spec: ModelSpec) -> Boxes3D:
    from runtime.decode import decode

    return decode(outputs, spec)


TRAINING_DECODER = Decoder(TRAINING, _as_trained)
"""mmdet3d's, with which models are trained and usually scored."""


def autoware_decoder(params: AutowareDecodeParams) -> Decoder:
    """Autoware's node with its thresholds, suppressions and classes by area; trailers are the model's trucks."""
    from runtime.autoware_postprocess import decode_autoware, with_model_labels

    return Decoder(
        AUTOWARE,
        lambda outputs, spec: with_model_labels(decode_autoware(outputs, spec, params), spec.class_names),
    )
