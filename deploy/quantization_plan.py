"""What a run does about INT8: which checkpoint it has, and which frames it calibrates on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.errors import CheckpointError, DataError
from deploy.config.paths import input_path, repository_root
from deploy.config.schema import DeployConfig
from deploy.quantized_model import QuantizationSettings

__all__ = ["DEMO_TRAIN_DATA_VARIABLE", "QuantizationPlan", "plan_quantization"]

DEMO_TRAIN_DATA_VARIABLE = "CENTERPOINT_DEMO_TRAIN_DATA"
_GENERATE = (
    "Generate one with: python -m datasets.synthetic --out data/calibration --split train --train-scenes 25 "
    "--frames-per-scene 4, and name it in quantization.calibration.data_root."
)


@dataclass(frozen=True)
class QuantizationPlan:
    """INT8 in a run.

    Attributes:
        checkpoint_is_quantized: The checkpoint holds scales; nothing is calibrated.
        settings: How a float checkpoint is quantized.
        split: Split of the calibration frames.
        data_root: Folder of the calibration frames; None where none are needed.
        info_file: Info file of the split.
    """

    checkpoint_is_quantized: bool
    settings: QuantizationSettings
    split: str = "train"
    data_root: Path | None = None
    info_file: Path | None = None


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
    if settings.cache_file is not None:
        if not settings.cache_file.is_file():
            raise DataError(
                f"{source}: 'quantization.calibration.cache_file' is '{settings.cache_file}', which does not exist."
            )
        return QuantizationPlan(False, settings, calibration.split)
    if not calibrates:
        return QuantizationPlan(False, settings, calibration.split)
    root, key = _data_root(config, model_cfg, calibration.split)
    info = root / model_cfg[f"{calibration.split}_dataloader"].dataset.ann_file
    if not info.is_file():
        raise DataError(
            f"Calibration reads split '{calibration.split}', but dataset '{root}' ({key}) has no "
            f"'{info.name}'. {_GENERATE}"
        )
    return QuantizationPlan(False, settings, calibration.split, root, info)


def _settings(config: DeployConfig) -> QuantizationSettings:
    section = config.quantization
    cache = section.calibration.cache_file
    return QuantizationSettings(
        engine=section.engine,
        method=section.method,
        collection=section.calibration.method,
        amax_method=section.calibration.amax_method,
        num_batches=section.calibration.num_batches,
        fuse_bn=section.fusion.fuse_bn,
        skip_layers=section.sensitive_layers,
        cache_file=input_path(cache) if cache is not None else None,
    )


def _data_root(config: DeployConfig, model_cfg: Any, split: str) -> tuple[Path, str]:
    demo = os.environ.get(DEMO_TRAIN_DATA_VARIABLE)
    named = config.quantization.calibration.data_root
    if named is not None:
        return input_path(named), "quantization.calibration.data_root"
    if config.runtime_io.data_root is not None:
        return input_path(config.runtime_io.data_root), "runtime_io.data_root"
    if demo:
        # Set by the build, relative to its own tree rather than to the user's folder.
        return repository_root() / demo, DEMO_TRAIN_DATA_VARIABLE
    loader = model_cfg.get(f"{split}_dataloader")
    own = loader.dataset.get("data_root") if loader is not None else None
    if own is None:
        raise DataError(f"No dataset to calibrate on: the model config names none for split '{split}'. {_GENERATE}")
    return input_path(own), "model config"
