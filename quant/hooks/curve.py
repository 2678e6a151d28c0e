"""Loss and mAP over a fine-tuning, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from base.errors import DataError
from base.files import atomic_path
from base.lazy import require

__all__ = ["curve_figure"]


def curve_figure(curve: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws `DetectionMapHook`'s record to an SVG file, the same bytes for the same record.

    Raises:
        DataError: the record holds no score.
    """
    require("matplotlib", "to draw the curve of a training")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    scores, losses = curve["map"], [point for point in curve["loss"] if point["loss"] is not None]
    if not scores:
        raise DataError(f"There is no score to draw in the record for '{path}': train with --eval-frames.")
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([point["iter"] for point in losses], [point["loss"] for point in losses], color="#8a8f98", lw=1)
    left.set(xlabel="iteration", ylabel="loss", title="Training loss")
    rate = left.twinx()
    rate.plot([point["iter"] for point in losses], [point["lr"] for point in losses], color="#d08a2e", lw=1, ls="--")
    rate.set_ylabel("learning rate", color="#b0701c")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    epochs = [point["epoch"] for point in scores]
    for name in scores[0]["per_class"]:
        values = [point["per_class"][name] for point in scores]
        right.plot(epochs, [float("nan") if v is None else v for v in values], lw=1, alpha=0.7, label=name)
    right.plot(epochs, [point["map"] for point in scores], color="black", lw=2, marker="o", ms=4, label="mAP")
    right.set(xlabel="epoch (0: calibrated only)", ylabel="AP", title="Validation, fake-quantized")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top"]].set_visible(False)
    with (
        mpl.rc_context({"svg.hashsalt": "curve", "svg.fonttype": "none"}),
        atomic_path(path) as temporary,
    ):
        figure.savefig(temporary, format="svg", metadata={"Date": None})
