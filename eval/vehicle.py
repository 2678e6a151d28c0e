"""What Autoware's node makes of a model's outputs, scored beside the training framework's decode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from base.boxes import Boxes3D
from eval.metrics import DetectionMetrics, FrameResult
from eval.statistics import BootstrapComparison
from runtime.decoders import autoware_decoder, candidates_decoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.spec import ModelSpec
    from runtime.autoware_params import AutowareDecodeParams

__all__ = ["DecodeStep", "ScoreThresholdRow", "VehicleFrames", "VehicleRecorder", "VehicleSettings", "VehicleSummary"]


@dataclass(frozen=True)
class VehicleSettings:
    """How the node decodes.

    Attributes:
        params: Its parameters.
        source: Where they come from, for people.
    """

    params: AutowareDecodeParams
    source: str = "the node's defaults"


@dataclass(frozen=True)
class ScoreThresholdRow:
    """Score thresholds of one class.

    Attributes:
        class_name: The model's class.
        thresholds: Per distance bin.
    """

    class_name: str
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class DecodeStep:
    """Accuracy when the decode stops here.

    Attributes:
        name: Of the step.
        mean_ap: mAP over the whole range.
        class_ap: AP per class over the whole range.
        range_ap: mAP per range, the whole one last.
        boxes_per_frame: Mean number of boxes of a frame.
    """

    name: str
    mean_ap: float
    class_ap: tuple[float, ...]
    range_ap: tuple[float, ...]
    boxes_per_frame: float


@dataclass(frozen=True)
class VehicleSummary:
    """One backend as the vehicle sees it.

    Attributes:
        label: Of the evaluation.
        metrics: Of the boxes that the node publishes, trailers counted as trucks.
        steps: From the training framework's decode, where it was evaluated too, to the published boxes.
        distance_bins_m: Upper limits of the distance bins.
        score_thresholds: Of every class.
        parameters: Where the node's parameters come from.
        comparison: The published boxes against the training framework's; None where that was not evaluated.
    """

    label: str
    metrics: DetectionMetrics
    steps: tuple[DecodeStep, ...]
    distance_bins_m: tuple[float, ...]
    score_thresholds: tuple[ScoreThresholdRow, ...]
    parameters: str
    comparison: BootstrapComparison | None = None

    @property
    def bin_names(self) -> tuple[str, ...]:
        """Names of the distance bins."""
        return tuple(f"{low:g}–{high:g} m" for low, high in pairwise((0.0, *self.distance_bins_m)))


@dataclass(frozen=True, eq=False)
class VehicleFrames:
    """What the node makes of every frame.

    Attributes:
        published: The boxes it publishes, with labels of the model's classes.
        candidates: Its boxes before score thresholds and classes by area, above the model's own score threshold: what
            thresholds are measured on.
    """

    published: tuple[FrameResult, ...]
    candidates: tuple[FrameResult, ...]


class VehicleRecorder:
    """Decodes raw outputs as the node does, frame by frame, step by step."""

    # The suppression of the training framework, its limit on the number of boxes and several classes a cell are gone
    # in the second step; what is left differs by thresholds alone, then by classes.
    _ANY_SCORE, _THRESHOLDS, _PUBLISHED = (
        "node, any score",
        "with score thresholds",
        "with classes by area: as published",
    )

    def __init__(self, spec: ModelSpec, settings: VehicleSettings) -> None:
        self._spec = spec
        self._settings = settings
        params = settings.params
        loose = params.with_score_threshold(spec.score_threshold)
        self._decoders = {
            self._ANY_SCORE: candidates_decoder(loose),
            self._THRESHOLDS: candidates_decoder(params),
            self._PUBLISHED: autoware_decoder(params),
        }
        self._frames: dict[str, list[FrameResult]] = {name: [] for name in self._decoders}

    def add(self, token: str, outputs: Mapping[str, NDArray[np.float32]], ground_truth: Boxes3D) -> None:
        """Decodes a frame and keeps its boxes.

        Args:
            token: Its name.
            outputs: Head name -> (1, C, h, w) float32, raw; empty for a frame without a point in range.
            ground_truth: Annotated boxes.
        """
        self.add_decoded(token, self.decode(outputs), ground_truth)

    def decode(self, outputs: Mapping[str, NDArray[np.float32]]) -> dict[str, Boxes3D]:
        """Name of each step -> its boxes of one frame; nothing is kept."""
        return {name: decoder(outputs, self._spec) for name, decoder in self._decoders.items()}

    def add_decoded(self, token: str, boxes: Mapping[str, Boxes3D], ground_truth: Boxes3D) -> None:
        """Keeps a frame that `decode` decoded, here or in another process."""
        for name, found in boxes.items():
            self._frames[name].append(FrameResult(token, found, ground_truth))

    def frames(self) -> VehicleFrames:
        """What was decoded."""
        return VehicleFrames(tuple(self._frames[self._PUBLISHED]), tuple(self._frames[self._ANY_SCORE]))

    def summary(
        self,
        label: str,
        score: Callable[[Sequence[FrameResult]], DetectionMetrics],
        training: tuple[DetectionMetrics, Sequence[FrameResult]] | None = None,
    ) -> VehicleSummary:
        """Scores every step.

        Args:
            label: Of the evaluation.
            score: Metrics of frames, as the evaluation itself was scored.
            training: Metrics and frames of the training framework's decode, where that was evaluated.
        """
        steps = [] if training is None else [_step("training framework", *training)]
        scored = {name: score(frames) for name, frames in self._frames.items()}
        steps += [_step(name, metrics, self._frames[name]) for name, metrics in scored.items()]
        params = self._settings.params
        rows = zip(self._spec.class_names, params.score_thresholds, strict=True)
        return VehicleSummary(
            label,
            scored[self._PUBLISHED],
            tuple(steps),
            params.distance_bins_m,
            tuple(ScoreThresholdRow(name, row) for name, row in rows),
            self._settings.source,
        )


def _step(name: str, metrics: DetectionMetrics, frames: Sequence[FrameResult]) -> DecodeStep:
    return DecodeStep(
        name,
        metrics.mean_ap,
        tuple(item.mean_ap for item in metrics.total.classes),
        tuple(part.mean_ap for part in metrics.ranges),
        sum(len(frame.detections) for frame in frames) / max(len(frames), 1),
    )
