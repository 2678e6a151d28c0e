"""The analysis by several machines: each measures a share of the layers, and together they are the profile of one.

Every part runs the network in floating point and quantized, on all frames. These two runs are part of what parts must
agree in: where two machines round differently, their parts do not merge.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from base.parsing import Count, FiniteFloat, Items, NonEmptyStr, Record, Text, misfit, parse
from base.parsing import Share as Portion
from base.parts import Part, read_parts, write_part
from base.shares import Share
from quant.calibration.identity import weights_fingerprint
from quant.forms import Decibels, Macs
from quant.sensitivity.profile import AnalysisCost, Effect, LayerSensitivity, SensitivityProfile
from quant.structure import scales_fingerprint

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec

__all__ = ["merge_sensitivity_parts", "write_sensitivity_part"]

_KIND = "sensitivity analysis"


class _EffectForm(Record):
    """An `Effect` with nothing lost: an undefined number is null, an infinite ratio has its sign."""

    sqnr_db: Annotated[dict[NonEmptyStr, Decibels | Literal["inf", "-inf"]], Field(min_length=1)]
    mean_ap: Portion | None
    difference: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    verdict: Literal["better", "worse", "indistinguishable", "undefined"]


class _UnitForm(Record):
    name: NonEmptyStr
    layers: Annotated[Items[NonEmptyStr], Field(min_length=1)]


class _LayerForm(_UnitForm):
    macs: Macs
    alone: _EffectForm
    all_but: _EffectForm


class _WorkForm(Record):
    """What all parts have in common, the results of the two whole runs included."""

    model_name: Text
    model_fingerprint: Text
    weights_sha256: Text
    scales_sha256: Text
    granularity: Literal["layer", "stage"]
    units: Annotated[Items[_UnitForm], Field(min_length=1, max_length=512)]
    head_names: Annotated[Items[NonEmptyStr], Field(min_length=1)]
    frames_sha256: Text
    num_frames: Count
    num_groups: Count
    confidence: Portion
    num_resamples: Count
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    network_macs: Annotated[int, Field(ge=1, le=2**62)]
    float_map: Portion | None
    quantized: _EffectForm


class _PartForm(Record):
    layers: Annotated[Items[_LayerForm], Field(min_length=1, max_length=512)]
    analysis_macs: Macs


def write_sensitivity_part(
    profile: SensitivityProfile, model: nn.Module, seed: int, share: Share, path: str | Path, *, spec: ModelSpec
) -> None:
    """Writes what `build_sensitivity_profile(…, share=share)` found.

    Args:
        profile: Of the share's layers.
        model: The quantized model that was analysed.
        seed: Of the bootstrap.
        share: Which part.
        path: The file, JSON.
        spec: Of the model.
    """
    from quant.sensitivity.analysis import network_of
    from quant.sensitivity.layers import QuantizedLayers, units_of

    units = units_of(QuantizedLayers(network_of(model, spec)).paths, profile.granularity)
    work = {
        "model_name": profile.model_name,
        "model_fingerprint": profile.model_fingerprint,
        "weights_sha256": weights_fingerprint(model),
        "scales_sha256": scales_fingerprint(model),
        "granularity": profile.granularity,
        "units": [{"name": unit.name, "layers": list(unit.layers)} for unit in units],
        "head_names": list(profile.head_names),
        "frames_sha256": profile.frames_sha256,
        "num_frames": profile.num_frames,
        "num_groups": profile.num_groups,
        "confidence": profile.confidence,
        "num_resamples": profile.num_resamples,
        "seed": seed,
        "network_macs": profile.cost.network_macs,
        "float_map": _plain(profile.float_map),
        "quantized": _plain_effect(profile.quantized),
    }
    layers = [
        {
            "name": layer.name,
            "layers": list(layer.layers),
            "macs": layer.macs,
            "alone": _plain_effect(layer.alone),
            "all_but": _plain_effect(layer.all_but),
        }
        for layer in profile.layers
    ]
    write_part(path, _KIND, share, work, {"layers": layers, "analysis_macs": profile.cost.analysis_macs})


def merge_sensitivity_parts(paths: Sequence[str | Path]) -> SensitivityProfile:
    """The profile that one run gives, from its parts. Neither model nor frames are needed.

    Raises:
        DataError: a file is broken, or the parts are of other models, frames or settings, or not those of one whole.
    """
    parts = read_parts(paths, _KIND, _PartForm)
    work = parse(_WorkForm, dict(parts[0].work), file=parts[0].file, at=("work",))
    _require_heads(parts[0].file, work, ("work", "quantized"), work.quantized)
    found: dict[int, LayerSensitivity] = {}
    macs = 2 * work.network_macs
    for part in parts:
        indices = part.share.indices(len(work.units))
        expected = [(work.units[index].name, work.units[index].layers) for index in indices]
        measured = [(item.name, item.layers) for item in part.content.layers]
        if measured != expected:
            must = f"part {part.share} of the analysis has {[name for name, _ in expected]}"
            raise misfit(part.file, ["content", "layers"], [name for name, _ in measured], must)
        for index, layer in zip(indices, part.content.layers, strict=True):
            found[index] = _layer(part, work, layer)
        macs += part.content.analysis_macs - 2 * work.network_macs
    names = [unit.name for unit in work.units]
    if len(set(names)) != len(names):
        raise misfit(parts[0].file, ["work", "units"], names, "each must stand once")
    return SensitivityProfile(
        model_name=work.model_name,
        model_fingerprint=work.model_fingerprint,
        granularity=work.granularity,
        head_names=work.head_names,
        float_map=_known(work.float_map),
        quantized=_effect(work.quantized, work.head_names),
        layers=tuple(found[index] for index in range(len(work.units))),
        num_frames=work.num_frames,
        num_groups=work.num_groups,
        confidence=work.confidence,
        num_resamples=work.num_resamples,
        frames_sha256=work.frames_sha256,
        cost=AnalysisCost(work.network_macs, macs, 2 + 2 * len(work.units)),
    )


def _layer(part: Part[_PartForm], work: _WorkForm, form: _LayerForm) -> LayerSensitivity:
    for direction, effect in (("alone", form.alone), ("all_but", form.all_but)):
        _require_heads(part.file, work, ("content", "layers", form.name, direction), effect)
    heads = work.head_names
    return LayerSensitivity(form.name, form.layers, form.macs, _effect(form.alone, heads), _effect(form.all_but, heads))


def _require_heads(file: Path, work: _WorkForm, place: tuple[str, ...], effect: _EffectForm) -> None:
    if set(effect.sqnr_db) != set(work.head_names):
        raise misfit(file, [*place, "sqnr_db"], list(effect.sqnr_db), f"head_names are {list(work.head_names)}")


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _plain_effect(effect: Effect) -> dict[str, Any]:
    ratios = {head: ratio if math.isfinite(ratio) else str(ratio) for head, ratio in effect.sqnr_db.items()}
    numbers = {name: _plain(getattr(effect, name)) for name in ("mean_ap", "difference", "low", "high")}
    return {**dataclasses.asdict(effect), **numbers, "sqnr_db": ratios}


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _effect(form: _EffectForm, heads: Sequence[str]) -> Effect:
    return Effect(
        {head: float(form.sqnr_db[head]) for head in heads},
        _known(form.mean_ap),
        _known(form.difference),
        _known(form.low),
        _known(form.high),
        form.verdict,
    )
