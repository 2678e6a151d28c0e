"""What the quantization of each layer costs in accuracy, measured with the shared parts of the network run once."""

from base.lazy import lazy_attributes

_EXPORTS = {
    "Effect": "profile",
    "LayerSensitivity": "profile",
    "SensitivityFrame": "frames",
    "SensitivityProfile": "profile",
    "build_sensitivity_profile": "analysis",
    "get_sensitive_layers": "selection",
    "open_sensitivity_frames": "frames",
    "write_sensitivity_chart": "chart",
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_attributes(__name__, _EXPORTS)
