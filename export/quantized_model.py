"""The INT8 model of a deployment: quantized from a float checkpoint, or read from a quantized one."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec
    from quant.calibration.calibrator import CalibrationManager
    from quant.settings import PtqSettings
    from quant.structure import QuantizationStructure

__all__ = [
    "QuantizedModel",
    "align_biases",
    "float_twin",
    "planned_layers",
    "quantize_float_model",
    "read_quantized_model",
    "save_quantized_model",
]

_WEIGHTED = ("conv2d", "conv_transpose2d", "linear")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A model with calibrated quantizers.

    Attributes:
        model: The mmdet3d model with quantized layers.
        structure: What is quantized.
        facts: What a manifest says of it: method, frames, hash of the scales.
        calibration: The manager that calibrated it, for its cache; None where a checkpoint brought the scales.
    """

    model: nn.Module
    structure: QuantizationStructure
    facts: dict[str, Any]
    calibration: CalibrationManager | None = None


def quantize_float_model(
    model: nn.Module,
    spec: ModelSpec,
    batches: Iterable[Any] | None,
    settings: PtqSettings,
    parts: Sequence[Path] = (),
) -> QuantizedModel:
    """Quantizes `model` in place, but for its voxel encoder and its last convolutions.

    Args:
        model: mmdet3d's CenterPoint with trained weights, in evaluation mode.
        spec: Its specification.
        batches: Canvases of calibration frames; unused, and may be None, with a cache.
        settings: How.
        parts: Files of `quant.ptq.write_ptq_part`, in place of a pass over the frames.

    Raises:
        ConfigError: a layer of `skip_layers` does not exist; a method that needs frames has none.
        DataError: no calibration frame, NaN or infinite activations, a cache of another model, or parts of another
            calibration.
    """
    if batches is None and (settings.calib_cache is None or settings.method != "calibrate"):
        raise ConfigError(f"Quantization by '{settings.method}' needs calibration frames.")
    if settings.method != "calibrate" and settings.calib_cache is not None:
        raise ConfigError(
            f"'calibration.cache_file' holds scales alone; method '{settings.method}' changes weights too and needs "
            "frames. Leave cache_file out."
        )
    from quant.ptq import run_ptq

    manager = run_ptq(model, batches if batches is not None else (), settings, spec=spec, parts=parts)
    structure = _structure_of(model)
    align_biases(model)
    if settings.method != "calibrate":
        return QuantizedModel(model, structure, _facts(model, structure, {"method": settings.method}))
    result = manager.result
    if settings.calib_cache is None and result.num_frames < settings.num_batches:
        _logger.warning(
            "   calibrated on %d frames, not on %d: the split has no more", result.num_frames, settings.num_batches
        )
    facts = {
        "method": settings.method,
        "amax_method": result.amax_method,
        "weight_method": result.weight_method,
        "num_frames": result.num_frames,
        "frames_sha256": result.tokens_sha256,
    }
    return QuantizedModel(model, structure, _facts(model, structure, facts), manager)


def read_quantized_model(model: nn.Module, path: Path) -> QuantizedModel:
    """Makes a float model, in place, the quantized one of a checkpoint.

    Raises:
        CheckpointError: the checkpoint is a float one, or of another model.
    """
    from quant.checkpoint import load_ptq_model

    structure = load_ptq_model(model, path)
    align_biases(model)
    return QuantizedModel(model, structure, _facts(model, structure, {"method": "checkpoint"}))


def align_biases(model: nn.Module) -> None:
    """Rounds the bias of every quantized layer to a multiple of input scale times weight scale, in place.

    That is the step of the integer sums a kernel adds it to. Kernels that hold it as INT32 (ONNX Runtime's among them)
    round it themselves, by half a step of a sum of thousands: nothing for accuracy, but where the scene is empty a
    whole area has one value, and if that lies between two codes the area ends up a code away from PyTorch. Rounded
    here, every backend adds the same number. A second call changes nothing.
    """
    import torch

    from quant.modules.layer import WeightedLayer

    for layer in model.modules():
        bias = getattr(layer, "bias", None)
        if not isinstance(layer, WeightedLayer) or not layer.quantized or not isinstance(bias, torch.Tensor):
            continue
        step = layer.input_quantizer.scale.double() * layer.weight_quantizer.scale.double()
        with torch.no_grad():
            bias.copy_(torch.round(bias.double() / step) * step)


def save_quantized_model(quantized: QuantizedModel, folder: Path) -> tuple[Path, ...]:
    """Writes `checkpoint.pth`, which deploys without calibration, and `calibration.json` where there was one.

    Raises:
        UserError: a file cannot be written.
    """
    from quant.checkpoint import save_ptq_model

    folder.mkdir(parents=True, exist_ok=True)
    # Pickle writes a string that occurs twice once, if both are one object: chance, unless all of them are new.
    facts = json.loads(json.dumps(quantized.facts, sort_keys=True))
    written = [save_ptq_model(quantized.model, folder / "checkpoint.pth", quantized.structure, facts)]
    if quantized.calibration is not None:
        quantized.calibration.save_calib_cache(folder / "calibration.json")
        written.append(folder / "calibration.json")
    return tuple(written)


def planned_layers(structure: QuantizationStructure) -> dict[str, bool]:
    """Path -> whether it is quantized, of every layer with weights: what an exported graph is held against."""
    return {layer.path: layer.quantized for layer in structure.layers if layer.kind in _WEIGHTED}


def float_twin(quantized: nn.Module) -> nn.Module:
    """A copy of a quantized model without its quantizers: the same weights in floating point."""
    from quant.replace import unquant_model

    twin = copy.deepcopy(quantized)
    unquant_model(twin)
    return twin


def _structure_of(model: nn.Module) -> QuantizationStructure:
    from quant.structure import quantization_structure

    return quantization_structure(model)


def _facts(model: nn.Module, structure: QuantizationStructure, how: dict[str, Any]) -> dict[str, Any]:
    from quant.structure import scales_fingerprint

    layers = planned_layers(structure)
    return {
        **how,
        "engine": structure.engine,
        "fuse_bn": structure.fuse_bn,
        "quantized_layers": sum(layers.values()),
        "float_layers": sorted(path for path, quantized in layers.items() if not quantized),
        "scales_sha256": scales_fingerprint(model),
        "structure_sha256": hashlib.sha256(structure.to_json().encode()).hexdigest(),
    }
