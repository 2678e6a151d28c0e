"""Charts of `benchmarks.gpu`, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.lazy import require
from benchmarks.gpu_tables import layer_name

__all__ = ["draw"]

_MEASURED, _ROOFLINE, _PEER = "#4477aa", "#ee8866", "#bbbbbb"


def draw(results: Mapping[str, Any], folder: Path, name: str = "") -> list[Path]:
    """Writes `gpu_<name>_networks.png` and `gpu_<name>_layers.png`, those that there are results for.

    Args:
        results: Of `benchmarks.gpu`.
        folder: Where they go.
        name: Of the run; the model's where left out.

    Returns:
        The files written.
    """
    require("matplotlib", "to draw the charts").use("agg")
    written, name = [], name or results["model"]
    if "networks" in results:
        written.append(_networks(results, folder / f"gpu_{name}_networks.png"))
    if results.get("layers", {}).get("precisions"):
        written.append(_layers(results, folder / f"gpu_{name}_layers.png"))
    return written


def _networks(results: Mapping[str, Any], path: Path) -> Path:
    pyplot = require("matplotlib.pyplot", "to draw the charts")
    timings = results["networks"]["timings"]
    figure, axes = pyplot.subplots(figsize=(9, 0.45 * len(timings) + 1.3), layout="constrained")
    values = [item["stats"]["p50"] for item in timings]
    colors = [_MEASURED if item["key"].startswith("cuda-") else _PEER for item in timings]
    bars = axes.barh([item["label"] for item in timings], values, color=colors)
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(values))
    axes.set_xlabel("p50, ms")
    axes.set_title(f"Backbone, neck and head of {results['model']}\n{_gpu(results)}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(pyplot, figure, path)


def _layers(results: Mapping[str, Any], path: Path) -> Path:
    pyplot = require("matplotlib.pyplot", "to draw the charts")
    sections = dict(sorted(results["layers"]["precisions"].items(), reverse=True))  # INT8 first
    longest = max(len(section["rows"]) for section in sections.values())
    figure, panels = pyplot.subplots(
        1, len(sections), figsize=(7.5 * len(sections), 0.36 * longest + 1.4), layout="constrained", squeeze=False
    )
    for axes, (precision, section) in zip(panels[0], sections.items(), strict=True):
        rows = section["rows"]
        names = [f"{layer_name(row['label'])}   {row['shape']}" for row in rows]
        places = range(len(rows))
        measured = axes.barh(places, [row["in_order_us"] for row in rows], 0.8, color=_MEASURED, label="measured")
        shares = ["" if row["share"] is None else f"{row['share']:.0%}" for row in rows]
        axes.bar_label(measured, shares, padding=3, fontsize=8)
        if section["roofline_us"] is not None:
            axes.barh(places, [row["roofline_us"] for row in rows], 0.4, color=_ROOFLINE, label="roofline")
        axes.set_yticks(places, names, fontsize=8)
        axes.set_xlim(0, 1.1 * max(row["in_order_us"] for row in rows))
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xlabel("µs, and the roofline's share of it")
        axes.set_title(f"{precision.upper()}: {section['whole_us'] / 1e3:.3f} ms in one graph", fontsize=10)
        axes.legend(loc="lower right", fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Layers of {results['model']}, {_gpu(results)}", fontsize=11)
    return _save(pyplot, figure, path)


def _gpu(results: Mapping[str, Any]) -> str:
    found = results.get("machine", {}).get("gpus") or [{"name": results.get("layers", {}).get("gpu", "")}]
    return f"{found[0]['name']}, {results['date']}"


def _save(pyplot: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path
