"""Device memory, streams, events and kernels through cuda-python; needs no PyTorch."""

from __future__ import annotations

from base.lazy import lazy_attributes

__all__ = ["CudaDevice", "DeviceChain"]

__getattr__ = lazy_attributes(__name__, {"CudaDevice": "device", "DeviceChain": "chain"})
