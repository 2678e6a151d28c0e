"""The calibration cache: scales in a JSON file, checked before one of them is used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import DataError
from base.files import write_json
from base.parsing import parse
from base.sealed import Sealed
from quant.calibration.identity import architecture_fingerprint, weights_fingerprint
from quant.calibration.result import CalibrationResult, QuantizerCalibration
from quant.forms import CacheForm

if TYPE_CHECKING:
    from torch import nn

__all__ = ["read_cache", "write_cache"]

_LARGEST_SCALE = 65504.0  # of FP16
_REMEDY = "Calibrate again."
_DOCUMENTS = Sealed(
    "int8 calibration",
    1,
    "calibration cache",
    "Give the file that save_calib_cache wrote.",
    _REMEDY,
    separators=(", ", ": "),
)


def write_cache(result: CalibrationResult, path: str | Path) -> None:
    """Writes `result` without its histograms."""
    content = {
        "amax_method": result.amax_method,
        "weight_method": result.weight_method,
        "percentile": result.percentile,
        "frames": {"count": result.num_frames, "tokens_sha256": result.tokens_sha256},
        "model": {"architecture": result.architecture, "weights_sha256": result.weights_sha256},
        "quantizers": [{"name": name, **dataclasses.asdict(entry)} for name, entry in result.quantizers.items()],
    }
    write_json(path, _DOCUMENTS.sealed(content))


def read_cache(path: str | Path, model: nn.Module, required: frozenset[str]) -> CalibrationResult:
    """Reads what `write_cache` wrote.

    Args:
        model: The quantized model that it must belong to.
        required: Names of quantizers that must have a scale.

    Raises:
        DataError: the file is missing, truncated, changed, of another model or other weights, lacks a quantizer, names
            an unknown one, or holds an invalid scale.
    """
    content = _DOCUMENTS.read(path)
    try:
        result = _result(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"'{path}' is a broken calibration cache: {error!r}. {_REMEDY}") from error
    parse(CacheForm, content, file=path, remedy=_REMEDY)
    _check_model(path, result, model)
    _check_quantizers(path, result.quantizers, model, required)
    return result


def _result(content: dict[str, Any]) -> CalibrationResult:
    entries = {}
    for row in content["quantizers"]:
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        name = str(values.pop("name"))
        entries[name] = QuantizerCalibration(**values)
    return CalibrationResult(
        amax_method=content["amax_method"],
        weight_method=content["weight_method"],
        percentile=content["percentile"],
        num_frames=int(content["frames"]["count"]),
        tokens_sha256=content["frames"]["tokens_sha256"],
        architecture=content["model"]["architecture"],
        weights_sha256=content["model"]["weights_sha256"],
        quantizers=entries,
    )


def _check_model(path: str | Path, result: CalibrationResult, model: nn.Module) -> None:
    from quant.quantizer import named_quantizers

    if result.architecture != architecture_fingerprint(model):
        here, there = set(named_quantizers(model)), set(result.quantizers)
        difference = "; ".join(
            f"{len(names)} quantizers only in {where}, such as '{min(names)}'"
            for where, names in (("the model", here - there), ("the cache", there - here))
            if names
        )
        raise DataError(
            f"Calibration cache '{path}' belongs to another model, or to one quantized in other layers: "
            f"{difference or 'layers of other shapes'}. Use the model config and skip_layers that it was made with, or "
            "calibrate again."
        )
    if result.weights_sha256 != weights_fingerprint(model):
        raise DataError(
            f"Calibration cache '{path}' was made with other weights of this architecture; its activation scales do "
            "not fit. Use the checkpoint (and BatchNorm folding) that it was made with, or calibrate again."
        )


def _check_quantizers(
    path: str | Path, entries: Mapping[str, QuantizerCalibration], model: nn.Module, required: frozenset[str]
) -> None:
    import torch

    from quant.quantizer import named_quantizers
    from quant.quantizer.base import round_scale

    quantizers = named_quantizers(model)
    missing, unknown = sorted(required - set(entries)), sorted(set(entries) - set(quantizers))
    if missing or unknown:
        raise DataError(
            f"Calibration cache '{path}' lacks quantizers {missing} and holds unknown ones {unknown}; it is of another "
            f"model. {_REMEDY}"
        )
    for name, entry in entries.items():
        expected = quantizers[name].scale.numel()
        if len(entry.scale) != expected:
            raise DataError(
                f"Calibration cache '{path}': '{name}' has {len(entry.scale)} scales, the model {expected}. {_REMEDY}"
            )
        possible = [scale if isinstance(scale, float) and 0 < scale <= _LARGEST_SCALE else 1.0 for scale in entry.scale]
        rounded = round_scale(torch.tensor(possible, dtype=torch.float64)).tolist()
        for scale, right in zip(entry.scale, rounded, strict=True):
            if scale != right or not isinstance(scale, float):
                raise DataError(
                    f"Calibration cache '{path}': '{name}' has the scale {scale!r}; scales are positive numbers of "
                    f"eight significant bits. {_REMEDY}"
                )
