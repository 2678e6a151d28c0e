"""Everything a run needs, found and checked before any of its work starts."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import CheckpointError, ConfigError, UserError
from base.files import user_path
from base.lazy import require
from deploy.config.model_checks import check_against_model, check_operators, configured_profiles
from deploy.config.names import BACKENDS, ONNX_BACKENDS
from deploy.config.paths import input_path
from deploy.config.schema import DeployConfig, Scenario, ShapeRange
from deploy.data_roots import validation_root
from deploy.quantization_plan import QuantizationPlan, plan_quantization
from deploy.work_dir import DETECTIONS_MARK
from export.existing import calibration_marks, check_engine_dir, check_onnx_dir, engine_marks, onnx_marks

if TYPE_CHECKING:
    from eval.vehicle import VehicleSettings
    from models.spec import ModelSpec

__all__ = ["RunPlan", "make_plan"]

# An engine holds the weights again, and a builder writes a few files beside it.
_FREE_SPACE_FACTOR = 6
_FREE_SPACE_BYTES = 16 << 20


@dataclass(frozen=True)
class RunPlan:
    """What a run will read and write.

    Attributes:
        config: The deploy configuration.
        source: File it came from.
        model_config_path: The model config.
        model_cfg: The same, loaded (`mmengine.Config`).
        spec: The model as trained.
        checkpoint: Its weights.
        work_dir, onnx_dir, engine_dir: Where ONNX files and engines are, or will be.
        data_root: Folder of the dataset; None where no step needs one.
        profiles: Optimization profiles that the configuration gives.
        precision: What exported graphs compute in.
        scenarios: Comparisons of this run.
        backends: Backends to evaluate.
        vehicle: How Autoware's node decodes, where the evaluation asks for that.
        quantization: What it does about INT8; None for a deployment in floating point.
        foreign_onnx: Folder with ONNX files of autoware-ml's exporter, which are taken over into `onnx_dir`; None where
            there are none.
    """

    config: DeployConfig
    source: str
    model_config_path: Path
    model_cfg: Any
    spec: ModelSpec
    checkpoint: Path
    work_dir: Path
    onnx_dir: Path
    engine_dir: Path
    data_root: Path | None
    profiles: dict[str, ShapeRange]
    precision: str
    scenarios: tuple[Scenario, ...]
    backends: tuple[str, ...]
    vehicle: VehicleSettings | None = None
    quantization: QuantizationPlan | None = None
    foreign_onnx: Path | None = None

    @property
    def mode(self) -> str:
        """The export mode."""
        return self.config.export.mode

    @property
    def exports_onnx(self) -> bool:
        """Whether this run writes ONNX files."""
        return self.mode in ("onnx", "both")

    @property
    def builds_engines(self) -> bool:
        """Whether this run writes engines."""
        return self.mode in ("trt", "both")

    @property
    def marks(self) -> dict[str, bytes | str]:
        """What the files that this run writes beside its records are known by (`base.keeping`)."""
        quantizes = self.quantization is not None and not self.quantization.checkpoint_is_quantized
        detections = [f"{backend}{kind}.jsonl" for backend in self.backends for kind in ("", "_candidates")]
        return {
            **{f"detections/{name}": DETECTIONS_MARK for name in detections},
            **(onnx_marks("onnx/") if self.exports_onnx or self.foreign_onnx is not None else {}),
            **(engine_marks("tensorrt/") if self.builds_engines else {}),
            **(calibration_marks("quantized/") if quantizes else {}),
        }

    @property
    def uses_quantized_model(self) -> bool:
        """Whether a step needs the INT8 model in PyTorch: to export it, or to compare with it."""
        return self.exports_onnx or any("pytorch" in (s.ref_backend, s.test_backend) for s in self.scenarios)

    @property
    def export_spec(self) -> ModelSpec:
        """The exported network: the model, in the rotation convention of the export."""
        return dataclasses.replace(self.spec, rot_y_axis_reference=self.config.export.rot_y_axis_reference)

    @property
    def reads_onnx(self) -> bool:
        """Whether a step uses ONNX files that this run does not make."""
        return not self.exports_onnx and not self.needed_backends.isdisjoint(ONNX_BACKENDS)

    @property
    def reads_engines(self) -> bool:
        """Whether a step uses engines that this run does not make."""
        if self.builds_engines or "tensorrt" not in self.needed_backends:
            return False
        # New ONNX files outdate the engines of an earlier run in the same folder.
        return self.mode == "none" or self.config.evaluation.backends.tensorrt.engine_dir is not None

    @property
    def needed_backends(self) -> set[str]:
        """Backends that a comparison or an evaluation uses."""
        return {*self.backends, *(s.ref_backend for s in self.scenarios), *(s.test_backend for s in self.scenarios)}


def make_plan(config: DeployConfig, source: str, model_config: str | os.PathLike[str]) -> RunPlan:
    """Resolves paths and checks everything that can be checked without building the model.

    Raises:
        ConfigError: the configuration does not fit the model, asks for nothing, or names a missing file.
        CheckpointError, DataError: the checkpoint or a dataset is missing or does not fit.
        MissingDependencyError: a package that a step needs is not installed.
        UserError: too little space is left on the disk.
    """
    from models.config import load_model_config
    from models.spec import ModelSpec

    model_config_path = input_path(model_config)
    model_cfg = load_model_config(model_config_path)
    spec = ModelSpec.from_config(model_cfg)
    check_against_model(config, spec, source)
    check_operators(config, model_cfg, source)
    checkpoint = _checkpoint(config, source)
    work_dir = user_path(config.export.work_dir)
    backends = config.evaluation.backends
    enabled = tuple(name for name in BACKENDS if getattr(backends, name).enabled)
    scenarios = _scenarios(config)
    onnx_dir = _folder(config.export.onnx_path or backends.onnx.model_dir, work_dir / "onnx")
    foreign_onnx = onnx_dir if config.export.mode == "trt" and _is_foreign(onnx_dir) else None
    plan = RunPlan(
        config=config,
        source=source,
        model_config_path=model_config_path,
        model_cfg=model_cfg,
        spec=spec,
        checkpoint=checkpoint,
        work_dir=work_dir,
        onnx_dir=onnx_dir if foreign_onnx is None else work_dir / "onnx",
        engine_dir=_folder(backends.tensorrt.engine_dir, work_dir / "tensorrt"),
        data_root=None,
        profiles=configured_profiles(config, spec, source),
        precision=_precision(config),
        scenarios=scenarios if config.verification.enabled else (),
        backends=enabled if config.evaluation.enabled else (),
        vehicle=_vehicle(config, spec, source),
        foreign_onnx=foreign_onnx,
    )
    _check_kernels(plan)
    if plan.mode == "none" and not plan.scenarios and not plan.backends:
        raise ConfigError(
            f"{source}: there is nothing to do: 'export.mode' is 'none', there is no verification scenario for it and "
            "no backend to evaluate."
        )
    data = validation_root(config, model_cfg) if plan.scenarios or plan.backends else None
    if data is not None:
        from datasets.frames import check_pipeline

        check_pipeline(model_cfg)
        plan = dataclasses.replace(plan, data_root=data.path)
    quantization = plan_quantization(config, checkpoint, model_cfg, source, calibrates=plan.uses_quantized_model)
    plan = dataclasses.replace(plan, quantization=quantization)
    plan = dataclasses.replace(plan, precision=_check_existing(plan) or plan.precision)
    _check_packages(plan)
    _check_space(plan)
    # Last: it takes a minute, once.
    for demo in (data and data.demo, quantization and quantization.demo):
        if demo:
            demo.make()
    return plan


def _check_kernels(plan: RunPlan) -> None:
    """What the kernels behind the network take of a model is known without its files and without a GPU."""
    if "cuda" not in plan.needed_backends:
        return
    from models.schema import parse_model
    from runtime.cuda_engine.decode_parameters import DECODE_SIZES, DecodeModel
    from runtime.cuda_engine.pillar_parameters import check_encoder

    encoder = parse_model(plan.model_cfg.model, str(plan.model_config_path)).pts_voxel_encoder
    try:
        DecodeModel.from_spec(plan.export_spec, DECODE_SIZES)
        check_encoder(plan.export_spec, encoder.layer_channels, plan.config.runtime_io.max_points)
    except ConfigError as error:
        raise ConfigError(
            f"{plan.source}: backend 'cuda' cannot run this model. {error} Set evaluation.backends.cuda.enabled to "
            "False, and take it out of verification.scenarios."
        ) from error


def _vehicle(config: DeployConfig, spec: ModelSpec, source: str) -> VehicleSettings | None:
    if not config.evaluation.enabled:
        return None
    from deploy.decoding import vehicle_settings

    return vehicle_settings(config.evaluation, spec, source)


def _precision(config: DeployConfig) -> str:
    if config.quantization.enabled:
        return "int8"
    return "fp16" if config.backend_config.common_config.precision_policy == "fp16" else "fp32"


def _folder(configured: str | None, default: Path) -> Path:
    return default if configured is None else input_path(configured)


def _is_foreign(folder: Path) -> bool:
    from export.autoware_ml_onnx import holds_their_files

    return holds_their_files(folder)


def _checkpoint(config: DeployConfig, source: str) -> Path:
    if config.checkpoint_path is None:
        raise ConfigError(f"{source}: 'checkpoint_path' is not set. Set it, or give --checkpoint.")
    path = input_path(config.checkpoint_path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"Checkpoint '{path}' {what}. Give the weights' file with --checkpoint or checkpoint_path."
        )
    return path


def _check_existing(plan: RunPlan) -> str | None:
    """Checks the files that this run reads but does not make; missing ones that nobody named make skipped steps.

    Returns:
        What existing ONNX files (or, without them, engines) compute in; None where none are read.
    """
    precision = None
    if plan.foreign_onnx is not None:
        from export.autoware_ml_onnx import check_their_files

        precision = check_their_files(plan.foreign_onnx, plan.export_spec)
    elif plan.mode == "trt" or plan.reads_onnx:
        backends = plan.config.evaluation.backends
        key = "export.onnx_path" if plan.config.export.onnx_path else "evaluation.backends.onnx.model_dir"
        if plan.mode == "trt" or backends.onnx.model_dir is not None or plan.onnx_dir.exists():
            precision = check_onnx_dir(plan.onnx_dir, plan.export_spec, plan.checkpoint, key)
    if plan.reads_engines:
        key = "evaluation.backends.tensorrt.engine_dir"
        onnx_dir = plan.onnx_dir if plan.onnx_dir.exists() else None
        if plan.config.evaluation.backends.tensorrt.engine_dir is not None or plan.engine_dir.exists():
            of_engines = check_engine_dir(plan.engine_dir, plan.export_spec, onnx_dir, key, plan.checkpoint)
            precision = precision or of_engines
    return precision


def _scenarios(config: DeployConfig) -> tuple[Scenario, ...]:
    """The mode's comparisons, and one of each backend that is evaluated on the ONNX files and none is given of."""
    given: tuple[Scenario, ...] = getattr(config.verification.scenarios, config.export.mode)
    backends = config.evaluation.backends
    ours = (
        (backends.openvino.enabled, Scenario("onnx", "openvino", "cpu", backends.openvino.device)),
        (backends.cuda.enabled, Scenario("onnx", "cuda", "cpu", backends.cuda.device)),
    )
    tested = {scenario.test_backend for scenario in given}
    return (*given, *(scenario for enabled, scenario in ours if enabled and scenario.test_backend not in tested))


def _check_packages(plan: RunPlan) -> None:
    require("torch", "to load the model")
    require("onnx", "to read and check ONNX files")
    if plan.exports_onnx and plan.config.onnx_config.simplify:
        require("onnxsim", "because onnx_config.simplify is True")
    if "onnx" in plan.needed_backends:
        require("onnxruntime", "to run the onnx backend")
    if "openvino" in plan.needed_backends:
        require("openvino", "to run the openvino backend")
    if plan.builds_engines:
        from export.engine.selection import open_engine_builder

        open_engine_builder(plan.config.backend_config.common_config.builder)
    if plan.quantization is not None and plan.uses_quantized_model:
        from quant.quantizer import load_engine

        load_engine(plan.quantization.settings.engine)
    if importlib.util.find_spec("mmdet3d") is None:
        require("mmdet3d", "to build the PyTorch model")


def _check_space(plan: RunPlan) -> None:
    """A rough look at the disk; a full disk later on is still reported, with nothing half written left behind."""
    existing = plan.work_dir
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"Work folder '{plan.work_dir}' cannot be written ('{existing}' is no writable folder).")
    needed = _FREE_SPACE_BYTES + _FREE_SPACE_FACTOR * plan.checkpoint.stat().st_size
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"'{existing}' has {free / 2**20:.0f} MiB free; this run needs about {needed / 2**20:.0f} MiB. Free space, "
            "or choose another folder with --work-dir."
        )
