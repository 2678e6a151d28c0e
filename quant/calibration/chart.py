"""A picture of a calibration: what the quantizers saw, and where each method puts amax."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ConfigError, DataError
from base.lazy import require
from quant.calibration.amax import compute_amax
from quant.settings import ACTIVATION_METHODS

if TYPE_CHECKING:
    from quant.calibration.histogram import AbsHistogram
    from quant.calibration.observation import ActivationStatistics

__all__ = ["CalibrationChart", "calibration_chart"]

_COLUMNS = 2
_LAYERS = 6
_DRAWN_BINS = 128
# Distinct for readers who see no red or green; the line styles tell them apart in print.
_LINES: dict[str, tuple[str, str]] = {
    "max": ("#333333", "-"),
    "percentile": ("#0072b2", ":"),
    "mse": ("#d55e00", "-"),
    "entropy": ("#cc79a7", "--"),
    "sparse_mse": ("#009e73", "-."),
}


@dataclass(frozen=True)
class CalibrationChart:
    """A picture.

    Attributes:
        title: What it shows, plain text.
        svg: The picture, without an XML head; equal statistics give equal bytes.
    """

    title: str
    svg: str

    def save(self, path: str) -> None:
        """Writes the SVG."""
        from base.files import atomic_path

        with atomic_path(path) as temporary:
            temporary.write_text(self.svg, encoding="utf-8")


def calibration_chart(statistics: ActivationStatistics, layers: Sequence[str] | None = None) -> CalibrationChart:
    """Histograms of |x| with the amax of each method.

    Args:
        statistics: From `CalibrationManager.observe`.
        layers: Names of quantizers; None: those on whose amax the methods disagree most.

    Raises:
        ConfigError: there is no such quantizer.
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "to draw the chart of a calibration")
    figure_type = require("matplotlib.figure", "to draw the chart of a calibration").Figure
    seen = {name: h for name, h in statistics.histograms.items() if h.exponent is not None}
    unknown = sorted(set(layers or ()) - set(seen))
    if unknown:
        raise ConfigError(f"No histogram of {unknown}; there are {', '.join(sorted(seen))}.")
    amaxes = {name: _amaxes(statistics, name) for name in (layers or seen)}
    chosen = list(layers) if layers else _most_disputed(amaxes)
    if not chosen:
        raise DataError("The statistics hold no value other than zero; there is nothing to draw.")
    rows = -(-len(chosen) // _COLUMNS)
    # The salt makes the identifiers in the SVG, and so its bytes, the same each time.
    with matplotlib.rc_context({"svg.hashsalt": "calibration", "svg.fonttype": "none", "font.size": 9}):
        figure = figure_type(figsize=(10.0, 2.3 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axes, name in zip(grid.flat, chosen, strict=False):
            _draw(axes, name, statistics.histograms[name], statistics.occupied[name], amaxes[name])
        for axes in list(grid.flat)[len(chosen) :]:
            axes.set_axis_off()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    count = len(statistics.tokens)
    return CalibrationChart(
        f"What quantizers saw in {count} calibration frames, and amax by method", svg[svg.index("<svg") :]
    )


def _amaxes(statistics: ActivationStatistics, name: str) -> dict[str, float]:
    """Amax by method; a method that finds none is left out."""
    found: dict[str, float] = {}
    for method in ACTIVATION_METHODS:
        try:
            found[method] = compute_amax(
                statistics.histograms[name], method, occupied=statistics.occupied[name], name=name
            )
        except DataError:
            # The percentile of a tensor that is nearly all zeros; the chart shows the others.
            continue
    return found


def _most_disputed(amaxes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The layers with the widest ratio between methods, in the order of the network."""
    ratio = {name: max(values.values()) / min(values.values()) for name, values in amaxes.items()}
    widest = set(sorted(ratio, key=lambda name: -ratio[name])[:_LAYERS])
    return [name for name in amaxes if name in widest]


def _draw(axes: Any, name: str, histogram: AbsHistogram, occupied: AbsHistogram, amaxes: Mapping[str, float]) -> None:
    for part, color, label in ((histogram, "#c3cbd4", "all cells"), (occupied, "#7f8fa1", "cells with points")):
        if part.exponent is None:
            continue
        # Bins of the picture, not of the histogram: about a hundred can be told apart.
        limits = np.linspace(0, histogram.max, _DRAWN_BINS + 1)
        centers = (part.edges()[1:] + part.edges()[:-1]) / 2
        counts, _ = np.histogram(centers, limits, weights=part.used_counts(with_zeros=False) / histogram.total)
        axes.stairs(np.maximum(counts, 1e-12), limits, fill=True, color=color, label=label)
    for method, amax in amaxes.items():
        color, style = _LINES[method]
        axes.axvline(amax, color=color, linestyle=style, linewidth=1.6, label=method)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5 / histogram.total, top=1.0)
    axes.set_xlim(0, histogram.max * 1.02)
    shown = name.removesuffix(".input_quantizer").removeprefix("pts_")
    axes.set_title(f"{shown}   ({histogram.zeros / histogram.total:.0%} exact zeros)", fontsize=9, loc="left")
    axes.set_xlabel("|x|", labelpad=1)
    axes.set_ylabel("share of values", labelpad=2)
    axes.spines[["top", "right"]].set_visible(False)
