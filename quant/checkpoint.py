"""Checkpoints of quantized models: weights, scales and what is quantized how, in one file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.checks import settle
from base.errors import CheckpointError, ConfigError
from base.files import atomic_path
from base.lazy import require
from base.untrusted import load_weights_file
from models.build import is_quantized
from models.checkpoint_forms import find_weights
from models.consistency import compare_checkpoint
from models.weights import check_kinds
from quant.quantizer import named_quantizers
from quant.structure import QuantizationStructure, as_switched, quantization_structure
from quant.utils import idle_quantizers

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
        model: A quantized model, on any device. Layers that are switched to floating point are saved as such.
        path: The file; it is whole or absent.
        structure: What is quantized; None: what `model` says of itself.
        meta: Where it came from: numbers, strings and containers of them; no times, or the bytes are never equal.

    Raises:
        ConfigError: the model is not quantized, or a quantizer has no scale.
    """
    from quant.state_dict import without_scales_of_others

    torch = require("torch", "to write a checkpoint")
    structure = as_switched(structure or quantization_structure(model), model)
    idle = idle_quantizers(model)
    missing = [name for name, q in named_quantizers(model).items() if not q.is_calibrated and name not in idle]
    if missing:
        raise ConfigError(
            f"{len(missing)} quantizers have no scale ({', '.join(missing[:_LISTED])}…): calibrate the model "
            "before it is saved."
        )
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    state = without_scales_of_others(state, structure)
    buffer = io.BytesIO()
    torch.save({"state_dict": state, _KEY: structure.to_json(), "meta": dict(meta or {})}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Path(path)


def load_ptq_model(model: nn.Module, path: str | Path) -> QuantizationStructure:
    """Makes a float model the quantized one that was saved, in place: structure, weights and scales.

    Args:
        model: A float model from `models.build_model`, in evaluation mode; its weights are replaced.
        path: A file of `save_ptq_model`; or `torch.save` of `{'state_dict': quantized.state_dict()}`, of the bare
            state dict or of another form of it (`models.checkpoint_forms`), whose keys say what is quantized
            (`quant.state_dict`).

    Returns:
        What is quantized; also kept as `model.quantization_structure`.

    Raises:
        CheckpointError: the file is missing, unsafe, a float checkpoint, or of another model.
    """
    from quant.fusion.bn_fusion import fuse_model_bn
    from quant.replace import apply_structure, check_structure
    from quant.state_dict import structure_of_state, without_scales_of_others

    checkpoint = load_weights_file(path)
    if not is_quantized(checkpoint):
        raise CheckpointError(
            f"Checkpoint '{path}' is a float checkpoint, and a quantized one was expected. Load it with "
            "models.load_checkpoint and quantize it (quant.quantize_ptq, or the command ptq)."
        )
    text = checkpoint.get(_KEY)
    if not isinstance(text, str | None) or (text is not None and not isinstance(checkpoint.get("state_dict"), Mapping)):
        raise CheckpointError(f"Checkpoint '{path}': '{_KEY}' or 'state_dict' is not what save_ptq_model writes.")
    # Names of the float model are most of the quantized one's; the rest is beside them.
    state = find_weights(checkpoint, model.state_dict(), f"Checkpoint '{path}'").state
    settle(compare_checkpoint(checkpoint, model, f"Checkpoint '{path}'", must_say=False))
    try:
        if text is None:
            structure = structure_of_state(model, state)
            state = without_scales_of_others(state, structure)
        else:
            structure = QuantizationStructure.from_json(text, f"Checkpoint '{path}'")
            check_structure(model, structure)
        if structure.fuse_bn:
            fuse_model_bn(model)
        apply_structure(model, structure)
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint '{path}': {error}") from error
    check_kinds(state, model.state_dict(), f"Checkpoint '{path}'")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first_lines = " ".join(line.strip() for line in str(error).splitlines()[:_LISTED])
        raise CheckpointError(f"Checkpoint '{path}' does not fit the model config: {first_lines}") from error
    broken = [key for key, value in model.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"Checkpoint '{path}' holds NaN or infinite values in {', '.join(broken[:_LISTED])}. A scale that is NaN "
            "was never calibrated."
        )
    return structure


def is_quantized_checkpoint(path: str | Path) -> bool:
    """Whether a checkpoint is a quantized model's, in any of the forms that `load_ptq_model` reads.

    Raises:
        CheckpointError: the file is missing, broken or unsafe.
    """
    return is_quantized(load_weights_file(path))
