"""Device memory, streams, events and kernels through cuda-python; needs no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from base.lazy import lazy_attributes

if TYPE_CHECKING:
    from runtime.cuda.chain import DeviceChain
    from runtime.cuda.device import CudaDevice

__all__ = ["CudaDevice", "DeviceChain"]

__getattr__ = lazy_attributes(__name__, {"CudaDevice": "device", "DeviceChain": "chain"})
