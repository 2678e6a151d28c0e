"""The engine `pytorch_quantization`: that package's TensorQuantizer behind the common interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytorch_quantization.nn import TensorQuantizer
from pytorch_quantization.tensor_quant import QuantDescriptor

from quant.quantizer.base import Quantizer, QuantizerSpec, fake_quantize

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PytorchQuantizationQuantizer"]


class _TensorQuantizer(TensorQuantizer):
    """A TensorQuantizer whose range is its holder's scale.

    It always takes the package's "native fake quantization" (`use_fb_fake_quant`, there a switch of the whole process),
    whose numbers are those of QuantizeLinear and DequantizeLinear to the last bit, and which runs in one kernel.
    """

    def __init__(self, holder: Quantizer) -> None:
        super().__init__(QuantDescriptor(num_bits=holder.spec.num_bits, axis=holder.spec.axis))
        # In a tuple, or torch would take the holder for a child of its child.
        self._holder = (holder,)

    @property
    def _amax(self) -> Tensor:
        return self._holder[0].amax

    def _quant_forward(self, inputs: Tensor) -> Tensor:
        holder = self._holder[0]
        return fake_quantize(inputs, holder.scale, holder.spec.axis)


class PytorchQuantizationQuantizer(Quantizer):
    """A quantizer on pytorch-quantization's `TensorQuantizer` (attribute `tensor_quantizer`)."""

    def __init__(self, spec: QuantizerSpec, channels: int | None = None) -> None:
        super().__init__(spec, channels)
        self.tensor_quantizer: Any = _TensorQuantizer(self)

    def _fake_quantize(self, x: Tensor) -> Tensor:
        quantized: Tensor = self.tensor_quantizer(x)
        return quantized
