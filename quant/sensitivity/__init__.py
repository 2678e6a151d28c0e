"""What the quantization of each layer costs in accuracy, measured with the shared parts of the network run once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from quant.sensitivity.analysis import build_sensitivity_profile
    from quant.sensitivity.chart import write_sensitivity_chart
    from quant.sensitivity.frames import SensitivityFrame, open_sensitivity_frames
    from quant.sensitivity.profile import Effect, LayerSensitivity, SensitivityProfile
    from quant.sensitivity.selection import get_sensitive_layers

__all__ = [
    "Effect",
    "LayerSensitivity",
    "SensitivityFrame",
    "SensitivityProfile",
    "build_sensitivity_profile",
    "get_sensitive_layers",
    "open_sensitivity_frames",
    "write_sensitivity_chart",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Effect": "profile",
        "LayerSensitivity": "profile",
        "SensitivityFrame": "frames",
        "SensitivityProfile": "profile",
        "build_sensitivity_profile": "analysis",
        "get_sensitive_layers": "selection",
        "open_sensitivity_frames": "frames",
        "write_sensitivity_chart": "chart",
    },
)
