"""One frame as a backend ran it, and what many of them lost on the way into the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from base.boxes import Boxes3D
from eval.metrics import FrameResult
from eval.metrics.nuscenes_frames import FramePose
from runtime.counts import BoxCounts, VoxelCounts

if TYPE_CHECKING:
    from models.spec import ModelSpec
    from runtime.detector import Detector

__all__ = ["DetectorFacts", "FrameRun", "InputCounts"]


@dataclass(frozen=True)
class DetectorFacts:
    """What a summary says of the detector that ran the frames.

    Attributes:
        spec: Of its model.
        name: "pytorch", "onnx", …
        device: "cpu" or "cuda:N".
        decode: Name of its decoder.
    """

    spec: ModelSpec
    name: str
    device: str
    decode: str

    @classmethod
    def of(cls, detector: Detector) -> DetectorFacts:
        """Those of an open detector."""
        return cls(detector.spec, detector.name, detector.device, detector.decoder.name)


@dataclass(frozen=True)
class InputCounts:
    """What did not enter the network, over all frames.

    Attributes:
        mean_voxels: Mean number of pillars of a frame.
        dropped_voxels: Pillars beyond the model's maximum.
        frames_with_dropped_voxels: Frames in which that happened.
        dropped_points: Points in range for which no pillar had room.
        outside_points: Points outside the model's range.
        invalid_points: Points with NaN or infinite values, those included that the reader of the files left out.
        frames_without_points: Frames of which no point entered the network.
        points: Points that were given to the detector.
        zero_points: Points at exactly (0, 0, 0) in the files of the key frames.
    """

    mean_voxels: float
    dropped_voxels: int
    frames_with_dropped_voxels: int
    dropped_points: int
    outside_points: int
    invalid_points: int
    frames_without_points: int = 0
    points: int = 0
    zero_points: int = 0

    @classmethod
    def of(cls, runs: Sequence[FrameRun]) -> InputCounts:
        """Adds up at least one frame."""
        frames = [run.counts for run in runs]
        total = sum(frames, VoxelCounts())
        return cls(
            mean_voxels=total.voxels / len(frames),
            dropped_voxels=total.dropped_voxels,
            frames_with_dropped_voxels=sum(counts.dropped_voxels > 0 for counts in frames),
            dropped_points=total.dropped_points,
            outside_points=total.outside_points,
            invalid_points=total.invalid_points + sum(run.invalid_points for run in runs),
            frames_without_points=sum(run.is_empty for run in runs),
            points=sum(run.num_points for run in runs),
            zero_points=sum(run.zero_points for run in runs),
        )


@dataclass(frozen=True, eq=False)
class FrameRun:
    """One frame as a backend ran it; what `summarize` needs of it.

    Attributes:
        index: Of the frame in its dataset.
        result: Detections and ground truth.
        scene: Scene of the frame; empty where it has none.
        stages_ms: Stage -> milliseconds, in order.
        total_ms: Wall time of the frame.
        timed: Whether its latency counts.
        counts: Of this frame.
        dropped: Candidates of this frame of which no box was made.
        vehicle: Step of Autoware's decode -> boxes; empty where it was not asked for.
        num_points: Points that were given to the detector.
        invalid_points, zero_points: In its file, where the frame says so (`datasets.frames.Frame`).
        pose: Where the axes of its boxes are, where the frame says so.
        time_s: When it was taken, where the frame says so.
    """

    index: int
    result: FrameResult
    scene: str
    stages_ms: Mapping[str, float]
    total_ms: float
    timed: bool
    counts: VoxelCounts
    dropped: BoxCounts = field(default_factory=BoxCounts)
    vehicle: Mapping[str, Boxes3D] = field(default_factory=dict)
    num_points: int = 0
    invalid_points: int = 0
    zero_points: int = 0
    pose: FramePose | None = None
    time_s: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no point entered the network: each that there was is counted as left out."""
        counts = self.counts
        return counts.voxels == 0 and self.num_points <= counts.outside_points + counts.invalid_points
