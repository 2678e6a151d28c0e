"""Calibration by several machines: each observes a share of the frames, and their histograms add up to those of one.

What is merged are counts, so that the scales are the same to the bit. They are chosen once all is merged: one set of
parts serves every method of `quant.calibration.amax`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from base.errors import ConfigError
from base.parsing import Items, NonEmptyStr, NonNegativeFloat, Record, misfit
from base.parts import Part, read_parts, write_part
from base.shares import Share
from quant.calibration.histogram import NUM_BINS, SMALLEST_EXPONENT, AbsHistogram
from quant.calibration.identity import architecture_fingerprint, weights_fingerprint
from quant.calibration.observation import ActivationStatistics, Histograms, merged_histograms

if TYPE_CHECKING:
    from quant.calibration.calibrator import CalibrationManager

__all__ = ["merge_calibration_parts", "write_calibration_part"]

_KIND = "calibration"
_LARGEST_EXPONENT = 128  # float32 ends below 2**128
# Of all machines together less than int64 holds, so that no sum leaves it.
_Values = Annotated[int, Field(ge=0, le=2**52)]


class _HistogramForm(Record):
    exponent: Annotated[int, Field(ge=SMALLEST_EXPONENT, le=_LARGEST_EXPONENT)] | None
    zeros: _Values
    max: NonNegativeFloat
    counts: Annotated[Items[_Values], Field(max_length=NUM_BINS)]


class _PairForm(Record):
    all: _HistogramForm
    occupied: _HistogramForm


class _PartForm(Record):
    tokens: Annotated[Items[NonEmptyStr], Field(min_length=1)]
    quantizers: dict[NonEmptyStr, _PairForm]


def write_calibration_part(
    manager: CalibrationManager,
    frames: Iterable[Any],
    num_frames: int,
    share: Share,
    path: str | Path,
    *,
    settings: Mapping[str, Any],
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Observes a share of the frames and writes what was seen.

    Args:
        manager: Of the quantized model; no scale changes.
        frames: As for `CalibrationManager.calibrate`, a sequence: of all `num_frames` evenly spaced ones, the share's.
        num_frames: Of the whole.
        share: Which part.
        path: The file, JSON.
        settings: Choices that all parts must agree in, by name; the model is compared in any case.
        workers, progress: As for `CalibrationManager.calibrate`.

    Returns:
        How many frames were observed.

    Raises:
        ConfigError: the frames are no sequence, or fewer than there are parts.
        DataError: no frame, or NaN or infinite activations.
    """
    seen = manager.observe(frames, num_frames, progress=progress, workers=workers, share=share)
    content = {
        "tokens": sorted(seen.tokens),
        "quantizers": {
            name: {"all": _plain(seen.histograms[name]), "occupied": _plain(seen.occupied[name])}
            for name in seen.histograms
        },
    }
    write_part(path, _KIND, share, _work(manager, frames, num_frames, settings), content)
    return len(seen.tokens)


def merge_calibration_parts(
    manager: CalibrationManager,
    frames: Iterable[Any],
    num_frames: int,
    paths: Sequence[str | Path],
    *,
    settings: Mapping[str, Any],
) -> ActivationStatistics:
    """What `manager.observe` gives for all frames, from the parts; none of the frames is read.

    Args:
        paths: The parts, in any order.

    Other arguments as for `write_calibration_part`: those of the parts.

    Raises:
        DataError: the parts are of another model, of other frames or settings, or not those of one whole.
    """
    parts = read_parts(paths, _KIND, _PartForm, _work(manager, frames, num_frames, settings))
    total = parts[0].work["frames"]
    tokens: list[str] = []
    histograms: list[Histograms] = []
    for part in parts:
        form = part.content
        if len(form.tokens) != len(part.share.indices(total)):
            must = f"part {part.share} of {total} frames has {len(part.share.indices(total))}"
            raise misfit(part.file, ["content", "tokens"], list(form.tokens), must)
        if set(form.quantizers) != set(manager.observed):
            must = f"the model has {list(manager.observed)}"
            raise misfit(part.file, ["content", "quantizers"], list(form.quantizers), must)
        tokens += form.tokens
        histograms.append({name: _pair(part, name) for name in manager.observed})
    merged = merged_histograms(tokens, histograms)
    manager.require_seen(merged)
    return merged


def _work(
    manager: CalibrationManager, frames: Iterable[Any], num_frames: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    if not isinstance(frames, Sequence):
        raise ConfigError(
            "These batches can only be read one after the other and cannot be cut into parts; give a sequence, such as "
            "calibration_batches returns."
        )
    return {
        **settings,
        "architecture": architecture_fingerprint(manager.model),
        "weights_sha256": weights_fingerprint(manager.model),
        "frames": min(num_frames, len(frames)),
        "info_sha256": getattr(frames, "info_sha256", None),
    }


def _plain(histogram: AbsHistogram) -> dict[str, Any]:
    return {
        "exponent": histogram.exponent,
        "zeros": histogram.zeros,
        "max": histogram.max,
        "counts": histogram.counts[: histogram.num_used].tolist(),
    }


def _pair(part: Part[_PartForm], name: str) -> tuple[AbsHistogram, AbsHistogram]:
    forms = part.content.quantizers[name]
    place = ("content", "quantizers", name)
    return _histogram(part, forms.all, (*place, "all")), _histogram(part, forms.occupied, (*place, "occupied"))


def _histogram(part: Part[_PartForm], form: _HistogramForm, place: tuple[str, ...]) -> AbsHistogram:
    """What `_plain` was given; an exponent that does not fit the largest value would put counts into wrong bins."""
    counts = np.zeros(NUM_BINS, np.int64)
    counts[: len(form.counts)] = form.counts
    found = AbsHistogram(counts, form.exponent, form.zeros, form.max)
    exact = AbsHistogram()
    if form.max > 0:
        exact.make_room(form.max)
    if found.exponent != exact.exponent or found.num_used != len(form.counts) or (form.counts and not form.counts[-1]):
        must = f"bins up to that of the largest value, {form.max:g}, belong to it"
        raise misfit(part.file, place, {"exponent": form.exponent, "bins": len(form.counts)}, must)
    return found
