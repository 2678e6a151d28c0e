"""What the backends of a prediction read: the user's own ONNX files and engines, or those made when one needs them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import CheckpointError
from base.files import sha256_file
from base.keeping import require_ours
from base.messages import shown_file
from deploy.config.names import ONNX_BACKENDS
from export.existing import check_onnx_dir, engine_marks, onnx_marks

if TYPE_CHECKING:
    from torch import nn

    from deploy.config.schema import DeployConfig
    from deploy.detectors import DetectorFiles
    from deploy.prediction import PredictionRequest
    from deploy.quantization_plan import QuantizationPlan
    from export.quantized_model import QuantizedModel
    from models.spec import ModelSpec

__all__ = ["PredictionFiles", "plan_int8"]


def plan_int8(request: PredictionRequest, model_cfg: Any) -> tuple[DeployConfig, QuantizationPlan] | None:
    """How the network becomes INT8, with the default deploy config's choices; None in floating point.

    Raises:
        CheckpointError: a quantized checkpoint, but `--precision` is not int8.
        DataError: there are no calibration frames.
    """
    from quant.checkpoint import is_quantized_checkpoint

    if request.precision != "int8":
        if request.checkpoint.is_file() and is_quantized_checkpoint(request.checkpoint):
            raise CheckpointError(
                f"Checkpoint {shown_file(request.checkpoint)} is quantized, but --precision is {request.precision}. "
                "Give --precision=int8, or the float checkpoint that it was made from."
            )
        return None
    from deploy import cli
    from deploy.config import load_deploy_config
    from deploy.quantization_plan import plan_quantization

    overrides: dict[str, Any] = {**cli.PRECISIONS["int8"]}
    if request.calibration_data_root is not None:
        overrides["quantization.calibration.data_root"] = str(request.calibration_data_root)
    if request.calibration_info_file is not None:
        overrides["quantization.calibration.info_file"] = request.calibration_info_file
    config = load_deploy_config(cli.DEFAULT_DEPLOY_CONFIG, overrides)
    if not request.checkpoint.is_file():
        raise CheckpointError(f"Checkpoint {shown_file(request.checkpoint)} does not exist. Name it with --checkpoint.")
    # Where files of the user's own are what runs, nothing is calibrated.
    plan = plan_quantization(
        config, request.checkpoint, model_cfg, "--precision=int8", calibrates=request.needs_network
    )
    if plan is None:
        raise RuntimeError("a configuration in INT8 has a plan")
    if plan.demo is not None:
        plan.demo.make()
    return config, plan


class PredictionFiles:
    """ONNX files and engines of a model.

    Args:
        request: What was asked for.
        cfg: The model config.
        spec: As trained; `self.spec` is as exported.
        int8: Of `plan_int8`.
    """

    def __init__(
        self, request: PredictionRequest, cfg: Any, spec: ModelSpec, int8: tuple[DeployConfig, QuantizationPlan] | None
    ) -> None:
        self.request = request
        self._cfg = cfg
        self._trained = spec
        self._int8 = int8
        self._made: dict[str, Path] = {}
        self.quantized: QuantizedModel | None = None
        self.model = self._load()
        self.spec = spec
        if request.rot_y_axis_reference:
            from export.rotation import fold_rot_y_axis_reference

            self.model, self.spec = fold_rot_y_axis_reference(self.model, spec)

    def _load(self) -> nn.Module:
        """The network as it is exported, in floating point or in INT8."""
        from models.build import build_model, load_checkpoint

        request = self.request
        model = build_model(self._cfg)
        if self._int8 is None:
            load_checkpoint(model, request.checkpoint)
            return model
        from export.quantized_model import quantize_float_model, read_quantized_model
        from quant.calibration.batches import calibration_batches

        _, plan = self._int8
        if plan.checkpoint_is_quantized:
            self.quantized = read_quantized_model(model, request.checkpoint)
            return model
        load_checkpoint(model, request.checkpoint)
        if request.needs_network:
            batches = calibration_batches(
                self._cfg,
                plan.split,
                str(plan.data_root),
                plan.settings.num_batches,
                model=model,
                info_file=None if plan.info_file is None else str(plan.info_file),
            )
            self.quantized = quantize_float_model(model, self._trained, batches, plan.settings)
        return model

    def of(self, backend: str) -> DetectorFiles:
        """What a backend reads."""
        from deploy.detectors import DetectorFiles, Network

        checkpoint = self.request.checkpoint
        if backend == "pytorch":
            return DetectorFiles(Network(self.model, "fp32" if self.quantized is None else "int8"))
        if backend in ONNX_BACKENDS:
            return DetectorFiles(onnx_dir=self.onnx, checkpoint=checkpoint)
        engine_dir, onnx_dir = self.engines()
        return DetectorFiles(onnx_dir=onnx_dir, engine_dir=engine_dir, checkpoint=checkpoint)

    @cached_property
    def onnx(self) -> Path:
        """Folder of the ONNX files."""
        from export.onnx_export import export_components

        if self.request.onnx_dir is not None:
            return self.request.onnx_dir
        folder = self.request.out / "onnx"
        require_ours(folder, onnx_marks(), "--out")
        export_components(self.model, self.spec, folder, self._export_settings())
        return folder

    def _export_settings(self) -> Any:
        from export.onnx_export import OnnxExportSettings

        provenance = {"weights": f"sha256 {sha256_file(self.request.checkpoint)}"}
        if self._int8 is None or self.quantized is None:
            return OnnxExportSettings(precision=self.request.precision, provenance=provenance)
        from export.quantized_model import planned_layers

        config, _ = self._int8
        return OnnxExportSettings(
            opset_version=config.onnx_config.opset_version,
            precision="int8",
            float_precision=config.quantization.float_precision,
            quantized_layers=planned_layers(self.quantized.structure),
            provenance=provenance,
        )

    def engines(self) -> tuple[Path, Path | None]:
        """Folder of the engines, and of the ONNX files that they must come from, if those are known."""
        from export.engine.pipeline import CenterPointTensorRTExportPipeline

        request = self.request
        folder, onnx_dir = request.engine_dir, request.onnx_dir
        if folder is None:
            onnx_dir = self.onnx
            check_onnx_dir(onnx_dir, self.spec, request.checkpoint, "--onnx-dir")
            folder = request.out / "tensorrt"
            require_ours(folder, engine_marks(), "--out")
            CenterPointTensorRTExportPipeline(self._engine_settings()).run(onnx_dir, folder, self.spec)
        return folder, onnx_dir

    def _engine_settings(self) -> Any:
        from export.engine.pipeline import EngineSettings

        if self._int8 is None:
            return EngineSettings()
        return EngineSettings(precision_policy=self._int8[0].backend_config.common_config.precision_policy)
