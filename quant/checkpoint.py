"""Checkpoints of quantized models: weights, scales and what is quantized how, in one file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import CheckpointError, ConfigError
from base.files import atomic_path
from base.lazy import require
from base.untrusted import load_weights_file
from models.weights import check_kinds
from quant.quantizer import named_quantizers
from quant.structure import QuantizationStructure, quantization_structure

if TYPE_CHECKING:
    from torch import nn

__all__ = ["is_quantized_checkpoint", "load_ptq_model", "save_ptq_model"]

_KEY = "quantization"
_LISTED = 3


def save_ptq_model(
    model: nn.Module,
    path: str | Path,
    structure: QuantizationStructure | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `{'state_dict', 'quantization', 'meta'}`; equal models give equal bytes, whatever the file is called.

    Args:
        model: A quantized model, on any device.
        path: The file; it is whole or absent.
        structure: What is quantized; None: what `model` says of itself.
        meta: Where it came from: numbers, strings and containers of them; no times, or the bytes are never equal.

    Raises:
        ConfigError: the model is not quantized, or a quantizer has no scale.
    """
    torch = require("torch", "to write a checkpoint")
    structure = structure or quantization_structure(model)
    missing = [name for name, quantizer in named_quantizers(model).items() if not quantizer.is_calibrated]
    if missing:
        raise ConfigError(
            f"{len(missing)} quantizers have no scale ({', '.join(missing[:_LISTED])}…): calibrate the model "
            "before it is saved."
        )
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": state, _KEY: structure.to_json(), "meta": dict(meta or {})}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Path(path)


def load_ptq_model(model: nn.Module, path: str | Path) -> QuantizationStructure:
    """Makes a float model the quantized one that was saved, in place: structure, weights and scales.

    Args:
        model: A float model from `models.build_model`, in evaluation mode; its weights are replaced.
        path: A file of `save_ptq_model`.

    Returns:
        What is quantized; also kept as `model.quantization_structure`.

    Raises:
        CheckpointError: the file is missing, unsafe, a float checkpoint, or of another model.
    """
    from quant.fusion.bn_fusion import fuse_model_bn
    from quant.replace import apply_structure, check_structure

    checkpoint = load_weights_file(path)
    text, state = checkpoint.get(_KEY), checkpoint.get("state_dict")
    if text is None:
        raise CheckpointError(
            f"Checkpoint '{path}' is a float checkpoint, and a quantized one was expected. Load it with "
            "models.load_checkpoint and quantize it (quant.quantize_ptq, or the command ptq)."
        )
    if not isinstance(text, str) or not isinstance(state, Mapping):
        raise CheckpointError(f"Checkpoint '{path}': '{_KEY}' or 'state_dict' is not what save_ptq_model writes.")
    structure = QuantizationStructure.from_json(text, f"Checkpoint '{path}'")
    try:
        check_structure(model, structure)
        if structure.fuse_bn:
            fuse_model_bn(model)
        apply_structure(model, structure)
        check_kinds(state, model.state_dict(), "it")
        model.load_state_dict(state, strict=True)
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint '{path}': {error}") from error
    except RuntimeError as error:
        first_lines = " ".join(line.strip() for line in str(error).splitlines()[:_LISTED])
        raise CheckpointError(f"Checkpoint '{path}' does not fit the model config: {first_lines}") from error
    broken = [key for key, value in model.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(f"Checkpoint '{path}' holds NaN or infinite values in {', '.join(broken[:_LISTED])}.")
    return structure


def is_quantized_checkpoint(path: str | Path) -> bool:
    """Whether a checkpoint is one of `save_ptq_model`.

    Raises:
        CheckpointError: the file is missing, broken or unsafe.
    """
    return _KEY in load_weights_file(path)
