"""INT8: quantized modules, calibration, post-training quantization, sensitivity and quantization-aware training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from quant.calibration.calibrator import CalibrationManager
    from quant.checkpoint import load_ptq_model, save_ptq_model
    from quant.fusion.bn_fusion import fuse_model_bn
    from quant.hooks.qat_hook import QATHook
    from quant.ptq import quantize_ptq
    from quant.replace import quant_conv_module, quant_linear_module, quant_model, unquant_model
    from quant.sensitivity import build_sensitivity_profile, get_sensitive_layers
    from quant.structure import QuantizationStructure
    from quant.utils import disable_quantization, enable_quantization, print_quantizer_status

__all__ = [
    "CalibrationManager",
    "QATHook",
    "QuantizationStructure",
    "build_sensitivity_profile",
    "disable_quantization",
    "enable_quantization",
    "fuse_model_bn",
    "get_sensitive_layers",
    "load_ptq_model",
    "print_quantizer_status",
    "quant_conv_module",
    "quant_linear_module",
    "quant_model",
    "quantize_ptq",
    "save_ptq_model",
    "unquant_model",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "CalibrationManager": "calibration.calibrator",
        "QATHook": "hooks.qat_hook",
        "QuantizationStructure": "structure",
        "build_sensitivity_profile": "sensitivity",
        "disable_quantization": "utils",
        "enable_quantization": "utils",
        "fuse_model_bn": "fusion.bn_fusion",
        "get_sensitive_layers": "sensitivity",
        "load_ptq_model": "checkpoint",
        "print_quantizer_status": "utils",
        "quant_conv_module": "replace",
        "quant_linear_module": "replace",
        "quant_model": "replace",
        "quantize_ptq": "ptq",
        "save_ptq_model": "checkpoint",
        "unquant_model": "replace",
    },
)
