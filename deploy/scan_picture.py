"""A scan from above with what each backend found in it, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.boxes import Boxes3D
from base.files import atomic_path
from base.lazy import require
from eval.bev import box_corners
from eval.palette import BACKGROUND, class_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save_scan_png"]

_RINGS_M = 20
_TEXT = "#9fb0c0"


def save_scan_png(
    path: str | Path,
    points: NDArray[np.float32],
    found: Sequence[tuple[str, Boxes3D]],
    class_names: Sequence[str],
    extent_m: float,
    title: str,
) -> None:
    """Draws the points by height, and boxes with a line to their front and their score; forward is up.

    Args:
        path: The PNG.
        points: (N, 3+) float32 x, y, z in metres, ego frame.
        found: One picture each, side by side: its title and its boxes.
        class_names: Names of the labels.
        extent_m: The picture reaches this far from the ego in x and y.
        title: Above all of them.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "to draw pictures").use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(8.0 * len(found), 8.7), facecolor=BACKGROUND, dpi=120)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    inside = (np.abs(points[:, :2]) < extent_m).all(axis=1)
    # Low points first, so that what stands above the ground is seen.
    shown = points[inside, :3]
    x, y, z = shown[np.argsort(shown[:, 2], kind="stable")].T
    for axis, (label, boxes) in zip(axes, found, strict=True):
        axis.set_facecolor(BACKGROUND)
        axis.scatter(-y, x, c=z, s=0.6, cmap="bone", vmin=-2.0, vmax=3.0, linewidths=0)
        _draw_rings(axis, extent_m)
        _draw_boxes(axis, boxes, extent_m)
        axis.set(xlim=(-extent_m, extent_m), ylim=(-extent_m, extent_m), aspect="equal", xticks=[], yticks=[])
        axis.set_title(label, color="white", fontsize=11)
    counts = [np.bincount(boxes.labels, minlength=len(class_names)) for _, boxes in found]
    handles = [
        Line2D([], [], color=class_color(i), label=f"{name} {' / '.join(str(count[i]) for count in counts)}")
        for i, name in enumerate(class_names)
    ]
    columns = min(len(handles), 8)
    figure.legend(handles=handles, loc="lower center", ncol=columns, frameon=False, labelcolor="white", fontsize=10)
    figure.suptitle(title, color="white", fontsize=12, y=0.99)
    figure.tight_layout(rect=(0, 0.04, 1, 0.985))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND, metadata={"Software": None})


def _draw_rings(axis: Axes, extent_m: float) -> None:
    from matplotlib.patches import Circle

    for radius in range(_RINGS_M, int(extent_m * 1.4) + 1, _RINGS_M):
        axis.add_patch(Circle((0, 0), radius, fill=False, edgecolor=_TEXT, linewidth=0.4, alpha=0.6))
        if radius < extent_m:
            axis.text(0.5, radius, f"{radius} m", color=_TEXT, fontsize=7, va="bottom")
    axis.plot([-1.0, 0.0, 1.0, 0.0, -1.0], [-1.4, 2.2, -1.4, -0.6, -1.4], color="white", linewidth=0.8)


def _draw_boxes(axis: Axes, boxes: Boxes3D, extent_m: float) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    boxes = boxes.select(np.abs(boxes.boxes[:, :2]).max(axis=1, initial=0.0) < extent_m)
    corners = box_corners(boxes)
    polygons = np.stack([-corners[..., 1], corners[..., 0]], axis=2)
    centers, fronts = polygons.mean(axis=1), (polygons[:, 0] + polygons[:, 3]) / 2
    colors = [class_color(int(label)) for label in boxes.labels]
    axis.add_collection(PolyCollection(list(polygons), facecolors="none", edgecolors=colors, linewidths=1.2))
    lines = np.stack([centers, fronts + (fronts - centers) * 0.35], axis=1)
    axis.add_collection(LineCollection(list(lines), colors=colors, linewidths=1.2))
    for polygon, score, color in zip(polygons, boxes.scores, colors, strict=True):
        right, top = polygon.max(axis=0)
        axis.text(right, top, f"{score:.2f}", color=color, fontsize=6, clip_on=True)
