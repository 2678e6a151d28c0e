"""The types of what quantized checkpoints and calibration caches hold as JSON."""

from __future__ import annotations

from typing import Any, Literal

from base.parsing import Count, Items, NonEmptyStr, NonNegativeFloat, Record, Share, Text

__all__ = ["CacheForm", "StructureForm"]


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
