"""Which model a calibration belongs to."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["architecture_fingerprint", "weights_fingerprint"]


def architecture_fingerprint(model: nn.Module) -> str:
    """SHA-256 over the layers' paths, kinds and shapes, and the names, axes and shapes of the quantizers."""
    from quant.quantizer import named_quantizers
    from quant.structure import model_fingerprint

    quantizers = [[name, q.spec.axis, list(q.scale.shape)] for name, q in named_quantizers(model).items()]
    return hashlib.sha256(json.dumps([model_fingerprint(model), quantizers]).encode()).hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 over name, type and bytes of every floating-point parameter and buffer but the quantizers' own."""
    import torch

    from quant.quantizer.base import Quantizer

    # A shared quantizer's scale stands in the state dict once for each path that leads to it.
    quantizers = tuple(
        f"{name}." for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, Quantizer)
    )
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(quantizers) or not tensor.is_floating_point():
            continue
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
