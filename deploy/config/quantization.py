"""Keys of `quantization` in a deploy configuration; part of `deploy.config.schema`."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from base.parsing import Items, NonEmptyStr, PositiveInt
from deploy.config.settings import STRICT, Section, setting
from quant.settings import DEFAULT_ENGINE, ActivationMethod, Engine, PtqMethod

__all__ = ["CalibrationConfig", "FusionConfig", "QuantizationConfig"]


@dataclass(frozen=True, config=STRICT)
class CalibrationConfig(Section):
    """Activation ranges."""

    num_batches: PositiveInt = setting(
        100, "Frames to calibrate on, evenly spaced over the split; fewer where it has fewer."
    )
    method: Literal["histogram", "max"] = setting(
        "histogram", "`histogram`: `amax_method` chooses the range. `max`: the largest value seen is the range."
    )
    amax_method: ActivationMethod = setting(
        "mse", "How a histogram becomes a range. `sparse_mse` leaves the zeros of empty BEV cells out."
    )
    split: Literal["train", "val", "test"] = setting("train", "Split to calibrate on; any but `train` is warned about.")
    data_root: NonEmptyStr | None = setting(
        None,
        "T4 dataset with that split. Unset: `runtime_io.data_root`, else $CENTERPOINT_DEMO_TRAIN_DATA (set by `bazel "
        "run //deploy:export`), else the model config's own, or generated frames as for `runtime_io.data_root`.",
    )
    info_file: NonEmptyStr | None = setting(
        None, "Info file of the split, relative to its dataset. Unset: that of the model config."
    )
    cache_file: NonEmptyStr | None = setting(
        None,
        "Calibration cache (JSON) to take the scales from; no frame is read then. One of another model is refused.",
    )


@dataclass(frozen=True, config=STRICT)
class FusionConfig(Section):
    """BatchNorm."""

    fuse_bn: bool = setting(True, "Fold BatchNorm into the convolutions before quantizing.")


@dataclass(frozen=True, config=STRICT)
class QuantizationConfig(Section):
    """INT8. A float checkpoint is quantized as these keys say; a quantized one is used as it is."""

    enabled: bool = setting(False, "Deploy a quantized model.")
    mode: Literal["ptq", "qat"] = setting("ptq", "`ptq`: post-training; `qat`: a fine-tuned checkpoint.")
    engine: Engine = setting(DEFAULT_ENGINE, "Package whose quantizers are used.")
    method: PtqMethod = setting(
        "calibrate",
        "`calibrate`: ranges alone. `bias_correction`: then make the mean of each channel right. `lidar_ptq`: sparse "
        "calibration, adaptive rounding block by block, the float model's detections as targets.",
    )
    calibration: CalibrationConfig = setting(CalibrationConfig, "Activation ranges.")
    fusion: FusionConfig = setting(FusionConfig, "BatchNorm.")
    sensitive_layers: Items[NonEmptyStr] = setting(
        tuple,
        "Layers kept in floating point: module paths (`pts_backbone.blocks.0.0`) or patterns "
        "(`pts_backbone.blocks.0.*`).",
    )
    float_precision: Literal["fp16", "fp32"] = setting("fp16", "What is not INT8 computes in: `fp16` or `fp32`.")
