"""What the steps of a run share: the loaded network, the frames, and the backends opened on them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import BackendUnavailable, ConfigError
from base.lazy import require
from deploy.config.names import ONNX_BACKENDS
from deploy.config.schema import DeployConfig
from deploy.plan import RunPlan
from runtime.decoders import TRAINING_DECODER, Decoder

if TYPE_CHECKING:
    from torch import nn

    from datasets.frames import FrameSource
    from deploy.detectors import DetectorFiles
    from export.quantized_model import QuantizedModel
    from runtime.detector import InspectableDetector

__all__ = ["Session"]


class Session:
    """Loads once, opens backends when they are asked for.

    Attributes:
        plan: What the run will do.
        model: The stock mmdet3d model with its weights, on the CPU, in floating point.
        export_model: What is exported: in the rotation convention of the export, quantized if the run is in INT8.
        quantized: The INT8 model; None in floating point, and until `quantize`.
        frames: Validation frames; None where no step needs them.
    """

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self.model: nn.Module | None = None
        self.export_model: nn.Module | None = None
        self.frames: FrameSource | None = None
        self.quantized: QuantizedModel | None = None

    def load_model(self) -> None:
        """Builds the model and fills it with the checkpoint's weights, and with its scales where it has any.

        Raises:
            ConfigError: the config cannot be built.
            CheckpointError: the checkpoint is unsafe, broken or of another architecture.
        """
        from models.build import build_model, load_checkpoint

        plan = self.plan
        _quiet_mmengine()
        model = build_model(plan.model_cfg, seed=plan.config.seed)
        if plan.quantization is not None and plan.quantization.checkpoint_is_quantized:
            from export.quantized_model import float_twin, read_quantized_model

            self.quantized = read_quantized_model(model, plan.checkpoint)
            self.model = float_twin(model)
        else:
            load_checkpoint(model, plan.checkpoint)
            self.model = model
        self._set_export_model(model)

    def quantize(self) -> QuantizedModel:
        """Makes the INT8 model from the float checkpoint, or returns the one that the checkpoint held.

        Raises:
            ConfigError: `sensitive_layers` names a layer that the model does not have.
            DataError: the calibration frames or the cache are broken or do not fit.
        """
        from export.quantized_model import quantize_float_model
        from quant.calibration.batches import calibration_batches

        plan = self.plan
        quantization = plan.quantization
        if self.model is None or quantization is None:
            raise RuntimeError("load_model comes before quantize, in a run in INT8")
        if self.quantized is None:
            settings = quantization.settings
            model = copy.deepcopy(self.model)
            batches = None
            if quantization.data_root is not None:
                batches = calibration_batches(
                    plan.model_cfg,
                    quantization.split,
                    str(quantization.data_root),
                    settings.num_batches,
                    model=model,
                    info_file=None if quantization.info_file is None else str(quantization.info_file),
                )
            self.quantized = quantize_float_model(model, plan.spec, batches, settings)
            self._set_export_model(self.quantized.model)
        return self.quantized

    def _set_export_model(self, model: nn.Module) -> None:
        self.export_model = model
        if self.plan.config.export.rot_y_axis_reference:
            from export.rotation import fold_rot_y_axis_reference

            self.export_model, _ = fold_rot_y_axis_reference(model, self.plan.spec)

    def load_frames(self) -> None:
        """Opens the dataset's validation split.

        Raises:
            DataError: it is broken or unsafe, or there is nothing to find in the frames to evaluate.
            ConfigError: it has fewer frames than are asked for.
        """
        from datasets.frames import open_frames

        plan = self.plan
        config = plan.config
        self.frames = open_frames(plan.model_cfg, "val", str(plan.data_root), config.runtime_io.info_file)
        wanted = {
            "evaluation.num_samples": config.evaluation.num_samples if plan.backends else -1,
            "verification.num_verify_samples": config.verification.num_verify_samples if plan.scenarios else -1,
        }
        for key, number in wanted.items():
            if number > len(self.frames):
                advice = "Use -1 for all of them" if key == "evaluation.num_samples" else "Lower it"
                raise ConfigError(
                    f"'{key}' is {number}, but '{plan.data_root}' has {len(self.frames)} validation frames. {advice}, "
                    "or give a larger dataset."
                )
        from deploy.cloud_limit import check_frames

        used = [config.evaluation.num_samples] * bool(plan.backends)
        used += [config.verification.num_verify_samples] * bool(plan.scenarios)
        check_frames(self.frames, -1 if -1 in used else max(used, default=0), config.runtime_io.max_points, plan.spec)
        if plan.backends:
            from eval.ranges import reach_of

            self.frames.check_ground_truth(config.evaluation.num_samples, reach_of(plan.spec))

    @contextlib.contextmanager
    def detector(
        self, backend: str, device: str, *, as_exported: bool, decoder: Decoder = TRAINING_DECODER
    ) -> Iterator[tuple[InspectableDetector, str]]:
        """Opens a detector: the one that the run's artifacts are deployed as.

        Args:
            backend: "pytorch", "onnx", "openvino", "tensorrt" or "cuda".
            device: "cpu" or "cuda:N".
            as_exported: For pytorch: the network in the rotation convention of the export rather than as trained.
            decoder: What makes boxes of its outputs.

        Yields:
            The detector, and what its network computes in.

        Raises:
            BackendUnavailable: this machine cannot run it, or its files were not made.
        """
        from deploy.detectors import open_checked_detector

        spec = self.plan.export_spec if backend != "pytorch" or as_exported else self.plan.spec
        files = self._files(backend, as_exported=as_exported)
        detector, precision = open_checked_detector(
            backend, files, spec=spec, device=device, decoder=decoder, max_points=self.plan.config.runtime_io.max_points
        )
        with detector:
            yield detector, precision

    def _files(self, backend: str, *, as_exported: bool) -> DetectorFiles:
        from deploy.detectors import DetectorFiles, Network

        plan = self.plan
        network = None
        onnx_dir: Path | None = plan.onnx_dir
        if backend in ONNX_BACKENDS:
            _require_made(plan.onnx_dir, plan.exports_onnx or plan.onnx_dir.is_dir(), "ONNX files", plan, "onnx")
        elif backend == "tensorrt":
            made = plan.builds_engines or (plan.reads_engines and plan.engine_dir.is_dir())
            _require_made(plan.engine_dir, made, "engines", plan, "both")
            onnx_dir = plan.onnx_dir if plan.onnx_dir.is_dir() else None
        else:
            model = self.export_model if as_exported else self.model
            if model is None:
                raise RuntimeError("load_model comes before any detector")
            network = Network(model, "int8" if as_exported and self.quantized is not None else "fp32")
        # Engines from pillars: what is verified and scored is both engines, not kernels of ours in place of one.
        return DetectorFiles(
            network, onnx_dir, plan.engine_dir, plan.checkpoint, onnx_key="onnx folder", engine_key="engine folder"
        )


def _quiet_mmengine() -> None:
    """mmengine logs through handlers of its own, to stdout, where the run's result belongs."""
    logger = require("mmengine.logging", "to build the PyTorch model").MMLogger.get_current_instance()
    logger.setLevel("WARNING")


def _require_made(folder: Path, made: bool, what: str, plan: RunPlan, mode: str) -> None:
    if not made:
        raise BackendUnavailable(
            f"mode '{plan.mode}' makes no {what}, and no current ones are in '{folder}'; use --mode={mode}"
        )


def onnx_settings(plan: RunPlan, provenance: dict[str, str], quantized: QuantizedModel | None = None) -> Any:
    """`OnnxExportSettings` of a run."""
    from export.onnx_export import OnnxExportSettings

    quantized_layers = None
    if quantized is not None:
        from export.quantized_model import planned_layers

        quantized_layers = planned_layers(quantized.structure)
    config: DeployConfig = plan.config
    return OnnxExportSettings(
        opset_version=config.onnx_config.opset_version,
        do_constant_folding=config.onnx_config.do_constant_folding,
        keep_initializers_as_inputs=config.onnx_config.keep_initializers_as_inputs,
        simplify=config.onnx_config.simplify,
        precision=plan.precision,
        float_precision=config.quantization.float_precision,
        quantized_layers=quantized_layers,
        provenance=provenance,
        stamps=plan.model_cfg.get("onnx_stamps", {}),
    )


def engine_settings(plan: RunPlan) -> Any:
    """`EngineSettings` of a run."""
    from export.engine.pipeline import EngineSettings
    from export.engine.request import ShapeProfile

    common = plan.config.backend_config.common_config
    profiles = {name: ShapeProfile(s.min_shape, s.opt_shape, s.max_shape) for name, s in plan.profiles.items()}
    return EngineSettings(
        builder=common.builder,
        precision_policy=common.precision_policy,
        workspace_bytes=common.max_workspace_size,
        profiles=profiles,
    )
