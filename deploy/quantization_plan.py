"""What a run does about INT8: which checkpoint it has, and which frames it calibrates on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import CheckpointError, DataError
from deploy.config.paths import input_path
from deploy.config.schema import DeployConfig
from deploy.data_roots import calibration_root
from quant.settings import PtqSettings

if TYPE_CHECKING:
    from datasets.demo import DemoDataset

__all__ = ["QuantizationPlan", "plan_quantization"]


@dataclass(frozen=True)
class QuantizationPlan:
    """INT8 in a run.

    Attributes:
        checkpoint_is_quantized: The checkpoint holds scales; nothing is calibrated.
        settings: How a float checkpoint is quantized.
        split: Split of the calibration frames.
        data_root: Folder of the calibration frames; None where none are needed.
        info_file: Info file of the split.
        demo: What makes the frames first, where they are the demo's.
    """

    checkpoint_is_quantized: bool
    settings: PtqSettings
    split: str = "train"
    data_root: Path | None = None
    info_file: Path | None = None
    demo: DemoDataset | None = None


def plan_quantization(
    config: DeployConfig, checkpoint: Path, model_cfg: Any, source: str, *, calibrates: bool
) -> QuantizationPlan | None:
    """Holds the checkpoint against the configuration and finds the calibration frames.

    Args:
        config: The deploy configuration.
        checkpoint: An existing file.
        model_cfg: The model config.
        source: File of the configuration, for messages.
        calibrates: Whether a step of this run needs the quantized model.

    Returns:
        None for a deployment in floating point.

    Raises:
        CheckpointError: a quantized checkpoint for a float deployment, or a float one where a fine-tuned one is wanted.
        DataError: there are no calibration frames, or no such cache.
    """
    from quant.checkpoint import is_quantized_checkpoint

    quantized = is_quantized_checkpoint(checkpoint)
    if not config.quantization.enabled:
        if quantized:
            raise CheckpointError(
                f"Checkpoint '{checkpoint}' is quantized, but {source} deploys in floating point "
                f"(precision_policy '{config.backend_config.common_config.precision_policy}', quantization.enabled "
                "False). Deploy it with --precision=int8, or give the float checkpoint it was made from."
            )
        return None
    settings = _settings(config)
    if quantized:
        return QuantizationPlan(True, settings)
    if config.quantization.mode == "qat":
        raise CheckpointError(
            f"Checkpoint '{checkpoint}' is a float checkpoint, but 'quantization.mode' is 'qat': {source} deploys a "
            "fine-tuned one. Train it with the command qat, or use mode 'ptq'."
        )
    calibration = config.quantization.calibration
    if settings.calib_cache is not None:
        if not settings.calib_cache.is_file():
            raise DataError(
                f"{source}: 'quantization.calibration.cache_file' is '{settings.calib_cache}', which does not exist."
            )
        return QuantizationPlan(False, settings, calibration.split)
    if not calibrates:
        return QuantizationPlan(False, settings, calibration.split)
    data = calibration_root(config, model_cfg)
    return QuantizationPlan(False, settings, calibration.split, data.path, data.info_file, data.demo)


def _settings(config: DeployConfig) -> PtqSettings:
    section = config.quantization
    calibration, cache = section.calibration, section.calibration.cache_file
    return PtqSettings(
        num_batches=calibration.num_batches,
        # Without a histogram there is nothing to choose from.
        amax_method="max" if calibration.method == "max" else calibration.amax_method,
        fuse_bn=section.fusion.fuse_bn,
        skip_layers=section.sensitive_layers,
        method=section.method,
        engine=section.engine,
        calib_cache=input_path(cache) if cache is not None else None,
        any_cache=cache is not None,
    )
