"""The worst frames in the report: bird's-eye views as inline SVG over a raster of the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.bev import box_corners, png_data_uri, points_png
from eval.palette import COLORS
from eval.report.templating import render

if TYPE_CHECKING:
    from base.boxes import Boxes3D
    from eval.panels import BackendView, FramePanel

__all__ = ["view_svg", "worst_frames"]


def worst_frames(panels: Sequence[FramePanel]) -> str:
    """Bird's-eye views, worst frames first."""
    if not panels:
        return ""
    frames = []
    for index, panel in enumerate(panels):
        # Each picture is held once and used by all views of the frame.
        name = f"points-{index}"
        views = [
            {
                "label": view.label,
                "right": int(view.correct.sum()),
                "wrong": int((~view.correct).sum()),
                "missed": int((~view.found).sum()),
                "objects": len(view.found),
                "svg": view_svg(panel, view, f"#{name}"),
            }
            for view in panel.views
        ]
        image = png_data_uri(points_png(panel.points, panel.extent_m))
        frames.append({"token": panel.token, "name": name, "image": image, "extent_m": panel.extent_m, "views": views})
    return render("frames.html", frames=frames, colors=COLORS)


def view_svg(panel: FramePanel, view: BackendView, image: str) -> str:
    """One view as inline SVG, one unit a metre; styled by the classes gt-found, gt-missed, det-ok and det-bad.

    Args:
        panel: The frame.
        view: The backend.
        image: href of the points' picture: "#id" of an <image>, or a data URI.
    """
    truth, found, names = panel.ground_truth, view.detections, panel.class_names
    shapes = [
        *_shapes(truth.select(view.found), names, "gt-found", "ground truth"),
        *_shapes(truth.select(~view.found), names, "gt-missed", "missed"),
        *_shapes(found.select(view.correct), names, "det-ok", "detection", scored=True),
        *_shapes(found.select(~view.correct), names, "det-bad", "false detection", scored=True),
    ]
    rings = range(20, int(panel.extent_m) + 1, 20)
    return render("bev.svg", extent_m=panel.extent_m, image=image, rings=rings, shapes=shapes)


def _shapes(
    boxes: Boxes3D, names: Sequence[str], css: str, kind: str, scored: bool = False
) -> list[tuple[str, str, str, str]]:
    """(class, text, outline, line to the front) of every box."""
    shapes = []
    for index, polygon in enumerate(box_corners(boxes)):
        # A box is its outline and a line from the centre through the front; y of the picture is -x, x is -y.
        outline = " ".join(f"{-y:.2f},{-x:.2f}" for x, y in polygon)
        center, front = polygon.mean(axis=0), (polygon[0] + polygon[3]) / 2
        tip = front + (front - center) * 0.35
        score = f" {boxes.scores[index]:.2f}" if scored else ""
        line = f"M{-center[1]:.2f} {-center[0]:.2f}L{-tip[1]:.2f} {-tip[0]:.2f}"
        shapes.append((css, f"{kind}: {names[int(boxes.labels[index])]}{score}", outline, line))
    return shapes
