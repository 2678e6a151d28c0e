"""The types of what the package writes as JSON: structures, calibration caches, profiles, curves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from base.parsing import Count, FiniteFloat, Items, NonEmptyStr, NonNegativeFloat, Record, Share, Text

__all__ = ["CacheForm", "CurveForm", "Decibels", "EffectForm", "Macs", "ProfileForm", "StructureForm"]

Macs = Annotated[int, Field(ge=0, le=2**62)]
"""Multiplications with accumulation."""


class _Layer(Record):
    path: NonEmptyStr
    kind: Text
    quantized: bool


class StructureForm(Record):
    """What `QuantizationStructure.to_json` writes."""

    version: int
    engine: Text
    fuse_bn: bool
    layers: Items[_Layer]
    shared: Items[Items[NonEmptyStr]]
    model_fingerprint: Text


class _Frames(Record):
    count: Count
    tokens_sha256: Text


class _Model(Record):
    architecture: Text
    weights_sha256: Text


class _Quantizer(Record):
    name: NonEmptyStr
    kind: Literal["activation", "weight"]
    axis: Count | None
    scale: Items[Any]  # each is looked at beside the quantizer that it belongs to
    amax: Items[NonNegativeFloat]
    max_seen: NonNegativeFloat
    zero_share: Share
    clipped_share: Share


class CacheForm(Record):
    """What `write_cache` writes, without its checksum."""

    format: str
    version: int
    amax_method: NonEmptyStr
    weight_method: NonEmptyStr
    percentile: NonNegativeFloat | None
    frames: _Frames
    model: _Model
    quantizers: Items[_Quantizer]


Decibels = Annotated[FiniteFloat, Field(ge=-1000, le=1000)]
"""A ratio of two sums of squares; beyond it, its power of ten is no float any more."""


class EffectForm(Record):
    """One `Effect` of a profile: infinite ratios and undefined numbers are null."""

    sqnr_db: Annotated[dict[NonEmptyStr, Decibels | None], Field(min_length=1)]
    mean_ap: Share | None
    difference: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    verdict: Literal["better", "worse", "indistinguishable", "undefined"]


class _LayerEffects(Record):
    name: NonEmptyStr
    layers: Annotated[Items[NonEmptyStr], Field(min_length=1)]
    macs: Macs
    alone: EffectForm
    all_but: EffectForm


class _Cost(Record):
    network_macs: Annotated[int, Field(ge=1, le=2**62)]
    analysis_macs: Macs
    num_runs: Count


class ProfileForm(Record):
    """What `SensitivityProfile.write_json` writes."""

    version: int
    model_name: Text
    model_fingerprint: Text
    granularity: Literal["layer", "stage"]
    head_names: Annotated[Items[NonEmptyStr], Field(min_length=1)]
    float_map: Share | None
    quantized: EffectForm
    layers: Annotated[Items[_LayerEffects], Field(max_length=512)]
    num_frames: Count
    num_groups: Count
    confidence: Share
    num_resamples: Count
    frames_sha256: Text
    cost: _Cost


class _Score(Record):
    epoch: Count
    iter: Count
    map: FiniteFloat | None
    per_class: dict[NonEmptyStr, FiniteFloat | None]


class _Loss(Record):
    iter: Count
    loss: FiniteFloat | None
    lr: FiniteFloat


class CurveForm(Record):
    """What `DetectionMapHook` writes."""

    map: Items[_Score]
    loss: Items[_Loss]
