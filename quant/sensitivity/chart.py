"""The profile as a picture: what each layer costs in mAP, in both directions, and what it does to each output."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ConfigError
from base.files import atomic_path
from base.lazy import require
from models.spec import branch_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from quant.sensitivity.profile import Effect, LayerSensitivity, SensitivityProfile

__all__ = ["write_sensitivity_chart"]

_ALONE, _ALL_BUT, _INK, _SOFT = "#2f6fc4", "#d9822b", "#1b2430", "#6b7785"
# Of the outputs; marker and colour, so that they are told apart without colours too.
_MARKS = (
    ("o", "#2f6fc4"),
    ("s", "#2a9d8f"),
    ("^", "#8a6d00"),
    ("D", "#7b57b8"),
    ("v", "#c0392b"),
    ("P", "#5c6878"),
    ("X", "#b0508a"),
)
_SUFFIXES = (".svg", ".png")
_POINTS = 100.0  # mAP is shown in points.


def write_sensitivity_chart(profile: SensitivityProfile, path: str | Path) -> None:
    """Draws the profile, its most sensitive layer on top; equal profiles give equal bytes.

    Args:
        profile: At least one layer.
        path: Ends in .svg or .png.

    Raises:
        ConfigError: another ending.
        MissingDependencyError: matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"A chart cannot be written to '{path}'; its name ends in .svg or .png.")
    matplotlib = require("matplotlib", "to draw a chart")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    layers = sorted(profile.layers, key=lambda layer: (-layer.stake, layer.alone.lowest_sqnr_db))
    height = 1.75 + 0.34 * len(layers)
    settings = {
        "svg.hashsalt": "sensitivity",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.edgecolor": _SOFT,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _SOFT,
        "ytick.color": _INK,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(13.0, height))
        grid = {"width_ratios": (1.5, 1.0, 1.0), "wspace": 0.04}
        change, noise, gain = figure.subplots(1, 3, sharey=True, gridspec_kw=grid)
        figure.subplots_adjust(left=0.125, right=0.985, top=1 - 1.02 / height, bottom=0.62 / height)
        _draw_map(change, profile, layers)
        _draw_sqnr(noise, profile, layers)
        _draw_gain(gain, profile, layers)
        change.set_yticks(range(len(layers)), [_short(layer.name) for layer in layers])
        change.set_ylim(len(layers) - 0.5, -0.5)
        for axes in (change, noise, gain):
            _frame(axes, len(layers))
        title = figure.text(0.01, 1 - 0.25 / height, "What quantizing each layer costs", fontsize=13, weight="bold")
        title.set_verticalalignment("center")
        figure.text(0.01, 1 - 0.52 / height, _subtitle(profile), fontsize=9, color=_SOFT, va="center")
        with atomic_path(path) as temporary:
            kind = path.suffix[1:]
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(temporary, format=kind, dpi=110, metadata=metadata)


def _subtitle(profile: SensitivityProfile) -> str:
    of = profile.quantized
    if math.isnan(of.low):
        return f"{profile.model_name}; {profile.num_frames} frames, too few objects for intervals"
    return (
        f"{profile.model_name}: mAP {_POINTS * profile.float_map:.2f} in floating point, {_POINTS * of.mean_ap:.2f} "
        f"with every layer quantized ({_POINTS * of.difference:+.2f}, interval {_POINTS * of.low:+.2f} to "
        f"{_POINTS * of.high:+.2f}); {profile.num_frames} frames, {100 * profile.confidence:g} % intervals"
    )


def _draw_map(axes: Axes, profile: SensitivityProfile, layers: list[LayerSensitivity]) -> None:
    rows = (
        ("only this layer quantized: lost", _ALONE, -0.19, [(layer.alone, -1.0) for layer in layers]),
        ("all but this layer quantized: won back", _ALL_BUT, 0.19, [(layer.all_but, 1.0) for layer in layers]),
    )
    for label, color, offset, effects in rows:
        places = [index + offset for index in range(len(effects))]
        values = [_POINTS * sign * effect.difference for effect, sign in effects]
        axes.barh(places, values, 0.34, color=color, label=label, zorder=2)
        for place, (effect, sign) in zip(places, effects, strict=True):
            _whisker(axes, place, effect, sign)
    axes.axvline(0.0, color=_INK, linewidth=0.9, zorder=3)
    drop = _POINTS * profile.map_drop
    if math.isfinite(drop):
        axes.axvline(drop, color=_SOFT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1, label="all layers: lost")
    axes.set_xlabel("mAP, points")
    _legend(axes, 0.5, 3)


def _whisker(axes: Axes, place: float, effect: Effect, sign: float) -> None:
    ends = sorted(_POINTS * sign * end for end in (effect.low, effect.high))
    if all(math.isfinite(end) for end in ends) and ends[0] < ends[1]:
        axes.plot(ends, (place, place), color=_INK, linewidth=1.0, zorder=4, solid_capstyle="butt")
        axes.plot(ends, (place, place), "|", color=_INK, markersize=4, zorder=4)


def _draw_sqnr(axes: Axes, profile: SensitivityProfile, layers: list[LayerSensitivity]) -> None:
    lowest = [layer.alone.lowest_sqnr_db for layer in layers]
    finite = [value if math.isfinite(value) else 0.0 for value in lowest]
    axes.barh(range(len(layers)), finite, 0.62, color=_ALONE, alpha=0.22, zorder=2)
    _marks(axes, profile, [dict(layer.alone.sqnr_db) for layer in layers])
    axes.set_xlabel("SQNR of the outputs, only this layer quantized, dB")
    _legend(axes, 1.02, len({branch_of(head) for head in profile.head_names}))


def _draw_gain(axes: Axes, profile: SensitivityProfile, layers: list[LayerSensitivity]) -> None:
    base = profile.quantized.sqnr_db
    gains = [{head: layer.all_but.sqnr_db[head] - base[head] for head in profile.head_names} for layer in layers]
    means = []
    for gain in gains:
        known = [value for value in gain.values() if math.isfinite(value)]
        means.append(sum(known) / len(known) if known else 0.0)
    axes.barh(range(len(layers)), means, 0.62, color=_ALL_BUT, alpha=0.22, zorder=2)
    _marks(axes, profile, gains)
    axes.axvline(0.0, color=_INK, linewidth=0.9, zorder=3)
    axes.set_xlabel("SQNR won by all but this layer, dB")


def _marks(axes: Axes, profile: SensitivityProfile, values: list[dict[str, float]]) -> None:
    # One mark for a branch, whatever the task.
    branches = list(dict.fromkeys(branch_of(head) for head in profile.head_names))
    marks = dict(zip(branches, _MARKS * len(branches), strict=False))
    first = {branch_of(head): head for head in reversed(profile.head_names)}
    for head in profile.head_names:
        branch = branch_of(head)
        marker, color = marks[branch]
        label = branch if head == first[branch] else None
        places = [index for index, of in enumerate(values) if math.isfinite(of[head])]
        points: list[Any] = [values[index][head] for index in places]
        axes.plot(points, places, marker, color=color, markersize=4.5, label=label, zorder=4, alpha=0.9)


def _legend(axes: Axes, center: float, columns: int) -> None:
    """Above the axes, where no bar can lie under it."""
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (center, 1.0), "ncol": columns}
    axes.legend(**place, fontsize=8, frameon=False, columnspacing=1.1, handletextpad=0.4, handlelength=1.6)


def _frame(axes: Axes, count: int) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dfe4ea", linewidth=0.8, zorder=0)
    for row in range(0, count, 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f4f6f9", zorder=-1, linewidth=0)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    """A module path without what all paths have in common."""
    parts = [part for part in name.split(".") if part not in ("task_heads", "conv")]
    if parts and parts[0].startswith("pts_"):
        kind = parts.pop(0)
        if kind == "pts_bbox_head" and parts and parts[0] == "0":  # of one task, or of the first
            parts.pop(0)
    return ".".join(parts)
