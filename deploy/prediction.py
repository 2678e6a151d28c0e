"""One scan through the whole pipeline on one backend, and held against another one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.arguments import DEFAULT_POINTS
from base.boxes import Boxes3D
from base.checks import Finding, settle
from base.determinism import set_determinism
from base.errors import BackendUnavailable
from base.files import sha256_file
from base.messages import shown_file
from datasets.plausibility import PointsExpected
from datasets.scan import Scan, ScanFormat, read_scan
from deploy.config.names import ONNX_BACKENDS
from deploy.config.schema import DeployConfig
from deploy.devices import resolve_device
from runtime.capacity import check_cloud
from runtime.counts import dropped_pillars

if TYPE_CHECKING:
    from torch import nn

    from deploy.detectors import DetectorFiles
    from eval.verification import VerificationResult
    from models.spec import ModelSpec
    from runtime.counts import BoxCounts, VoxelCounts
    from runtime.detector import Detector, InspectableDetector

__all__ = ["BackendResult", "Prediction", "PredictionRequest", "predict"]

# What a graph computes in, finest first: two backends are held against each other by the coarser one's limits.
_PRECISIONS = ("fp32", "fp32_tf32", "fp16")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionRequest:
    """What to run.

    Attributes:
        points: The scan.
        form: How it is stored.
        model_config, checkpoint: The model.
        out: Folder for ONNX files and engines that are made on the way, and for what the command writes.
        backend: "pytorch", "onnx", "openvino", "tensorrt" or "cuda".
        compare: A second backend, judged against the first; None for none.
        device: "auto", "cpu" or "cuda:N", for both.
        onnx_dir, engine_dir: Existing files; None: made in `out`.
        precision: "fp32" or "fp16", of ONNX files made on the way.
        rot_y_axis_reference: Run the network in Autoware's yaw convention; boxes stay the same.
        max_points: Most points of the scan.
    """

    points: Path
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
        stages_ms: Stage -> milliseconds of the second of two runs.
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


@dataclass(frozen=True)
class Prediction:
    """Outcome of `predict`.

    Attributes:
        spec: The model.
        checkpoint_sha256: Of its weights.
        scan: The points.
        results: One for each backend that ran.
        verification: The comparison; None where none was asked for or a backend could not run.
        skipped: Backend -> why it could not run here.
    """

    spec: ModelSpec
    checkpoint_sha256: str
    scan: Scan
    results: tuple[BackendResult, ...]
    verification: VerificationResult | None
    skipped: Mapping[str, str]


def predict(request: PredictionRequest) -> Prediction:
    """Reads the scan, loads the model, makes the files that a backend needs, and runs.

    Raises:
        UserError: the scan, the model config, the checkpoint, an ONNX file or an engine is missing or wrong.
        BackendUnavailable: the one backend that was asked for cannot run on this machine.
    """
    from deploy.detectors import cannot_run_here
    from models.config import load_model_config
    from models.spec import ModelSpec

    set_determinism(0)
    cfg = load_model_config(request.model_config)
    spec = ModelSpec.from_config(cfg)
    # Before the seconds that a model takes: a wrong scan is the likelier mistake.
    scan = read_scan(request.points, request.form, spec, _expected(cfg, spec))
    what = f"Point file {shown_file(request.points)} has {len(scan.points)} valid points"
    check_cloud(what, len(scan.points), request.max_points, spec)
    model, spec = _load_model(cfg, spec, request)
    files = _Files(request, model, spec)
    skipped: dict[str, str] = {}
    results: list[BackendResult] = []
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
        results = [_run(detector, precision, scan) for detector, precision in detectors]
        settle(_losses(results, request))
        verification = _verify(detectors, scan) if len(detectors) == 2 else None
    digest = sha256_file(request.checkpoint)
    return Prediction(spec, digest, scan, tuple(results), verification, skipped)


def _expected(cfg: Any, spec: ModelSpec) -> PointsExpected:
    """What the model was trained on; a config without a dataset is taken for one of T4."""
    from models.point_loading import innermost
    from models.unsupported import step_kind

    node = cfg.get("val_dataloader") or cfg.get("train_dataloader")
    kind = "T4Dataset" if node is None else step_kind(innermost(node))
    return PointsExpected.of_config(cfg, kind, spec.point_cloud_range)


def _losses(results: Sequence[BackendResult], request: PredictionRequest) -> Iterator[Finding]:
    """Pillars that were left out, once for all backends that left out as many."""
    told: set[int] = set()
    for result in results:
        counts = result.counts
        if counts.dropped_voxels and counts.dropped_voxels not in told:
            told.add(counts.dropped_voxels)
            place = f"Point file {shown_file(request.points)} on {result.label}"
            yield dropped_pillars(place, counts.dropped_voxels, counts.voxels)


def _load_model(cfg: Any, spec: ModelSpec, request: PredictionRequest) -> tuple[nn.Module, ModelSpec]:
    from export.rotation import fold_rot_y_axis_reference
    from models.build import build_model, load_checkpoint

    model = build_model(cfg)
    load_checkpoint(model, request.checkpoint)
    return fold_rot_y_axis_reference(model, spec) if request.rot_y_axis_reference else (model, spec)


class _Files:
    """ONNX files and engines: the user's own, or made when the first backend needs them."""

    def __init__(self, request: PredictionRequest, model: nn.Module, spec: ModelSpec) -> None:
        self.request = request
        self.model = model
        self.spec = spec
        self._made: dict[str, Path] = {}

    def of(self, backend: str) -> DetectorFiles:
        """What a backend reads."""
        from deploy.detectors import DetectorFiles, Network

        checkpoint = self.request.checkpoint
        if backend == "pytorch":
            return DetectorFiles(Network(self.model))
        if backend in ONNX_BACKENDS:
            return DetectorFiles(onnx_dir=self.onnx(), checkpoint=checkpoint)
        engine_dir, onnx_dir = self.engines()
        return DetectorFiles(onnx_dir=onnx_dir, engine_dir=engine_dir, checkpoint=checkpoint)

    def onnx(self) -> Path:
        """Folder of the ONNX files."""
        from export.onnx_export import OnnxExportSettings, export_components

        request = self.request
        folder = request.onnx_dir or self._made.get("onnx")
        if folder is None:
            provenance = {"weights": f"sha256 {sha256_file(request.checkpoint)}"}
            settings = OnnxExportSettings(precision=request.precision, provenance=provenance)
            folder = self._made["onnx"] = request.out / "onnx"
            export_components(self.model, self.spec, folder, settings)
        return folder

    def engines(self) -> tuple[Path, Path | None]:
        """Folder of the engines, and of the ONNX files that they must come from, if those are known."""
        from export.engine.pipeline import CenterPointTensorRTExportPipeline
        from export.existing import check_onnx_dir

        request = self.request
        folder, onnx_dir = request.engine_dir, request.onnx_dir
        if folder is None:
            onnx_dir = self.onnx()
            check_onnx_dir(onnx_dir, self.spec, request.checkpoint, "--onnx-dir")
            folder = request.out / "tensorrt"
            CenterPointTensorRTExportPipeline().run(onnx_dir, folder, self.spec)
        return folder, onnx_dir


def _open(name: str, request: PredictionRequest, files: _Files) -> tuple[InspectableDetector, str]:
    from deploy.detectors import open_checked_detector

    device = resolve_device(request.device, name, DeployConfig())
    return open_checked_detector(name, files.of(name), spec=files.spec, device=device, max_points=request.max_points)


def _run(detector: Detector, precision: str, scan: Scan) -> BackendResult:
    detector(scan.points)  # the first call allocates and chooses kernels
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


def _verify(detectors: list[tuple[Detector, str]], scan: Scan) -> VerificationResult:
    from datasets.frames import Frame
    from eval.verification import verify

    (reference, first), (test, second) = detectors
    known = [precision for precision in (first, second) if precision in _PRECISIONS]
    # A precision without an order of its own (int8) is the tested backend's, or the reference's.
    precision = (
        max(known, key=_PRECISIONS.index) if len(known) == 2 else next(p for p in (second, first) if p not in known)
    )
    frame = Frame(scan.path.name, "", 0.0, scan.points, Boxes3D.empty())
    return verify(reference, test, [frame], num_frames=1, precision=precision, show_progress=False)
