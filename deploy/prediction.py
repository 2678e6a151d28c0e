"""One scan through the whole pipeline on one backend, and held against another one."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.boxes import Boxes3D
from base.determinism import set_determinism
from base.errors import BackendUnavailable, MissingDependencyError
from base.files import sha256_file
from datasets.scan import Scan, ScanFormat, read_scan
from deploy.config.schema import GPU_BACKENDS, DeployConfig
from deploy.devices import resolve_device

if TYPE_CHECKING:
    from torch import nn

    from eval.verification import VerificationResult
    from models.spec import ModelSpec
    from runtime.counts import VoxelCounts
    from runtime.pipeline import Pipeline

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
        backend: "pytorch", "onnx", "tensorrt" or "cuda".
        compare: A second backend, judged against the first; None for none.
        device: "auto", "cpu" or "cuda:N", for both.
        onnx_dir, engine_dir: Existing files; None: made in `out`.
        precision: "fp32" or "fp16", of ONNX files made on the way.
        rot_y_axis_reference: Run the network in Autoware's yaw convention; boxes stay the same.
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
    """

    name: str
    device: str
    precision: str
    detections: Boxes3D
    stages_ms: Mapping[str, float]
    counts: VoxelCounts

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
    """
    from models.config import load_model_config
    from models.spec import ModelSpec

    set_determinism(0)
    cfg = load_model_config(request.model_config)
    spec = ModelSpec.from_config(cfg)
    # Before the seconds that a model takes: a wrong scan is the likelier mistake.
    scan = read_scan(request.points, request.form, spec)
    model, spec = _load_model(cfg, spec, request)
    files = _Files(request, model, spec)
    skipped: dict[str, str] = {}
    results: list[BackendResult] = []
    with contextlib.ExitStack() as stack:
        pipelines: list[tuple[Pipeline, str]] = []
        for name in request.backends:
            try:
                pipelines.append(stack.enter_context(_open(name, request, files)))
            except BackendUnavailable as unavailable:
                skipped[name] = str(unavailable)
                _logger.warning("%s SKIPPED: %s", name, unavailable)
        results = [_run(pipeline, precision, scan) for pipeline, precision in pipelines]
        verification = _verify(pipelines, scan) if len(pipelines) == 2 else None
    digest = sha256_file(request.checkpoint)
    return Prediction(spec, digest, scan, tuple(results), verification, skipped)


def _load_model(cfg: Any, spec: ModelSpec, request: PredictionRequest) -> tuple[nn.Module, ModelSpec]:
    from deploy.rotation import fold_rot_y_axis_reference
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

    def onnx(self) -> tuple[Path, str]:
        """Folder of the ONNX files and what they compute in."""
        from deploy.existing import check_onnx_dir
        from deploy.onnx_export import OnnxExportSettings, export_components

        request = self.request
        folder = request.onnx_dir or self._made.get("onnx")
        if folder is None:
            provenance = {"weights": f"sha256 {sha256_file(request.checkpoint)}"}
            settings = OnnxExportSettings(precision=request.precision, provenance=provenance)
            folder = self._made["onnx"] = request.out / "onnx"
            export_components(self.model, self.spec, folder, settings)
        return folder, check_onnx_dir(folder, self.spec, request.checkpoint, "--onnx-dir")

    def engines(self) -> tuple[Path, str]:
        """Folder of the engines and what they compute in."""
        from deploy.engine.pipeline import CenterPointTensorRTExportPipeline
        from deploy.existing import check_engine_dir

        request = self.request
        folder, onnx_dir = request.engine_dir, request.onnx_dir
        if folder is None:
            onnx_dir, _ = self.onnx()
            folder = request.out / "tensorrt"
            CenterPointTensorRTExportPipeline().run(onnx_dir, folder, self.spec)
        return folder, check_engine_dir(folder, self.spec, onnx_dir, "--engine-dir", request.checkpoint)


@contextlib.contextmanager
def _open(name: str, request: PredictionRequest, files: _Files) -> Iterator[tuple[Pipeline, str]]:
    from models.components import extract_components
    from runtime.backends import open_backend
    from runtime.pipeline import Pipeline

    options: dict[str, Any]
    if name == "pytorch":
        # A copy: a backend moves its modules to its device.
        options, precision = {"components": extract_components(copy.deepcopy(files.model), files.spec)}, "fp32"
    elif name in ("onnx", "cuda"):
        folder, precision = files.onnx()
        options = {"onnx_dir": folder}
    else:
        folder, precision = files.engines()
        options = {"engine_dir": folder}
    device = resolve_device(request.device, name, DeployConfig())
    try:
        backend = open_backend(name, spec=files.spec, device=device, **options)
    except MissingDependencyError as missing:
        if name not in GPU_BACKENDS:
            raise
        raise BackendUnavailable(str(missing)) from missing
    with backend:
        yield Pipeline(files.spec, backend), precision


def _run(pipeline: Pipeline, precision: str, scan: Scan) -> BackendResult:
    pipeline(scan.points)  # the first call allocates and chooses kernels
    found = pipeline(scan.points)
    return BackendResult(
        pipeline.backend.name,
        pipeline.backend.device,
        precision,
        found.detections,
        {**found.stages_ms, "total": found.total_ms},
        found.counts,
    )


def _verify(pipelines: list[tuple[Pipeline, str]], scan: Scan) -> VerificationResult:
    from datasets.frames import Frame
    from eval.verification import verify

    (reference, first), (test, second) = pipelines
    known = [precision for precision in (first, second) if precision in _PRECISIONS]
    # A precision without an order of its own (int8) is the tested backend's, or the reference's.
    precision = (
        max(known, key=_PRECISIONS.index) if len(known) == 2 else next(p for p in (second, first) if p not in known)
    )
    frame = Frame(scan.path.name, "", 0.0, scan.points, Boxes3D.empty())
    return verify(reference, test, [frame], num_frames=1, precision=precision, show_progress=False)
