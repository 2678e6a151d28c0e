"""Keys of `quantization` in a deploy configuration; part of `deploy.config.schema`."""

# `setting` returns a dataclass field, exactly as `field` does.
# ruff: noqa: RUF009

from __future__ import annotations

from dataclasses import dataclass

from deploy.config.settings import setting

__all__ = ["CalibrationConfig", "FusionConfig", "QuantizationConfig"]

SPLITS = ("train", "val", "test")
QUANTIZER_ENGINES = ("pytorch_quantization", "modelopt")


@dataclass(frozen=True)
class CalibrationConfig:
    """Activation ranges."""

    num_batches: int = setting(
        100, "Frames to calibrate on, evenly spaced over the split; fewer where it has fewer.", minimum=1
    )
    method: str = setting(
        "histogram",
        "`histogram`: `amax_method` chooses the range. `max`: the largest value seen is the range.",
        choices=("histogram", "max"),
    )
    amax_method: str = setting(
        "mse",
        "How a histogram becomes a range. `sparse_mse` leaves the zeros of empty BEV cells out.",
        choices=("mse", "sparse_mse", "entropy", "percentile", "max"),
    )
    split: str = setting("train", "Split to calibrate on; any but `train` is warned about.", choices=SPLITS)
    data_root: str | None = setting(
        None,
        "T4 dataset with that split. Unset: `runtime_io.data_root`, else $CENTERPOINT_DEMO_TRAIN_DATA (set by `bazel "
        "run //deploy:export`), else the model config's own, or generated frames as for `runtime_io.data_root`.",
    )
    cache_file: str | None = setting(
        None,
        "Calibration cache (JSON) to take the scales from; no frame is read then. One of another model is refused.",
    )


@dataclass(frozen=True)
class FusionConfig:
    """BatchNorm."""

    fuse_bn: bool = setting(True, "Fold BatchNorm into the convolutions before quantizing.")


@dataclass(frozen=True)
class QuantizationConfig:
    """INT8. A float checkpoint is quantized as these keys say; a quantized one is used as it is."""

    enabled: bool = setting(False, "Deploy a quantized model.")
    mode: str = setting("ptq", "`ptq`: post-training; `qat`: a fine-tuned checkpoint.", choices=("ptq", "qat"))
    engine: str = setting("pytorch_quantization", "Package whose quantizers are used.", choices=QUANTIZER_ENGINES)
    method: str = setting(
        "calibrate",
        "`calibrate`: ranges alone. `bias_correction`: then make the mean of each channel right. `lidar_ptq`: sparse "
        "calibration, adaptive rounding block by block, the float model's detections as targets.",
        choices=("calibrate", "bias_correction", "lidar_ptq"),
    )
    calibration: CalibrationConfig = setting(CalibrationConfig, "Activation ranges.")
    fusion: FusionConfig = setting(FusionConfig, "BatchNorm.")
    sensitive_layers: tuple[str, ...] = setting(
        tuple,
        "Layers kept in floating point: module paths (`pts_backbone.blocks.0.0`) or patterns "
        "(`pts_backbone.blocks.0.*`).",
    )
    float_precision: str = setting("fp16", "What is not INT8 computes in: `fp16` or `fp32`.", choices=("fp16", "fp32"))
