"""Scans through the whole pipeline on one backend, and held against another one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import DEFAULT_POINTS
from base.boxes import Boxes3D
from base.checks import Finding, settle
from base.determinism import set_determinism
from base.errors import BackendUnavailable, DataError, UserError
from base.files import sha256_file
from base.progress import progress
from datasets.frames import Frame
from datasets.plausibility import PointsExpected
from datasets.scan import ScanFormat
from deploy.config.schema import DeployConfig
from deploy.devices import resolve_device
from deploy.input_scans import DEFAULT_RATE_HZ, FileScans, FrameScans, InputScan, InputScans, scan_files
from deploy.prediction_files import PredictionFiles, plan_int8
from runtime.capacity import check_cloud
from runtime.counts import dropped_pillars

if TYPE_CHECKING:
    from eval.verification import VerificationResult
    from models.spec import ModelSpec
    from runtime.counts import BoxCounts, VoxelCounts
    from runtime.detector import Detector, InspectableDetector

__all__ = [
    "VERIFIED_SCANS",
    "BackendResult",
    "Prediction",
    "PredictionRequest",
    "ScanPrediction",
    "predict",
]

VERIFIED_SCANS = 10
"""Of a sequence, so many are compared tensor by tensor; of the others the boxes stand beside each other."""
# What a graph computes in, finest first: two backends are held against each other by the coarser one's limits.
_PRECISIONS = ("fp32", "fp32_tf32", "fp16")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionRequest:
    """What to run.

    Attributes:
        points: The scans: files, and folders of files; empty where `data_root` or `info_file` name frames.
        form: How they are stored.
        model_config, checkpoint: The model.
        out: Folder for ONNX files and engines that are made on the way, and for what the command writes.
        backend: "pytorch", "onnx", "openvino", "tensorrt" or "cuda".
        compare: A second backend, judged against the first; None for none.
        device: "auto", "cpu" or "cuda:N", for both.
        onnx_dir, engine_dir: Existing files; None: made in `out`.
        precision: "fp32", "fp16" or "int8", of ONNX files made on the way; "int8" of PyTorch too.
        rot_y_axis_reference: Run the network in Autoware's yaw convention; boxes stay the same.
        max_points: Most points of a scan.
        data_root, info_file: A dataset, and its info file, whose frames are taken in place of `points`.
        rate_hz: Scans a second, where files do not say when they were taken.
        calibration_data_root, calibration_info_file: What an INT8 network is calibrated on; None: as a deployment.
    """

    points: tuple[Path, ...]
    form: ScanFormat
    model_config: Path
    checkpoint: Path
    out: Path
    backend: str = "pytorch"
    compare: str | None = None
    device: str = "auto"
    onnx_dir: Path | None = None
    engine_dir: Path | None = None
    precision: str = "fp32"
    rot_y_axis_reference: bool = False
    max_points: int = DEFAULT_POINTS
    data_root: Path | None = None
    info_file: str | None = None
    rate_hz: float = DEFAULT_RATE_HZ
    calibration_data_root: Path | None = None
    calibration_info_file: str | None = None

    @property
    def needs_network(self) -> bool:
        """Whether a backend runs the network of the checkpoint, or files that are made of it."""
        made = self.onnx_dir is None
        needed = {"pytorch": True, "tensorrt": made and self.engine_dir is None}
        return any(needed.get(name, made) for name in self.backends)

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends in the order in which they run."""
        return (self.backend,) if self.compare is None else (self.backend, self.compare)


@dataclass(frozen=True)
class BackendResult:
    """What one backend made of the scan.

    Attributes:
        name, device, precision: The backend, where it ran, and what its network computes in.
        detections: By descending score.
        stages_ms: Stage -> milliseconds; of the first scan, of the second of two runs.
        counts: Of the preprocessing.
        dropped: Candidates of which no box was made.
    """

    name: str
    device: str
    precision: str
    detections: Boxes3D
    stages_ms: Mapping[str, float]
    counts: VoxelCounts
    dropped: BoxCounts

    @property
    def label(self) -> str:
        """As reports name a backend."""
        return f"{self.name} {self.precision} ({self.device})"


@dataclass(frozen=True, eq=False)
class ScanPrediction:
    """One scan with what was found in it.

    Attributes:
        scan: The points.
        results: One for each backend that ran.
    """

    scan: InputScan
    results: tuple[BackendResult, ...]


@dataclass(frozen=True)
class Prediction:
    """What all scans of `predict` share.

    Attributes:
        spec: The model.
        checkpoint_sha256: Of its weights.
        num_scans: How many there were.
        verification: The comparison of the first scans; None where none was asked for or a backend could not run.
        skipped: Backend -> why it could not run here.
    """

    spec: ModelSpec
    checkpoint_sha256: str
    num_scans: int
    verification: VerificationResult | None
    skipped: Mapping[str, str]


def predict(request: PredictionRequest, sink: Callable[[ScanPrediction, ModelSpec, int], None]) -> Prediction:
    """Reads the first scan, loads the model, makes the files that a backend needs, and runs scan after scan.

    Args:
        request: What to run.
        sink: Is given every scan with what was found in it, as soon as it is found, the model, and how many there are.

    Raises:
        UserError: a scan, the model config, the checkpoint, an ONNX file or an engine is missing or wrong. What was
            given to `sink` before stands.
        BackendUnavailable: the one backend that was asked for cannot run on this machine.
    """
    from deploy.detectors import cannot_run_here
    from models.config import load_model_config
    from models.spec import ModelSpec

    set_determinism(0)
    cfg = load_model_config(request.model_config)
    spec = ModelSpec.from_config(cfg)
    # Before the seconds that a model takes: a wrong scan is the likelier mistake.
    scans = _scans(request, cfg, spec)
    first = _read(scans, 0, request, spec)
    files = PredictionFiles(request, cfg, spec, plan_int8(request, cfg))
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        detectors: list[tuple[Detector, str]] = []
        for name in request.backends:
            try:
                detector, precision = _open(name, request, files)
            except BackendUnavailable as unavailable:
                if request.compare is None:
                    raise cannot_run_here(name, unavailable) from unavailable
                skipped[name] = str(unavailable)
                _logger.warning("%s SKIPPED: %s", name, unavailable)
            else:
                detectors.append((stack.enter_context(detector), precision))
        told: set[int] = set()
        for index in progress(range(len(scans)), "predicting", unit="scan"):
            scan = first if index == 0 else _read(scans, index, request, spec)
            if index == 0:
                for opened, _ in detectors:
                    opened(scan.points)  # the first call allocates and chooses kernels
            results = tuple(_run(detector, precision, scan) for detector, precision in detectors)
            settle(_losses(scan, results, told))
            sink(ScanPrediction(scan, results), spec, len(scans))
        both_int8 = files.quantized is not None and request.precision == "int8"
        verification = _verify(detectors, scans, equal_inputs=both_int8) if len(detectors) == 2 else None
    digest = sha256_file(request.checkpoint)
    return Prediction(spec, digest, len(scans), verification, skipped)


def _scans(request: PredictionRequest, cfg: Any, spec: ModelSpec) -> InputScans:
    if request.info_file is None and request.data_root is None:
        files = scan_files(request.points)
        return FileScans(files, request.form, spec, _expected(cfg, spec), request.rate_hz)
    from datasets.frames import open_frames

    root = None if request.data_root is None else str(request.data_root)
    scans = FrameScans(open_frames(cfg, "val", root, request.info_file))
    if not len(scans):
        raise DataError("The info file has no frame; name one that has with --info-file.")
    return scans


def _read(scans: InputScans, index: int, request: PredictionRequest, spec: ModelSpec) -> InputScan:
    """One scan; of a sequence, an error says how far it came."""
    try:
        scan = scans[index]
        what = f"{scan.place} has {len(scan.points)} valid points"
        check_cloud(what, len(scan.points), request.max_points, spec)
    except UserError as error:
        if index == 0:
            raise
        done = f"{index} scans before it are" if index > 1 else "The scan before it is"
        raise type(error)(f"{error} {done} done, of {len(scans)}: what was written of them stays.") from error
    return scan


def _expected(cfg: Any, spec: ModelSpec) -> PointsExpected:
    """What the model was trained on; a config without a dataset is taken for one of T4."""
    from models.point_loading import innermost
    from models.unsupported import step_kind

    node = cfg.get("val_dataloader") or cfg.get("train_dataloader")
    kind = "T4Dataset" if node is None else step_kind(innermost(node))
    return PointsExpected.of_config(cfg, kind, spec.point_cloud_range)


def _losses(scan: InputScan, results: Sequence[BackendResult], told: set[int]) -> Iterator[Finding]:
    """Pillars that were left out, once for all backends and scans that left out as many."""
    for result in results:
        counts = result.counts
        if counts.dropped_voxels and counts.dropped_voxels not in told:
            told.add(counts.dropped_voxels)
            place = f"{scan.place} on {result.label}"
            yield dropped_pillars(place, counts.dropped_voxels, counts.voxels)


def _open(name: str, request: PredictionRequest, files: PredictionFiles) -> tuple[InspectableDetector, str]:
    from deploy.detectors import open_checked_detector

    device = resolve_device(request.device, name, DeployConfig())
    return open_checked_detector(name, files.of(name), spec=files.spec, device=device, max_points=request.max_points)


def _run(detector: Detector, precision: str, scan: InputScan) -> BackendResult:
    found = detector(scan.points)
    return BackendResult(
        detector.name,
        detector.device,
        precision,
        found.detections,
        {**found.stages_ms, "total": found.total_ms},
        found.counts,
        found.dropped,
    )


class _Verified:
    """The first scans as frames without ground truth (`eval.frames.FramesLike`), each read again."""

    def __init__(self, scans: InputScans) -> None:
        self._scans = scans

    def __len__(self) -> int:
        return min(len(self._scans), VERIFIED_SCANS)

    def __getitem__(self, index: int, /) -> Frame:
        scan = self._scans[index]
        return Frame(scan.name, "", scan.time_s, scan.points, Boxes3D.empty())


def _verify(detectors: Sequence[tuple[Detector, str]], scans: InputScans, *, equal_inputs: bool) -> VerificationResult:
    from eval.verification import verify

    (reference, first), (test, second) = detectors
    known = [precision for precision in (first, second) if precision in _PRECISIONS]
    # A precision without an order of its own (int8) is the tested backend's, or the reference's.
    precision = (
        max(known, key=_PRECISIONS.index) if len(known) == 2 else next(p for p in (second, first) if p not in known)
    )
    frames = _Verified(scans)
    equal = equal_inputs and first == second == "int8"
    return verify(
        reference, test, frames, num_frames=-1, precision=precision, equal_inputs=equal, show_progress=len(frames) > 1
    )
