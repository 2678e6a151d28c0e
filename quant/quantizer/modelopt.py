"""The engine `modelopt`: nvidia-modelopt's TensorQuantizer behind the common interface. Its import takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelopt.torch.quantization.config import QuantizerAttributeConfig
from modelopt.torch.quantization.nn import TensorQuantizer
from modelopt.torch.quantization.nn.modules.tensor_quantizer import register_quant_backend

from quant.quantizer.base import Quantizer, QuantizerSpec, fake_quantize

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ModeloptQuantizer"]

_BACKEND = "centerpoint_int8"


class _TensorQuantizer(TensorQuantizer):
    """A TensorQuantizer whose range is its holder's scale, and whose arithmetic is the backend registered below."""

    def __init__(self, holder: Quantizer) -> None:
        # In a tuple, or torch would take the holder for a child of its child; before the constructor, which asks for
        # the range.
        object.__setattr__(self, "_holder", (holder,))
        super().__init__(
            QuantizerAttributeConfig(num_bits=holder.spec.num_bits, axis=holder.spec.axis, backend=_BACKEND)
        )
        self._holder = (holder,)

    @property
    def _amax(self) -> Tensor:
        return self._holder[0].amax


def _quantize(inputs: Tensor, quantizer: Any) -> Tensor:
    """The package's own kernel is compiled on first use with nvcc, where there is one, and differs in the last bit."""
    holder = quantizer._holder[0]
    return fake_quantize(inputs, holder.scale, holder.spec.axis)


register_quant_backend(_BACKEND, _quantize)


class ModeloptQuantizer(Quantizer):
    """A quantizer on nvidia-modelopt's `TensorQuantizer` (attribute `tensor_quantizer`)."""

    def __init__(self, spec: QuantizerSpec, channels: int | None = None) -> None:
        super().__init__(spec, channels)
        self.tensor_quantizer: Any = _TensorQuantizer(self)

    def _fake_quantize(self, x: Tensor) -> Tensor:
        quantized: Tensor = self.tensor_quantizer(x)
        return quantized
