"""What every engine's quantizer offers, and the one rule for the numbers they use.

A quantizer replaces x by s * clamp(round(x / s), -128, 127), rounding halves to even: QuantizeLinear and
DequantizeLinear of ONNX, with zero point 0. Its gradient is 1 where x lies within the codes' range and 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from base.errors import ConfigError, DataError
from base.int8 import INT8_MAX, INT8_MIN, scale_of_amax

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "INT8_MAX",
    "INT8_MIN",
    "SCALE",
    "Quantizer",
    "QuantizerSpec",
    "fake_quantize",
    "round_scale",
    "scale_from_amax",
]

SCALE = "scale"
"""Name of the buffer, and the end of its key in a state dict."""

# Bits of a scale that are kept: exact in FP16 (11 bits) and BF16 (8 bits).
_SCALE_BITS = 8
# FP16's smallest step: below 2**-17 even eight bits cannot be kept.
_SMALLEST_STEP = 2.0**-24
_FP16_MAX = 65504.0


@dataclass(frozen=True)
class QuantizerSpec:
    """What a quantizer does to a tensor.

    Attributes:
        num_bits: Width of the integer type; 8.
        axis: Dimension with a scale of its own for each index; None: one scale for the tensor.
    """

    num_bits: int = 8
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.num_bits != 8:
            raise ConfigError(f"num_bits is {self.num_bits}; ONNX and TensorRT kernels of this project are for 8.")


def round_scale(scale: Tensor, *, up: bool = False) -> Tensor:
    """Rounds positive scales to eight significant bits, exact in FP16 as well.

    Args:
        scale: Any shape, positive and finite.
        up: Never below the given scale, so that no value of the range it was made for is clipped; else to the nearest.

    Returns:
        float32 of the same shape, at least 2**-24.

    Raises:
        DataError: a scale is NaN, infinite, negative or beyond FP16's range.
    """
    wide = scale.detach().to(torch.float64)
    if not bool(torch.isfinite(wide).all()) or bool((wide < 0).any()) or bool((wide > _FP16_MAX).any()):
        bad = wide[~torch.isfinite(wide) | (wide < 0) | (wide > _FP16_MAX)].flatten()[0].item()
        raise DataError(
            f"A quantization scale is {bad:g}; scales lie between 0 and {_FP16_MAX:g}. NaN or infinite activations are "
            "the usual reason: check the calibration frames and the checkpoint."
        )
    _, exponent = torch.frexp(wide.clamp_min(_SMALLEST_STEP))
    step = torch.ldexp(torch.ones_like(wide), exponent - _SCALE_BITS).clamp_min(_SMALLEST_STEP)
    steps = torch.ceil(wide / step) if up else torch.round(wide / step)
    return (steps * step).clamp_min(_SMALLEST_STEP).to(torch.float32)


def scale_from_amax(amax: Tensor, *, up: bool = False) -> Tensor:
    """The scale at which `amax`, a largest magnitude, becomes the code 127; see `round_scale`."""
    return round_scale(scale_of_amax(amax.detach().to(torch.float64)), up=up)


def fake_quantize(x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
    """`x` on the grid of `scale`, computed in float32; same shape and dtype as `x`. No transfer between devices.

    Args:
        x: Any floating dtype; under autocast activations arrive in half precision.
        scale: float32, shape () or (x.shape[axis],).
        axis: Dimension that `scale` belongs to; None for one scale.
    """
    # By channel, zero points in floating point: integer ones are checked on the host, which waits for the GPU.
    wide, step = x.float(), scale.float()
    if axis is None:
        zero_point = torch.zeros((), dtype=torch.int32, device=scale.device)
        quantized = torch.fake_quantize_per_tensor_affine(wide, step, zero_point, INT8_MIN, INT8_MAX)
    else:
        zero_points = torch.zeros_like(step)
        quantized = torch.fake_quantize_per_channel_affine(wide, step, zero_points, axis, INT8_MIN, INT8_MAX)
    return quantized.to(x.dtype)


class Quantizer(nn.Module):
    """A tensor's quantizer: identity until it has a scale and is enabled.

    Attributes:
        spec: What it does.
        scale: Buffer, float32, shape () or (channels,); NaN until `set_scale`.
        enabled: Whether `forward` quantizes.
        observer: Sees every input of `forward` while set, before quantization.
    """

    scale: Tensor

    def __init__(self, spec: QuantizerSpec, channels: int | None = None) -> None:
        """Makes an enabled quantizer without a scale.

        Args:
            spec: What it does.
            channels: Length of `spec.axis`; None for one scale.

        Raises:
            ConfigError: `channels` is given without an axis, or the reverse.
        """
        super().__init__()
        if (spec.axis is None) != (channels is None):
            raise ConfigError(f"A quantizer along axis {spec.axis} needs a number of channels; got {channels}.")
        self.spec = spec
        self.enabled = True
        self.observer: Callable[[Tensor], None] | None = None
        self.register_buffer(SCALE, torch.full(() if channels is None else (channels,), torch.nan))
        self._has_scale = False

    @property
    def is_calibrated(self) -> bool:
        """Whether it has a scale. Once it has, asking costs nothing: no value is read from a GPU again."""
        if not self._has_scale:
            self._has_scale = bool(torch.isfinite(self.scale).all())
        return self._has_scale

    @property
    def amax(self) -> Tensor:
        """The magnitude that becomes the code 127, shape of `scale`."""
        return self.scale.float() * INT8_MAX

    def set_scale(self, scale: Tensor, *, up: bool = False) -> None:
        """Sets the scale, rounded by `round_scale`.

        Raises:
            DataError: it is no valid scale.
            ConfigError: its shape is not this quantizer's.
        """
        if scale.shape != self.scale.shape:
            raise ConfigError(f"A scale of shape {tuple(scale.shape)} does not fit one of {tuple(self.scale.shape)}.")
        self.scale.copy_(round_scale(scale, up=up))
        self._has_scale = True

    def forward(self, x: Tensor) -> Tensor:
        """`x`, observed and fake-quantized; same shape and dtype.

        Raises:
            ConfigError: it is enabled, has no scale, and nothing observes it.
        """
        if self.observer is not None:
            self.observer(x)
        if not self.enabled:
            return x
        if not self.is_calibrated:
            if self.observer is not None:
                return x
            raise ConfigError("A quantizer is enabled without a scale: calibrate the model, or load a calibration.")
        return _traced(x, self) if torch.onnx.is_in_onnx_export() else self._fake_quantize(x)

    def _fake_quantize(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # What was loaded may be a scale or none: look again at the next use.
        self._has_scale = False

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        where = "per tensor" if self.spec.axis is None else f"axis {self.spec.axis}"
        state = "enabled" if self.enabled else "disabled"
        return f"INT{self.spec.num_bits} {where}, {state}, {'calibrated' if self.is_calibrated else 'no scale'}"


def _traced(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Operators that the exporter writes as QuantizeLinear and DequantizeLinear."""
    axis, scale = quantizer.spec.axis, quantizer.scale
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, float(scale), 0, INT8_MIN, INT8_MAX)
    zero_points = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(x, scale, zero_points, axis, INT8_MIN, INT8_MAX)
