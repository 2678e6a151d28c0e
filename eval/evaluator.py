"""One backend over a dataset: accuracy and latency together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from base.boxes import Boxes3D
from base.errors import ConfigError, DataError
from eval.ego_motion import ego_velocities
from eval.frame_run import DetectorFacts, FrameRun, InputCounts
from eval.frames import FramesLike, first_frames
from eval.machine import MachineInfo
from eval.metrics import DEFAULT_THRESHOLDS_M, DetectionMetrics, FrameResult
from eval.metrics.detection import NATIVE_ENGINE
from eval.metrics.driving import DrivingScore, score_driving
from eval.metrics.engine import PERCEPTION_EVAL_ENGINE, evaluate_with_engine
from eval.metrics.nuscenes_frames import FramePose, NuScenesScore, score_nuscenes
from eval.perception_eval_adapter import perception_eval_version
from eval.ranges import ranges_of
from eval.vehicle import VehicleFrames, VehicleRecorder, VehicleSettings, VehicleSummary
from runtime.counts import BoxCounts
from runtime.decoders import TRAINING
from runtime.detector import InspectableDetector
from runtime.latency import LatencyRecorder, LatencyStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.detector import Detector, Inference, Outputs

__all__ = [
    "BackendEvaluation",
    "EvaluationSummary",
    "evaluate",
    "run_frames",
    "summarize",
]


@dataclass(frozen=True)
class EvaluationSummary:
    """The numbers of one backend.

    Attributes:
        backend: "pytorch", "onnx", …
        device: "cpu" or "cuda:N".
        precision: "fp32", "fp16", ...
        num_frames: Frames scored.
        warmup_frames: Of these, the first ones whose latency does not count.
        metrics: Detection metrics.
        latency: Stage -> milliseconds; "total" last. Empty where time is not told.
        samples_ms: Total time of each frame that counts, in order.
        inputs: What did not enter the network.
        machine: Where it was measured.
        decode: "training" or "autoware": what made boxes of the raw outputs.
        dropped_boxes: Candidates of which no box was made, over all frames.
    """

    backend: str
    device: str
    precision: str
    num_frames: int
    warmup_frames: int
    metrics: DetectionMetrics
    latency: dict[str, LatencyStats]
    samples_ms: tuple[float, ...]
    inputs: InputCounts
    machine: MachineInfo
    decode: str = TRAINING
    dropped_boxes: BoxCounts = field(default_factory=BoxCounts)

    @property
    def label(self) -> str:
        """Short name for tables: "onnx fp32 (cpu)"; it ends in "by the node" where that decoded."""
        return f"{self.backend} {self.precision} ({self.device}){'' if self.decode == TRAINING else ' by the node'}"


@dataclass(frozen=True, eq=False)
class BackendEvaluation:
    """`EvaluationSummary` with the detections it was made from.

    Attributes:
        summary: The numbers.
        frames: Detections and ground truth of every frame, in order.
        scenes: Scene of every frame; empty names where the frames have none.
        vehicle: The same outputs as Autoware's node decodes them; None where that was not asked for.
        vehicle_frames: The boxes of that.
        nuscenes: nuScenes' official score; None where it was not asked for.
        driving: What a vehicle cares for beside AP.
    """

    summary: EvaluationSummary
    frames: tuple[FrameResult, ...]
    scenes: tuple[str, ...] = ()
    vehicle: VehicleSummary | None = None
    vehicle_frames: VehicleFrames | None = None
    nuscenes: NuScenesScore | None = None
    driving: DrivingScore | None = None

    @property
    def metrics(self) -> DetectionMetrics:
        """Detection metrics."""
        return self.summary.metrics

    @property
    def latency(self) -> dict[str, LatencyStats]:
        """Stage -> milliseconds."""
        return self.summary.latency


def evaluate(
    detector: Detector,
    frames: FramesLike,
    *,
    num_samples: int = -1,
    warmup: int = 2,
    precision: str = "fp32",
    ranges_m: Sequence[tuple[float, float]] | None = None,
    thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
    min_num_points: int = 0,
    engine: str = NATIVE_ENGINE,
    vehicle: VehicleSettings | None = None,
    nuscenes: bool = False,
    show_progress: bool = True,
) -> BackendEvaluation:
    """Runs a detector on frames, scores its detections and measures every stage: `run_frames`, then `summarize`.

    Args:
        detector: Points to boxes.
        frames: Where the frames come from; the first `num_samples` are used.
        num_samples: -1 uses all.
        warmup: First frames whose latency does not count; they are scored. Where fewer frames are run, the first
            frame is repeated beforehand so that one latency is left.
        precision: Of the backend, for the result.
        ranges_m: Distance ranges; by default the usual ones within the model's grid.
        thresholds_m: Matching thresholds.
        min_num_points: Ground truth with fewer points does not count.
        engine: What computes the metrics: "native" or "perception_eval".
        vehicle: Decode every frame's outputs as Autoware's node does too, whatever the detector's own decoder; this
            time does not count.
        nuscenes: Also give nuScenes' official score, of the detector's own decoder.
        show_progress: Whether to show a progress bar.

    Raises:
        ConfigError: a negative warm-up; `vehicle` of a detector that shows nothing but its boxes.
        DataError: no frames, or one that cannot be read or processed; it is named, never left out.
        MissingDependencyError: perception_eval was asked for and is not installed.
    """
    if engine == PERCEPTION_EVAL_ENGINE:
        perception_eval_version()  # Not only after the last frame.
    runs = run_frames(
        detector, frames, num_samples=num_samples, warmup=warmup, vehicle=vehicle, show_progress=show_progress
    )
    return summarize(
        DetectorFacts.of(detector),
        runs,
        precision=precision,
        ranges_m=ranges_m,
        thresholds_m=thresholds_m,
        min_num_points=min_num_points,
        engine=engine,
        vehicle=vehicle,
        nuscenes=nuscenes,
    )


def run_frames(
    detector: Detector,
    frames: FramesLike,
    *,
    num_samples: int = -1,
    warmup: int = 2,
    share: tuple[int, int] = (0, 1),
    vehicle: VehicleSettings | None = None,
    show_progress: bool = True,
) -> list[FrameRun]:
    """Runs a detector on frames, in order.

    Args:
        share: (r, n): of the first `num_samples` frames, r, r + n, r + 2n, … alone. The shares of r = 0 … n − 1 are
            all frames; each has its own `warmup`.

    Other arguments and errors as for `evaluate`.
    """
    if warmup < 0:
        raise ConfigError(f"warmup is {warmup}; give 0 or more frames")
    recorder = None if vehicle is None else VehicleRecorder(detector.spec, vehicle)
    count = len(range(share[0], len(frames) if num_samples == -1 else num_samples, share[1]))
    inside = min(warmup, max(count - 1, 0))
    runs: list[FrameRun] = []
    for frame in first_frames(frames, num_samples, f"evaluating {detector.name}", show_progress, share):
        try:
            if not runs:
                for _ in range(warmup - inside):
                    detector(frame.points)
            inference = detector(frame.points)
        except DataError as error:
            raise DataError(f"evaluating {detector.name}: frame '{frame.token}': {error}") from error
        decoded: dict[str, Boxes3D] = {}
        if recorder is not None:
            decoded = recorder.decode(_outputs(detector, inference, frame.points))
        runs.append(
            FrameRun(
                share[0] + len(runs) * share[1],
                FrameResult(frame.token, inference.detections, frame.ground_truth),
                str(getattr(frame, "scene", "")),
                inference.stages_ms,
                inference.total_ms,
                len(runs) >= inside,
                inference.counts,
                inference.dropped,
                decoded,
                len(frame.points),
                int(getattr(frame, "invalid_points", 0)),
                int(getattr(frame, "zero_points", 0)),
                _pose_of(frame),
                getattr(frame, "timestamp_s", None),
            )
        )
    return runs


def _pose_of(frame: object) -> FramePose | None:
    """Where a frame's axes are; a LiDAR whose place on the vehicle nobody states is at its origin."""
    lidar2ego, ego2global = getattr(frame, "lidar2ego", None), getattr(frame, "ego2global", None)
    if lidar2ego is None and ego2global is None:
        return None
    return FramePose(*(np.eye(4) if matrix is None else matrix for matrix in (lidar2ego, ego2global)))


def _outputs(detector: Detector, inference: Inference, points: NDArray[np.float32]) -> Outputs:
    """What a frame's boxes came of; a detector that leaves it on its device runs again, its latency stays its own."""
    if inference.outputs is not None:
        return inference.outputs
    if not isinstance(detector, InspectableDetector):
        raise ConfigError(
            f"'{detector.name}' shows nothing but its boxes: what Autoware's node makes of its outputs is unknown. "
            "Set evaluation.decode to 'training'."
        )
    return detector.inspect(points).outputs


def summarize(
    detector: DetectorFacts,
    runs: Sequence[FrameRun],
    *,
    precision: str = "fp32",
    ranges_m: Sequence[tuple[float, float]] | None = None,
    thresholds_m: Sequence[float] = DEFAULT_THRESHOLDS_M,
    min_num_points: int = 0,
    engine: str = NATIVE_ENGINE,
    vehicle: VehicleSettings | None = None,
    nuscenes: bool = False,
    timed: bool = True,
) -> BackendEvaluation:
    """Scores frames that were run, by one `run_frames` or by several that shared them.

    Args:
        detector: What ran them, or one like it.
        runs: At least one frame, in any order; only what is measured in time depends on who ran which.
        vehicle: As given to `run_frames`.
        timed: Whether the summary tells latencies and the machine; without, it is the same on every run.

    Other arguments as for `evaluate`.
    """
    spec = detector.spec
    runs = sorted(runs, key=lambda run: run.index)
    results = tuple(run.result for run in runs)
    latency = LatencyRecorder()
    for run in runs:
        if run.timed and timed:
            latency.add(run.stages_ms, run.total_ms)

    def score(scored: Sequence[FrameResult]) -> DetectionMetrics:
        return evaluate_with_engine(
            engine,
            scored,
            spec.class_names,
            thresholds_m=thresholds_m,
            ranges_m=ranges_of(spec) if ranges_m is None else ranges_m,
            min_num_points=min_num_points,
        )

    metrics, decode = score(results), detector.decode
    summary = EvaluationSummary(
        detector.name,
        detector.device,
        precision,
        len(results),
        sum(not run.timed for run in runs) if timed else 0,
        metrics,
        latency.summary(),
        tuple(round(value, 3) for value in latency.samples_ms()),
        InputCounts.of(runs),
        MachineInfo.current() if timed else MachineInfo.untold(),
        decode,
        sum((run.dropped for run in runs), BoxCounts()),
    )
    scenes = tuple(run.scene for run in runs)
    ranges = ranges_of(spec) if ranges_m is None else ranges_m
    ego = ego_velocities([run.pose for run in runs], scenes, [run.time_s for run in runs])
    latency_s = summary.latency["total"].p50 / 1000.0 if timed else None
    driving = score_driving(summary.label, results, spec.class_names, latency_s, ego, ranges, thresholds_m)
    official = None
    if nuscenes:
        official = score_nuscenes(summary.label, results, [run.pose for run in runs], spec.class_names)
    if vehicle is None:
        return BackendEvaluation(summary, results, scenes, nuscenes=official, driving=driving)
    recorder = VehicleRecorder(spec, vehicle)
    for run in runs:
        recorder.add_decoded(run.result.token, run.vehicle, run.result.ground_truth)
    seen = recorder.summary(summary.label, score, (metrics, results) if decode == TRAINING else None)
    return BackendEvaluation(summary, results, scenes, seen, recorder.frames(), official, driving)
