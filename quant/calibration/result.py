"""What a calibration chose, and from what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from quant.calibration.histogram import AbsHistogram

__all__ = ["CalibrationResult", "QuantizerCalibration"]


@dataclass(frozen=True)
class QuantizerCalibration:
    """One quantizer's scale and what it was chosen from.

    Attributes:
        kind: "activation" or "weight".
        axis: Dimension with a scale for each index; None: one scale.
        scale: The scales as the quantizer holds them: eight significant bits; one, or one a channel.
        amax: What the method chose, before rounding to a scale; one for each scale.
        max_seen: Largest magnitude.
        zero_share: Share of values that are 0.
        clipped_share: Share of values beyond 127.5 steps of their scale; of activations to the width of a histogram
            bin.
    """

    kind: Literal["activation", "weight"]
    axis: int | None
    scale: tuple[float, ...]
    amax: tuple[float, ...]
    max_seen: float
    zero_share: float
    clipped_share: float


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """A calibration of a model.

    Attributes:
        amax_method: How activations' amax was chosen.
        weight_method: How weights' amax was chosen.
        percentile: Of the method of that name; None for others.
        num_frames: Calibration frames.
        tokens_sha256: Identifies the set of frames.
        architecture: Fingerprint of the layers and their quantizers.
        weights_sha256: Fingerprint of the weights that the activations came from.
        quantizers: Quantizer name -> its scales, in the order of the modules.
        histograms: Quantizer name -> histogram of |x|, for pictures; empty after `load_calib_cache`.
    """

    amax_method: str
    weight_method: str
    percentile: float | None
    num_frames: int
    tokens_sha256: str
    architecture: str
    weights_sha256: str
    quantizers: Mapping[str, QuantizerCalibration]
    histograms: Mapping[str, AbsHistogram] = field(default_factory=dict, repr=False)

    @property
    def activations(self) -> dict[str, QuantizerCalibration]:
        """The activation quantizers alone."""
        return {name: entry for name, entry in self.quantizers.items() if entry.kind == "activation"}
