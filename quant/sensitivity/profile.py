"""The result of the analysis: one immutable value, as JSON both ways and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import DataError
from base.files import atomic_path, read_json, write_json
from base.parsing import misfit, parse

if TYPE_CHECKING:
    from quant.forms import EffectForm

__all__ = ["AnalysisCost", "Effect", "LayerSensitivity", "MeasuredCost", "SensitivityProfile"]

_VERSION = 1


@dataclass(frozen=True)
class Effect:
    """One run of the network against the run that it is compared with.

    Attributes:
        sqnr_db: Head output -> 10 log10(sum of y² / sum of (y - x)²) over all cells and frames, y in floating point;
            infinite where the output is untouched.
        mean_ap: mAP of the run, 0 to 1.
        difference: Its mAP minus the other's.
        low: Lower end of the difference's bootstrap interval.
        high: Upper end.
        verdict: "better", "worse", "indistinguishable" (the interval holds 0) or "undefined".
    """

    sqnr_db: Mapping[str, float]
    mean_ap: float
    difference: float
    low: float
    high: float
    verdict: str

    @property
    def lowest_sqnr_db(self) -> float:
        """Of the outputs, the one that suffers most."""
        return min(self.sqnr_db.values())


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer, or one stage of layers.

    Attributes:
        name: Module path.
        layers: Module paths of what was switched; the name itself for a single layer.
        macs: Multiplications of a frame.
        alone: Only this one quantized, against the network in floating point.
        all_but: All quantized but this one, against all quantized.
    """

    name: str
    layers: tuple[str, ...]
    macs: int
    alone: Effect
    all_but: Effect

    @property
    def stake(self) -> float:
        """mAP that quantizing it costs, at least 0: the mean of its loss alone and the gain of the rest without it."""
        known = [x for x in (-self.alone.difference, self.all_but.difference) if not math.isnan(x)]
        return max(sum(known) / len(known), 0.0) if known else 0.0


@dataclass(frozen=True)
class AnalysisCost:
    """Convolutions' MACs per frame.

    Attributes:
        network_macs: One run of the network.
        analysis_macs: All runs of the analysis.
        num_runs: How many.
    """

    network_macs: int
    analysis_macs: int
    num_runs: int

    @property
    def multiple(self) -> float:
        """Of one evaluation's."""
        return self.analysis_macs / self.network_macs


@dataclass(frozen=True)
class MeasuredCost:
    """Seconds on the machine that ran the analysis; no part of the profile's files, whose bytes repeat.

    On a CPU they are the process's CPU time, which other work on the machine does not stretch.

    Attributes:
        evaluation_s: One evaluation: the network in floating point and the decoding of its outputs, over all frames.
        quantized_s: One evaluation of the fully quantized network; rounding in floating point is extra work.
        analysis_s: All runs with their decoding.
        bootstrap_s: Intervals.
        loading_s: Reading and encoding frames, and cutting the network into segments.
    """

    evaluation_s: float
    quantized_s: float
    analysis_s: float
    bootstrap_s: float
    loading_s: float

    @property
    def multiple(self) -> float:
        """Of one evaluation in floating point, loading and intervals left out."""
        return self.analysis_s / self.evaluation_s


@dataclass(frozen=True)
class SensitivityProfile:
    """What quantizing each layer does to a network.

    Attributes:
        model_name: Of its specification.
        model_fingerprint: SHA-256 of its specification.
        granularity: "layer" or "stage".
        head_names: Outputs, in graph order.
        float_map: mAP in floating point.
        quantized: All layers quantized, against floating point.
        layers: In the order of the network.
        num_frames: Frames scored.
        num_groups: Independent units of the bootstrap.
        confidence: Of the intervals.
        num_resamples: Of the bootstrap.
        frames_sha256: Over the tokens, in order.
        cost: What the analysis costs.
        measured: What it took; None in a profile that was read from a file.
    """

    model_name: str
    model_fingerprint: str
    granularity: str
    head_names: tuple[str, ...]
    float_map: float
    quantized: Effect
    layers: tuple[LayerSensitivity, ...]
    num_frames: int
    num_groups: int
    confidence: float
    num_resamples: int
    frames_sha256: str
    cost: AnalysisCost
    measured: MeasuredCost | None = field(default=None, compare=False)

    @property
    def map_drop(self) -> float:
        """mAP lost with everything quantized."""
        return -self.quantized.difference

    def of(self, name: str) -> LayerSensitivity:
        """One layer.

        Raises:
            KeyError: there is none of that name.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer '{name}'; there are {[layer.name for layer in self.layers]}")

    def write_json(self, path: str | Path) -> None:
        """Writes everything but `measured`; an infinite SQNR and an undefined interval become null."""
        values = dataclasses.asdict(self)
        del values["measured"]
        write_json(path, {"version": _VERSION, **_plain(values)})

    @classmethod
    def read_json(cls, path: str | Path) -> SensitivityProfile:
        """Reads what `write_json` wrote.

        Raises:
            DataError: it is no such file, or one of another version.
        """
        from quant.forms import ProfileForm

        values = read_json(path)
        if not isinstance(values, dict) or values.get("version") != _VERSION:
            raise DataError(f"'{path}' is no sensitivity profile of version {_VERSION}; run the analysis again.")
        try:
            form = parse(ProfileForm, values, file=path)
            effects = [form.quantized, *(effect for item in form.layers for effect in (item.alone, item.all_but))]
            for effect in effects:
                if set(effect.sqnr_db) != set(form.head_names):
                    raise misfit(path, ["sqnr_db"], list(effect.sqnr_db), f"head_names are {list(form.head_names)}")
            for names in ([item.name for item in form.layers], [path for item in form.layers for path in item.layers]):
                if len(set(names)) != len(names):
                    raise misfit(path, ["layers"], names, "each must stand once")
        except DataError as error:
            raise DataError(f"'{path}' is a damaged sensitivity profile ({error}); run the analysis again.") from error
        plain = {name: getattr(form, name) for name in ProfileForm.model_fields if name != "version"}
        plain |= {
            "float_map": _known(form.float_map),
            "quantized": _effect(form.quantized),
            "layers": tuple(
                LayerSensitivity(item.name, item.layers, item.macs, _effect(item.alone), _effect(item.all_but))
                for item in form.layers
            ),
            "cost": AnalysisCost(form.cost.network_macs, form.cost.analysis_macs, form.cost.num_runs),
        }
        return cls(**plain)

    def to_csv(self) -> str:
        """One line per layer, by descending stake; SQNR in dB ("inf" where an output is untouched), mAP from 0 to 1."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = ["layer", "macs_share", "stake_map"]
        for direction in ("alone", "all_but"):
            columns += [f"{direction}_{name}" for name in ("map", "delta_map", "low", "high", "verdict")]
            columns += [f"{direction}_sqnr_db_{head}" for head in self.head_names]
        writer.writerow(columns)
        for layer in sorted(self.layers, key=lambda item: (-item.stake, item.alone.lowest_sqnr_db)):
            row = [layer.name, f"{layer.macs / self.cost.network_macs:.4f}", f"{layer.stake:.5f}"]
            for effect in (layer.alone, layer.all_but):
                row += [f"{x:.5f}" for x in (effect.mean_ap, effect.difference, effect.low, effect.high)]
                row.append(effect.verdict)
                row += [f"{effect.sqnr_db[head]:.2f}" for head in self.head_names]
            writer.writerow(row)
        return text.getvalue()

    def write_csv(self, path: str | Path) -> None:
        """Writes `to_csv` to a file."""
        with atomic_path(path) as temporary:
            temporary.write_text(self.to_csv(), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _effect(form: EffectForm) -> Effect:
    sqnr = {head: math.inf if ratio is None else ratio for head, ratio in form.sqnr_db.items()}
    return Effect(
        sqnr, _known(form.mean_ap), _known(form.difference), _known(form.low), _known(form.high), form.verdict
    )
